"""Imports are silent and cheap: what a person waits for before the first word loads no torch."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy.linalg", "sacrebleu")

RECIPE = """
import tunesmith, tempfile, pathlib
path = pathlib.Path(tempfile.mkdtemp(), "recipe.yaml")
path.write_text("model: some/model\\ndata: {train: rows.jsonl}\\n")
recipe = tunesmith.load_recipe(path, ["optim.lr=2e-5"])
assert recipe.optim.lr == 2e-5
"""

HELP = """
import contextlib, io
from tunesmith.app.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main(["--help"]) == 0
assert "demo" in out.getvalue()
"""


def loaded_by(code: str) -> set[str]:
    """Names of the heavy modules that are loaded after running `code` in a new interpreter."""
    report = f"\nimport sys; print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


# mutation tried: `import torch` at the top of run.py makes all three fail
@pytest.mark.parametrize("code", ["import tunesmith", RECIPE, HELP], ids=["door", "recipe", "help"])
def test_no_heavy_library_is_loaded_by(code: str) -> None:
    assert loaded_by(code) == set()


VERBS = [
    (0, ["check", "rows.jsonl"]),
    (2, ["check", "nothing.jsonl"]),
    (2, ["check", "nothing.jsonl", "--model", "MODEL"]),
    (2, ["check", "rows.jsonl", "--model", "./none"]),
    (2, ["stats", "nothing.jsonl", "--model", "MODEL"]),
    (2, ["show", "nothing.jsonl", "--model", "MODEL"]),
    (0, ["clean", "rows.jsonl", "--out", "cleaned"]),
    (2, ["clean", "nothing.jsonl", "--out", "cleaned"]),
    (0, ["convert", "rows.jsonl", "--to", "alpaca", "--out", "other.jsonl"]),
    (0, ["split", "rows.jsonl", "--validation", "2", "--out", "parts"]),
    (0, ["sample", "rows.jsonl", "--number", "9", "--out", "few.jsonl"]),
    (0, ["augment", "rows.jsonl", "--out", "more.jsonl"]),
]
DATA = """
import contextlib, io, json, os, sys, tempfile
from pathlib import Path
from tunesmith import bundled
from tunesmith.app.cli import main
os.chdir(tempfile.mkdtemp())
rows = [json.dumps({"prompt": f"What is {n} and one more?", "response": f"It is {n + 1}."}) for n in range(30)]
Path("rows.jsonl").write_text("\\n".join(rows))
for expected, words in VERBS:
    words = [str(Path(bundled.__file__).parent / "model") if word == "MODEL" else word for word in words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(["data", *words])
    assert code == expected, (words, code, errors.getvalue())
    assert not {"torch", "transformers"} & set(sys.modules), words
"""


# mutation tried: check that asks for the tokenizer of a model that is not there
def test_what_is_done_to_data_without_a_model_loads_no_heavy_library() -> None:
    assert loaded_by(f"VERBS = {VERBS}{DATA}") <= {"numpy.linalg", "tokenizers"}


def test_importing_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", "import tunesmith, tunesmith.run, tunesmith.app.cli"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_help_answers_within_a_second() -> None:
    def seconds() -> float:
        """Processor time: other work on the machine must not make a promise about our code fail."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "tunesmith", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1.0
