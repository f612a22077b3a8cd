"""Importing bitsandbytes fetches nothing, and leaves `kernels` to whoever uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KERNELS = """
from pathlib import Path
def get_kernel(name, **options):
    Path(__file__).with_name("asked").write_text(name)
    raise OSError("no network here")
"""
BITSANDBYTES = """
try:
    from kernels import get_kernel
    get_kernel("kernels-community/quantization-bitsandbytes", version=1)
except Exception:
    pass
"""


def run(code: str, place: Path) -> str:
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_needs_bitsandbytes_asks_no_hub_for_a_kernel(tmp_path: Path) -> None:
    # mutation tried: `_without` that lets it be imported
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "bitsandbytes.py").write_text(BITSANDBYTES)
    code = "import tunesmith.model.bitsandbytes_alone, bitsandbytes; import kernels; print(kernels.__name__)"
    assert run(code, tmp_path) == "kernels"
    assert not (tmp_path / "asked").exists()
    run("import bitsandbytes", tmp_path)
    assert (tmp_path / "asked").exists()  # and without us it does ask


def test_methods_are_built_with_it_on_board(tmp_path: Path) -> None:
    """The real one; it asks on processors with AVX512-BF16 only."""
    # mutation tried: build.py without its first import
    (tmp_path / "kernels.py").write_text(KERNELS)
    code = "import tunesmith.tuning.load, tunesmith.tuning.build, peft; print('bitsandbytes' in sys.modules)"
    assert run(code, tmp_path) == "True"
    assert not (tmp_path / "asked").exists()
