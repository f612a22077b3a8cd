"""Where the demo stands: its steps in order, what each found, and the curtain between them.

open -> close("1,204 rows, all readable") -> open -> ... -> document(): the card
"""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from tunesmith import bundled
from tunesmith.app.progress import Screen
from tunesmith.app.render import base
from tunesmith.app.render import demo as pages
from tunesmith.errors import FolderError
from tunesmith.events import Event, Finished, Started, Stepped
from tunesmith.folder import RunFolder, write_atomically

Step = tuple[str, str]


class CheckFailed(Exception):
    """A step's check does not hold."""


@dataclass
class Stage:
    """Shows the steps and remembers what they found."""

    steps: Sequence[Step]
    silent: bool
    done: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    opened: float = 0.0

    def say(self, what: RenderableType) -> None:
        """Show a part of the story; nothing with --json."""
        if not self.silent:
            base.console().print(what)

    def open(self) -> None:
        """Begin the next step."""
        self.opened = time.perf_counter()
        if len(self.done) < len(self.steps):
            self.say(pages.step(len(self.done) + 1, *self.steps[len(self.done)]))

    def close(self, note: str, passed: bool = True) -> None:
        """End the step with what it found, and open the next. Raises CheckFailed where it did not hold."""
        name, _ = self.steps[len(self.done)]
        seconds = time.perf_counter() - self.opened
        self.done.append({"name": name, "passed": passed, "note": note, "seconds": seconds})
        self.say(pages.verdict(passed, note))
        if not passed:
            raise CheckFailed(note)
        self.open()

    def document(self) -> dict[str, Any]:
        """The card as data. A step that was not reached has `passed: null`."""
        missing = [
            {"name": name, "passed": None, "note": "not reached", "seconds": None}
            for name, _ in self.steps[len(self.done) :]
        ]
        return {
            "passed": not missing and all(step["passed"] for step in self.done),
            "seconds": time.perf_counter() - self.began,
            "peak_bytes": peak_bytes(),
            "steps": self.done + missing,
        }


class Curtain:
    """A reporter that closes one step and opens the next where training starts, and where it ends."""

    def __init__(self, screen: Screen, stage: Stage, run: RunFolder) -> None:
        self.screen, self.stage, self.run = screen, stage, run
        self.steps: int | None = None
        self.losses: list[float] = []
        self.trained = False

    def event(self, event: Event) -> None:
        """Started is the end of the evaluation before; the last step is the end of training."""
        if isinstance(event, Started):
            self.steps = event.steps
            self.screen.aside(lambda: self.stage.close(*said_before(self.run)))
        self.screen.event(event)
        if isinstance(event, Stepped):
            self.losses.append(event.loss_nats)
            self.trained = event.step == self.steps
        if isinstance(event, Finished) and event.status != "interrupted" and self.steps is not None:
            self._end_training()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """The first work after the last step is the evaluation after training."""
        if self.trained:
            self._end_training()
        self.screen.progress(what, done, total)

    def _end_training(self) -> None:
        steps, self.steps, self.trained = self.steps, None, False
        if steps is not None:
            self.screen.settle()
            self.screen.aside(lambda: self.stage.close(*said_of_training(self.losses)))


def said_of_training(losses: Sequence[float]) -> tuple[str, bool]:
    """Steps and the way of the loss; it must be finite throughout, and fall."""
    few = max(1, min(5, len(losses) // 2))
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    finite = all(math.isfinite(loss) for loss in losses)
    words = f"{len(losses)} steps, loss {base.number(first)} → {base.number(last)}"
    return (words if finite else f"{words}, not always finite"), finite and last < first


def said_before(run: RunFolder) -> tuple[str, bool]:
    """What the evaluation before training found, from what the run keeps of it."""
    kept = run.answers / "before.json"
    tasks = json.loads(kept.read_text(encoding="utf-8"))["scores"]["tasks"] if kept.is_file() else {}
    return values(tasks), all(task["n"] for task in tasks.values())


def values(tasks: dict[str, Any]) -> str:
    """Tasks in a line: desk 0.000 (200), general 0.910 (120)."""
    parts = [f"{name} {base.number(task['value'])} of {task['n']}" for name, task in tasks.items()]
    return ", ".join(parts) or "measured"


def clear(run: Path) -> None:
    """Make way for a new demo. Only a demo's own folder is ever removed."""
    if run.is_symlink() or (run.exists() and not run.is_dir()):
        raise FolderError.at(str(run), "is in the way of the demo", "move it away")
    if not run.is_dir():
        return
    folder = RunFolder(run)
    known = {path.name for path in known_paths(folder)}
    strangers = sorted(p.name for p in run.iterdir() if p.name not in known and not p.name.startswith("."))
    if strangers:
        what = f"holds what no demo wrote: {', '.join(strangers[:5])}"
        raise FolderError.at(str(run), what, "move it away; the demo replaces its own folder only")
    if folder.is_locked():
        raise FolderError.at(
            str(run), "another demo is running here", "wait for it, or work in another folder"
        )
    shutil.rmtree(run)


def known_paths(folder: RunFolder) -> tuple[Path, ...]:
    """Everything a run may hold."""
    names = ("recipe", "plan", "environment", "ledger", "ledger_rows", "events", "checkpoints", "adapter")
    more = ("model", "report", "report_text", "answers")
    return (*(getattr(folder, name) for name in names + more), folder.export("merged").parent)


def recipe_text() -> str:
    """The bundled recipe with full paths, so that it can be run from anywhere."""
    text = bundled.path("recipes/demo.yaml").read_text(encoding="utf-8")

    def full(found: re.Match[str]) -> str:
        return json.dumps(str(bundled.path(found[1])), ensure_ascii=False)

    return re.sub(r"(?<=: )((?:model|data)(?:/[\w.-]+)?)(?=[,}\s])", full, text)


def write_recipe(place: Path) -> None:
    """The same as a file."""
    write_atomically(place, recipe_text())


def peak_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
