"""The process a run lives in: determinism, threads, memory, and signals that ask it to stop."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import torch

GRACE_SECONDS = 5.0
"""After SIGTERM or SIGHUP a step may take so long to end; then it is let go of. Kill -9 follows after 10 to 90."""


def seed_everything(seed: int, deterministic: bool) -> None:
    """One seed for torch on every device; algorithms that always give the same bits where asked.

    On CUDA that takes all of these: cuBLAS with a fixed workspace, cuDNN without trying out what is fastest today,
    and an error (not a warning) from each operation that has no deterministic form.
    """
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
    torch.use_deterministic_algorithms(deterministic)
    # it would write NaN into all new memory, against somebody who reads it first; tests do, and run with it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False  # measures, and may choose otherwise tomorrow


def random_state() -> dict[str, torch.Tensor]:
    """The state of every generator that training draws from: of the processor, and of the card."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put it back; a run that goes on without a card has nothing to draw there."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def environment() -> dict[str, Any]:
    """What bit-exact resume depends on beside recipe and data."""
    return {
        "tunesmith": metadata.version("tunesmith"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "peft": metadata.version("peft"),
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


def free_bytes() -> int | None:
    """Memory of the machine that this process may still take; None where nobody says."""
    found = [_field("/proc/meminfo", "MemAvailable")]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(limit - used)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    size = _field("/proc/self/status", "VmSize")
    if space != resource.RLIM_INFINITY and size is not None:
        found.append(space - size)
    return min((value for value in found if value is not None), default=None)


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _field(path: str, name: str) -> int | None:
    """`MemAvailable:  1024 kB` -> 1048576."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


class LetGo(Exception):
    """A step or an evaluation is given up half way, because there is no time left; nothing of it counts."""


def say_at_once(words: str) -> None:
    """A line on standard error, from within a signal handler: nothing is buffered, nothing is raised."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{words}\n".encode())


class StopRequest:
    """Whether a signal asked to stop; `reason` names it."""

    def __init__(self, tell: Callable[[str], None] = say_at_once, saves: bool = True) -> None:
        self.reason: str | None = None
        self._saves = saves
        self._hurry_from: float | None = None
        self._tell = tell

    def ask(self, number: int) -> None:
        """The first signal asks; a second one stops where it stands. Checkpoints are whole or absent either way."""
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            then = "finished, then the run is saved" if self._saves else "the last"
            self._tell(f"stopping: this step is {then}; Ctrl-C again stops at once")
        else:
            self._hurry_from = time.monotonic() + GRACE_SECONDS
            self._tell(f"{self.reason}: {'the run is saved, and stops' if self._saves else 'stopping'}")

    def breathe(self) -> None:
        """Asked between micro-batches. Raises LetGo when the time to end in good order is over."""
        if self._hurry_from is not None and time.monotonic() >= self._hurry_from:
            raise LetGo


@contextlib.contextmanager
def stop_on_signals(tell: Callable[[str], None] = say_at_once, saves: bool = True) -> Iterator[StopRequest]:
    """Within: the first Ctrl-C, SIGTERM or SIGHUP asks to stop after the step; the second stops at once.

    `saves`: whether the run is kept then, which a person is told.
    """
    request = StopRequest(tell, saves)

    def ask(number: int, _: FrameType | None) -> None:
        request.ask(number)

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # only the main thread may take signals
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` keeps its meaning
                before[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
