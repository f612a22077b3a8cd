"""A process of its own for one tracker: python -m tunesmith.tracking RUN NAME [DESCRIPTOR].

DESCRIPTOR is a pipe that closes when the training process is done, or dead. Without it: what is there, once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tunesmith.folder import RunFolder
from tunesmith.tracking.follow import follow

SECONDS = 1.0


def main(words: list[str]) -> int:
    """Returns the exit code; the last line on standard error says what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training; its end is ours
    os.nice(5)  # the training goes first
    run, name = RunFolder(Path(words[0])), words[1]
    try:
        follow(run, name, _until_closed(int(words[2])) if len(words) > 2 else lambda: False)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        print(f"{type(error).__name__}: {first}", file=sys.stderr)
        return 1
    return 0


def _until_closed(descriptor: int) -> Callable[[], bool]:
    """Pauses a moment; False once the other end of the pipe is closed."""
    return lambda: not select.select([descriptor], [], [], SECONDS)[0]


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a library's threads must not keep a process whose work is done
