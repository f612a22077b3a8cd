"""Train a recipe in a process of its own: its memory is measured by itself, and its failure is its own.

parent waits            Ctrl-C or SIGTERM is passed on once; the run saves after its step and can be resumed
parent killed           Linux tells the run to stop as well
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
from pathlib import Path

from tunesmith.errors import Problem
from tunesmith.events import Reporter

INTERRUPTED = 130
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def train_apart(recipe: Path, resume: bool, reporter: Reporter) -> list[Problem]:
    """Run `tunesmith train` to its end; the problems it ended with, none where it did well or was interrupted."""
    words = [
        sys.executable,
        "-m",
        "tunesmith",
        "train",
        str(recipe),
        "--json",
        *(["--resume"] if resume else []),
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_stop_with_parent
    )
    try:
        told, _ = process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.communicate()
        raise
    if process.returncode in (0, INTERRUPTED):
        return []
    return _problems(told, recipe, process.returncode)


def _problems(told: str, recipe: Path, code: int) -> list[Problem]:
    try:
        return [Problem(**problem) for problem in json.loads(told)["error"]["problems"]]
    except (ValueError, KeyError, TypeError):
        return [Problem(str(recipe), f"its process ended with {code}", f"see: tunesmith train {recipe}")]


def _stop_with_parent() -> None:
    """In the child: ask Linux for SIGTERM when the parent dies, however it dies."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)
