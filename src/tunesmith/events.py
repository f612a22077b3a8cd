"""What happens in a run, as data: one line of events.jsonl each, the one wire to CLI, web and trackers.

engine -> Reporter.event(Stepped(...)) -> {"kind": "stepped", "time": ..., ...} -> progress bar, events.jsonl
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Protocol

from tunesmith.redact import redact

MOST_WAITING = 10_000
"""Lines kept in memory while the disk takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The loop begins (or goes on) at `step`; `steps` is the whole run. `stage` names one of several."""

    kind: ClassVar[str] = "started"
    time: float = field(default_factory=time.time)
    step: int
    steps: int
    resumed_from: str | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One optimiser step. seconds, tokens and targets are of this step alone; loss is the weighted mean, in nats."""

    kind: ClassVar[str] = "stepped"
    time: float = field(default_factory=time.time)
    step: int
    loss_nats: float
    grad_norm: float
    lr: float
    targets: int
    tokens: int
    seconds: float
    peak_bytes: int
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Held-out loss after `step`, and before training; `best` says whether it is the lowest since."""

    kind: ClassVar[str] = "evaluated"
    time: float = field(default_factory=time.time)
    step: int
    loss_nats: float
    before_nats: float | None = None
    targets: int
    seconds: float
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint was committed."""

    kind: ClassVar[str] = "saved"
    time: float = field(default_factory=time.time)
    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """The engine met a fault and went on: a skipped step, a smaller micro-batch, an older checkpoint.

    `rows` that were in it, the strangest first; `texts`: the words of the first few of them.
    """

    kind: ClassVar[str] = "rescued"
    time: float = field(default_factory=time.time)
    step: int
    reason: str
    action: str
    rows: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The run ended with an error, in `step`: 0 before the first."""

    kind: ClassVar[str] = "failed"
    time: float = field(default_factory=time.time)
    step: int
    code: str
    problems: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run ended; status is done, stopped or interrupted."""

    kind: ClassVar[str] = "finished"
    time: float = field(default_factory=time.time)
    step: int
    status: str
    seconds: float


Event = Started | Stepped | Evaluated | Saved | Rescued | Failed | Finished


class Reporter(Protocol):
    """Who is told: a file, a terminal, nobody. Methods must return fast and never raise."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` units of `what`; total is None while unknown; done == total ends it."""


class Silent:
    """Nobody is told."""

    def event(self, event: Event) -> None:
        """Ignore."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Write each event to events.jsonl, then pass it on. A disk that refuses costs no step: lines wait in memory."""

    path: Path
    listener: Reporter
    _waiting: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def event(self, event: Event) -> None:
        """Append one line, whole, and tell the listener. What a library said may hold a secret: not any more."""
        event = _without_secrets(event)
        with self._lock:  # whoever watches for stalls speaks from a thread of its own
            refused = self._write(_line(event))
        if refused is not None:
            action = "the run goes on; its events wait in memory"
            self.listener.event(Rescued(step=event.step, reason=f"{self.path}: {refused}", action=action))
        self.listener.event(event)

    def _write(self, line: str) -> str | None:
        """Append what waits and this line; words where the disk refuses for the first time."""
        first = not self._waiting
        self._waiting.append(line)
        try:
            _append(self.path, "".join(self._waiting))
        except OSError as error:
            del self._waiting[:-MOST_WAITING]
            return (error.strerror or str(error)) if first else None
        self._waiting.clear()
        return None

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Progress is for people; it is not recorded."""
        self.listener.progress(what, done, total)


def _without_secrets(event: Event) -> Event:
    match event:
        case Rescued():
            return replace(event, reason=redact(event.reason), action=redact(event.action))
        case Failed():
            told = tuple({key: redact(text) for key, text in each.items()} for each in event.problems)
            return replace(event, problems=told)
        case _:
            return event


def to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object; a number that is not finite becomes null."""
    values = {f.name: getattr(event, f.name) for f in fields(event)}
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return {"kind": event.kind, **clean}


def append(path: Path, event: Event) -> None:
    """Append the event as one line; a single write, so a reader never sees half of a line from us."""
    _append(path, _line(event))


def _line(event: Event) -> str:
    return json.dumps(to_json(event), ensure_ascii=False, allow_nan=False) + "\n"


def _append(path: Path, text: str) -> None:
    """All of the text or none of it: what a full disk took of it is cut off again, and so is a line torn by a kill."""
    with open(path, "ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and _last_byte(file, end) != b"\n":
            text = "\n" + text
        data = text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def _last_byte(file: io.FileIO, end: int) -> bytes:
    file.seek(end - 1)
    return file.read(1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Each event of a file, oldest first; a torn last line (killed while writing) is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value
