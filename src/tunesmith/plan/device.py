"""What this machine is: processor or accelerator, its memory, and whether bf16 is fast on it. No torch.

nvidia-smi, and a torch that can use it -> cuda     else -> cpu, memory within the container's limit
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
FAST_BF16 = "TUNESMITH_FAST_BF16"
"""0 or 1: whether bf16 is fast on this processor; unset, its flags decide."""
# Matrix units, and vectors that multiply bf16: on a Zen 5, which has these alone, LoRA is 1.4 times as quick as in fp32
# at 256 numbers a token, 1.5 at 384, 1.7 at 768.
FAST_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
# Beside the products bf16 gains nothing: numbers are widened, and made narrow again (docs/log.md).
BF16_FROM = 384
_FIRST_CAPABILITY_WITH_BF16 = 8.0  # Ampere


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run computes. bf16 says whether it has fast bf16 matrix units."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int
    bf16: bool

    def precision(self, hidden_size: int) -> Literal["fp32", "bf16"]:
        """What `auto` becomes for a model so wide: bf16 where it is the quicker."""
        wide = self.kind == "cuda" or hidden_size >= BF16_FROM
        return "bf16" if self.bf16 and wide else "fp32"


@lru_cache(maxsize=1)
def find_device() -> Device:
    """The accelerator, if there is one that the installed torch can use; else the processor."""
    return _cuda() or _cpu()


def _cuda() -> Device | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if (visible is not None and visible.strip() in ("", "-1")) or not _torch_has_cuda():
        return None
    chosen = (visible or "0").split(",")[0].strip()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([*query, f"--id={chosen}"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = done.stdout.strip().splitlines()[:1]
    return _parse_nvidia(line[0]) if done.returncode == 0 and line else None


def _parse_nvidia(line: str) -> Device | None:
    """`NVIDIA H200, 143771, 9.0` -> Device; None when a field is missing (an old driver, a shared card)."""
    try:
        name, mebibytes, capability = (part.strip() for part in line.rsplit(",", 2))
        return Device("cuda", name, int(mebibytes) * 2**20, float(capability) >= _FIRST_CAPABILITY_WITH_BF16)
    except ValueError:
        return None


def _torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, by its version alone: 2.13.0+cpu was not."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    local = version.partition("+")[2]
    return local.startswith("cu") or (local == "" and platform.system() == "Linux")


def _cpu() -> Device:
    lines = _lines(PROC / "cpuinfo")
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    told = os.environ.get(FAST_BF16)  # what somebody measured here, or a test wants everywhere
    fast = told == "1" if told else not FAST_FLAGS.isdisjoint(flags)
    return Device("cpu", name or platform.processor() or platform.machine(), _memory(), fast)


def _memory() -> int:
    """Memory this process may use: the machine's, or less where a container sets a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        int(text)
        for file in ("memory.max", "memory/memory.limit_in_bytes")
        for text in _lines(CGROUP / file)[:1]
        if text.isdigit()
    ]
    return min([total, *limits])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
