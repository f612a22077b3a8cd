"""The process `tunesmith`: `python -m tunesmith` and the installed command. Loads nothing but the error tree by itself.

here until the libraries are loaded: a signal ends it     cli.main: a signal stops the verb     after: it is leaving
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = 130


def main() -> int:
    """Run the command in this process; returns its exit code, 130 from the first moment to the last."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # nohup
    for number in ours:
        signal.signal(number, _leave)
    from tunesmith.app.cli import main as work

    for number in ours:
        signal.signal(number, before[number])
    code = work()
    for number in ours:  # the verb has ended: nothing is left to be stopped, and its exit code is known
        signal.signal(number, signal.SIG_IGN)
    # An interrupt within exec() of a text (dataclasses, NamedTuple) leaves a mark in CPython, caught or not, by which
    # `python -m` would end as if killed by SIGINT; running a text takes it away (pythonrun.c, run_eval_code_obj).
    exec("")
    return code


def _leave(number: int, frame: FrameType | None) -> None:
    """Nothing has begun. An exception here would end in the traceback of somebody's import."""
    import json

    from tunesmith.errors import Interrupted, Problem

    what = f"stopped by {signal.Signals(number).name} before anything began"
    if "--json" in sys.argv:
        os.write(1, json.dumps(Interrupted([Problem("", what, "")]).to_json()).encode() + b"\n")
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(2, f"\n! {what}\n".encode())
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main())
