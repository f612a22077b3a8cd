"""A watch on signs of life: who has been silent for too long is named, with the line of code where it stands.

loop: beat, beat, beat, ...        silence -> [rescued] "no sign of life for 10 min while saving; at store.py:57 ..."
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.events import Reporter, Rescued

FRAMES = 3


class Pulse:
    """When the loop was last heard of, and what it was about to do."""

    def __init__(self) -> None:
        self.at, self.what, self.step = time.monotonic(), "starting", 0

    def beat(self, what: str, step: int | None = None) -> None:
        """A sign of life."""
        self.at, self.what = time.monotonic(), what
        if step is not None:
            self.step = step


@contextmanager
def watched(minutes: float | None, reporter: Reporter) -> Iterator[Pulse]:
    """Within: a silence of `minutes` is told, once each time. The run itself is never touched: it may go on."""
    pulse = Pulse()
    if minutes is None:
        yield pulse
        return
    ended = threading.Event()
    own = threading.get_ident()

    def watch(limit: float) -> None:
        told_of = 0.0
        while not ended.wait(
            max(0.01, pulse.at + limit - time.monotonic() if pulse.at != told_of else limit)
        ):
            silent = time.monotonic() - pulse.at
            if silent >= limit and pulse.at != told_of:
                told_of = pulse.at
                reporter.event(_said(pulse, silent, own))

    thread = threading.Thread(target=watch, args=(60 * minutes,), name="stall", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        ended.set()
        thread.join()


def _said(pulse: Pulse, silent: float, thread: int) -> Rescued:
    reason = f"no sign of life for {_words(silent)} while {pulse.what}"
    return Rescued(
        step=pulse.step, reason=reason, action=f"it waits at {_place(thread)}; the run goes on by itself"
    )


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _place(thread: int) -> str:
    """The innermost lines of a thread: store.py:57 save < loop.py:133 _save."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "an unknown place"
    calls = traceback.extract_stack(frame)[-FRAMES:]
    return " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in reversed(calls))
