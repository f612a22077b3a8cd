"""What this machine can do: versions, device, disk, access. Each finding says what it costs and what helps.

diagnose() -> {"ok": true, "checks": [{"name", "status": "good|warn|bad|quiet", "value", "fix"}], "extras": [...],
               "matrices": {"fp32_flops", "bf16_flops", "bf16_is_fast", ...}}
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

from tunesmith.app import matrices
from tunesmith.app.extras import extras
from tunesmith.app.matrices import Rates

GIB = 2**30
NEEDED = ("torch", "transformers", "peft", "tokenizers", "safetensors", "pydantic", "sacrebleu")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. quiet: worth knowing; warn: works, at a cost; bad: something will fail."""

    name: str
    status: Literal["good", "warn", "bad", "quiet"]
    value: str
    fix: str = ""


def diagnose(quick: bool = False) -> dict[str, Any]:
    """Every check of this machine. `ok` is false when one of them will make runs fail.

    quick: without the test of the matrix units, which takes some ten seconds.
    """
    checks = [check for look in CHECKS for check in look()]
    rates = None if quick or importlib.util.find_spec("torch") is None else matrices.measure()
    if rates is not None:
        checks += _speed(rates)
    return {
        "ok": all(check.status != "bad" for check in checks),
        "checks": [asdict(check) for check in checks],
        "extras": extras(),
        "matrices": None if rates is None else rates.to_json(),
    }


def _speed(rates: Rates) -> Iterator[Check]:
    """What the test of the matrix units found, and whether `precision: auto` will choose well."""
    from tunesmith.plan.device import find_device

    words = f"fp32 {rates.fp32 / 1e9:,.0f}, bf16 {rates.bf16 / 1e9:,.0f} billion operations a second"
    times = f" ({rates.bf16 / rates.fp32:.1f} times)" if rates.fp32 else ""
    verdict = "bf16 pays here" if rates.bf16_is_fast else "bf16 does not pay here"
    believed = find_device().bf16
    if believed == rates.bf16_is_fast:
        yield Check("matrix units", "good", f"{words}{times}: {verdict}")
        return
    chosen, better = ("bf16", "fp32") if believed else ("fp32", "bf16")
    fix = f"precision: auto takes {chosen}; try compute.precision={better}, and measure again on a quiet machine"
    yield Check("matrix units", "warn", f"{words}{times}: {verdict}", fix)


def python() -> Iterator[Check]:
    """The interpreter and the system."""
    good = sys.version_info >= (3, 11)
    yield Check(
        "python",
        "good" if good else "bad",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if good else "Tunesmith needs Python 3.11 or newer",
    )


def packages() -> Iterator[Check]:
    """The libraries it stands on."""
    found, missing = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("libraries", "good" if found else "bad", ", ".join(found))
    if missing:
        yield Check("missing", "bad", ", ".join(missing), f"pip install {' '.join(missing)}")


def device() -> Iterator[Check]:
    """Where it would train, and with which numbers."""
    from tunesmith.plan.device import BF16_FROM, find_device

    found = find_device()
    fast = "fast here" if found.kind == "cuda" else f"fast here; models narrower than {BF16_FROM} use fp32"
    yield Check("device", "good", f"{found.kind}: {found.name}, {found.memory_bytes / GIB:.1f} GiB")
    if found.kind == "cpu":
        yield Check("cores", "quiet", f"{_cores()} usable")
    if found.bf16:
        yield Check("bf16", "good", fast)
    else:
        yield Check("bf16", "quiet", "not fast here; runs use fp32")


def torch_and_gpu() -> Iterator[Check]:
    """Whether this torch can use the GPU that is there."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        yield Check("cuda", "good", f"{torch.version.cuda}, {torch.cuda.device_count()} device(s)")
        free, total = torch.cuda.mem_get_info()
        yield Check("gpu memory", "quiet", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free now")
    elif shutil.which("nvidia-smi"):
        yield Check(
            "cuda",
            "warn",
            f"an NVIDIA driver is installed, but torch {torch.__version__} cannot use the GPU",
            "install a torch built for CUDA: see https://pytorch.org/get-started/locally",
        )


def driver() -> Iterator[Check]:
    """The NVIDIA driver, where there is one."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return
    version = done.stdout.strip().splitlines()[:1]
    if done.returncode == 0 and version:
        yield Check("driver", "good", f"NVIDIA {version[0]}")
    else:
        yield Check("driver", "warn", "nvidia-smi is there, but gives no answer", "install the driver again")


def memory() -> Iterator[Check]:
    """Main memory: what there is, and what is free of it now."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    size = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    free, total = size.get("MemAvailable", 0), size.get("MemTotal", 0)
    low = free < 2 * GIB
    fix = "close something: a run of the smallest model needs about 1 GiB" if low else ""
    yield Check(
        "memory", "warn" if low else "good", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free now", fix
    )


def disk() -> Iterator[Check]:
    """Room for runs here."""
    place = Path("runs") if Path("runs").is_dir() else Path(".")
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    status: Literal["good", "warn", "bad"] = (
        "good" if free > 5 * GIB else "warn" if free > GIB // 2 else "bad"
    )
    fix = "" if status == "good" else "checkpoints need about 12 bytes a trained parameter, each"
    yield Check("disk", status, f"{free / GIB:.1f} GiB free for {place.resolve()}", fix)
    if not writable:
        yield Check("runs folder", "bad", f"{place.resolve()} is not writable", "work in a folder of yours")


def hub() -> Iterator[Check]:
    """How models of the hub are reached; a token is never shown."""
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    yield Check(
        "model hub", "quiet", "offline (HF_HUB_OFFLINE)" if offline else "online when a hub id is named"
    )
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    has_token = bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()
    yield Check("hub token", "quiet", "set" if has_token else "none; gated models need one (HF_TOKEN)")


def bundled() -> Iterator[Check]:
    """The model and data of the demo are there."""
    model = resources.files("tunesmith.bundled") / "model" / "config.json"
    there = model.is_file()
    yield Check(
        "bundled model",
        "good" if there else "bad",
        "there; try: tunesmith demo" if there else "not found",
        "" if there else "install tunesmith again",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    python,
    packages,
    device,
    driver,
    torch_and_gpu,
    memory,
    disk,
    hub,
    bundled,
)
