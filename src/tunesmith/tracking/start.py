"""Start a process for each tracker beside the training, and end them with it; their faults are warnings.

training --events.jsonl--> follower (own process, lower priority) --> tensorboard, wandb, ...
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from tunesmith.errors import Problem, RecipeError
from tunesmith.events import Reporter, Rescued
from tunesmith.folder import RunFolder

PATIENCE_SECONDS = 60.0
"""After the training a tracker may still send for so long; then it goes on alone."""

INSTALL = "pip install 'tunesmith[track]'"


def require(names: Sequence[str]) -> None:
    """Raise RecipeError, naming the install command, for trackers whose package is not installed."""
    missing = [name for name in names if not _installed(name)]
    if missing:
        raise RecipeError(
            [
                Problem("track", f"{name} is not installed", f"{INSTALL}, or pip install {name}")
                for name in missing
            ]
        )


def _installed(name: str) -> bool:
    """A package with code; a folder ./wandb/ of earlier runs is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


@contextlib.contextmanager
def following(names: Sequence[str], run: RunFolder, reporter: Reporter) -> Iterator[None]:
    """While inside, each tracker follows the run from its own process. Nothing of theirs is ever raised."""
    if not names:
        yield
        return
    reading, writing = os.pipe()
    started = {name: _start(name, run, reading, reporter) for name in dict.fromkeys(names)}
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for name, process in started.items():
            if process is not None:
                _end(name, process, run, deadline, reporter)


def _start(name: str, run: RunFolder, reading: int, reporter: Reporter) -> subprocess.Popen[bytes] | None:
    try:
        run.tracking.mkdir(exist_ok=True)
        with open(run.tracking / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "tunesmith.tracking", str(run.path), name, str(reading)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[reading],
                start_new_session=True,
            )
    except OSError as error:
        _warn(name, f"cannot be started: {error}", run, reporter)
        return None


def _end(
    name: str, process: subprocess.Popen[bytes], run: RunFolder, deadline: float, reporter: Reporter
) -> None:
    """Wait for the last words; a tracker that failed or lingers is a warning."""
    try:
        code = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _warn(name, "is still sending, and is left to it", run, reporter)
        return
    if code != 0:
        _warn(name, f"failed: {_last_words(run, name)}", run, reporter)


def _last_words(run: RunFolder, name: str) -> str:
    try:
        lines = (
            (run.tracking / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        )
    except OSError:
        return "it left no words"
    return lines[-1][:300] if lines else "it left no words"


def _warn(name: str, what: str, run: RunFolder, reporter: Reporter) -> None:
    """The run is whole without it: told as something the engine went on from, not kept among its events."""
    again = f"the run is whole; send it later: {sys.executable} -m tunesmith.tracking {run.path} {name}"
    with contextlib.suppress(Exception):
        reporter.event(Rescued(step=0, reason=f"tracker {name} {what}", action=again))
