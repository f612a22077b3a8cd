"""The process a run lives in: determinism, threads, memory peak, and signals that ask it to stop."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch


def seed_everything(seed: int, deterministic: bool) -> None:
    """One seed for torch on every device; algorithms that always give the same bits where asked."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
    torch.use_deterministic_algorithms(deterministic)


def environment() -> dict[str, Any]:
    """What bit-exact resume depends on beside recipe and data."""
    import peft
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def peak_bytes() -> int:
    """Most memory held so far: of the device on CUDA, of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class StopRequest:
    """Whether a signal asked to stop; `reason` names it."""

    def __init__(self) -> None:
        self.reason: str | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within: the first Ctrl-C, SIGTERM or SIGHUP asks to stop after the step; the second stops at once."""
    request = StopRequest()

    def ask(number: int, _: FrameType | None) -> None:
        if request.reason is not None:
            raise KeyboardInterrupt
        request.reason = signal.Signals(number).name

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # only the main thread may take signals
            before[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
