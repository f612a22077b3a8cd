"""Ends work that computes for too long, in whichever thread it runs: one thread looks at the clocks of the others.

with limited:  template.render(...)         a loop without an end  ->  TookTooLong, after a second of its computing
"""

from __future__ import annotations

import ctypes
import os
import threading
import time

SECONDS = 1.0  # of the processor
# On a machine that is busy with other things the clock on the wall counts too; a paused process computes nothing.
_WALL, _SOME = 2.0, 0.25
_EVERY = 0.1


class TookTooLong(BaseException):
    """Raised inside the work from outside; no `except Exception` holds it up."""


class _Watchdog:
    """Knows who works since when. `with` it: raises TookTooLong where the block computes for too long; not nested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: dict[int, float] = {}
        self._ended: set[int] = set()
        self._watches = False

    def __enter__(self) -> None:
        if not self._watches:
            self._start()
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        self._ended.discard(thread)  # what was thrown last may have hit `__exit__` itself

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._began.pop(thread, None)
            ended = thread in self._ended
            self._ended.discard(thread)
        if ended:
            _take(thread)

    def _start(self) -> None:
        with self._lock:
            if not self._watches:
                self._watches = True
                threading.Thread(target=self._watch, name="template watchdog", daemon=True).start()

    def _watch(self) -> None:
        seen: dict[int, tuple[float, float]] = {}  # when it began, and what it had computed when first seen
        while True:
            time.sleep(_EVERY)
            with self._lock:  # nobody leaves meanwhile, so every thread here is alive
                # what was thrown may have hit its thread on the way out: whoever was ended is left alone
                now = [item for item in self._began.items() if item[0] not in self._ended]
                for thread, began in now:
                    computed = _computed(thread)
                    known = seen.get(thread)
                    if known is None or known[0] != began:
                        seen[thread] = began, computed
                    elif _is_late(computed - known[1], began):
                        self._ended.add(thread)
                        _throw(thread)
                seen = {thread: seen[thread] for thread, _ in now}


def _computed(thread: int) -> float:
    """Seconds that a living thread has had the processor; of the wall's clock where a system does not tell."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.monotonic()


def _is_late(spent: float, began: float) -> bool:
    return spent > SECONDS or (spent > _SOME and time.monotonic() - began > _WALL)


def _throw(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TookTooLong))


def _take(thread: int) -> None:
    """Have what was thrown at this thread arrive here, in case it has not yet.

    Nothing tells whether it has, so it is thrown once more: only one can be under way. Taking it back (CPython's NULL)
    would leave the interpreter's flag up: 3.12 loops at two thirds of its speed from then on, and 3.11 hangs in the
    first function that is traced, by a debugger or for coverage.
    """
    try:
        _throw(thread)
        for _ in range(1000):  # it arrives at the first turn
            time.sleep(0)
    except TookTooLong:
        pass


limited = _Watchdog()
# The thread does not survive a fork, and its lock may be held for ever.
os.register_at_fork(after_in_child=limited.__init__)  # type: ignore[misc]
