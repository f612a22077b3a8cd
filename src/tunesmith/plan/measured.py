"""How far off the forecast was: a table that comes with the package, and every run made here since.

measured.json (bench --memory, dated)  +  ~/.cache/tunesmith/measured.jsonl (a line a run)  ->  the error a plan states
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from tunesmith.folder import cache_root

PACKAGED = Path(__file__).with_name("measured.json")
FILE = "measured.jsonl"
# So many of the newest lines are read; a file grown beyond twice as many bytes is begun anew.
MOST_LINES, MOST_BYTES = 1000, 1 << 20
# Rows of this very device count alone once there are so many.
ENOUGH = 10
# Where nothing was measured on a kind of device.
UNMEASURED: Mapping[str, float] = {"cpu": 0.15, "cuda": 0.25}
LEAST = 0.01
SHORTEST_SECONDS = 3.0
COVERED = 0.95
# What the time of a plan and of a report counts (plan/timing.py); rows that counted something else say nothing.
COUNTED = "steps, evaluations between them, copies of what is saved, frozen layers once"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: bytes of tensors, where they were measured, and of all memory."""

    kind: str
    device: str
    what: str
    predicted_bytes: int
    measured_bytes: int
    predicted_allocated: int | None = None
    measured_allocated: int | None = None

    @property
    def error(self) -> float:
        """Of all memory."""
        return self.predicted_bytes / self.measured_bytes - 1

    @property
    def allocated_error(self) -> float | None:
        """Of tensors."""
        if not self.predicted_allocated or not self.measured_allocated:
            return None
        return self.predicted_allocated / self.measured_allocated - 1


@dataclass(frozen=True, slots=True)
class Stated:
    """The error that 19 of 20 rows stay within, of all memory and of tensors, and how many rows say so."""

    share: float
    allocated_share: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One comparison of a run's time: of what `counts` names, and of nothing else."""

    kind: str
    device: str
    what: str
    predicted_seconds: float
    measured_seconds: float
    counts: str = COUNTED

    @property
    def times(self) -> float:
        """How many times as long as forecast."""
        return self.measured_seconds / self.predicted_seconds


@dataclass(frozen=True, slots=True)
class StatedTime:
    """Between which multiples of their forecast 19 of 20 runs ended, and how many runs say so."""

    low: float
    high: float
    rows: int


R = TypeVar("R", Row, TimeRow)


def record(row: Row | TimeRow) -> None:
    """Add a row to what was measured here. A place that cannot be written is no reason to fail a run."""
    try:
        file = cache_root() / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > 2 * MOST_BYTES:
            kept = file.read_text(encoding="utf-8", errors="replace").splitlines()[-MOST_LINES:]
            file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(row)) + "\n")  # one write: lines of two runs never mix
    except (OSError, RuntimeError):  # no home directory, no space, read-only
        return


@lru_cache(maxsize=8)
def stated_time(kind: str, device: str) -> StatedTime | None:
    """How far off the time of plans for a device may be; None where nothing was measured on such a device."""
    rows = _telling([*_packaged("time", _time_row), *_own(_time_row)], kind, device)
    if not rows:
        return None
    times = sorted(row.times for row in rows)
    spared = int(
        (1 - COVERED) * len(times)
    )  # at either end the strangest are left out, half of the twentieth each
    kept = times[spared // 2 : len(times) - (spared - spared // 2)]
    return StatedTime(min(1.0, kept[0]), max(1.0, kept[-1]), len(rows))


def _telling(rows: list[R], kind: str, device: str) -> list[R]:
    """Those of a kind of device; of this very device alone once they are enough."""
    rows = [row for row in rows if row.kind == kind]
    same = [row for row in rows if row.device == device]
    return same if len(same) >= ENOUGH else rows


@lru_cache(maxsize=8)
def stated(kind: str, device: str) -> Stated:
    """The error that plans for a device state; of this very device once enough was measured on it."""
    rows = _telling([*_packaged("rows", _row), *_own(_row)], kind, device)
    if not rows:
        return Stated(UNMEASURED[kind], None, 0)
    tensors = [abs(row.allocated_error) for row in rows if row.allocated_error is not None]
    few = UNMEASURED[kind] * (1 - len(rows) / ENOUGH)  # some rows of one card say little of another
    share = max(_covering([abs(row.error) for row in rows]), few)
    return Stated(share, _covering(tensors) if tensors else None, len(rows))


def _covering(errors: list[float]) -> float:
    """What 19 of 20 stay within, to the percent above."""
    at = sorted(errors)[max(0, math.ceil(COVERED * len(errors)) - 1)]
    return max(LEAST, math.ceil(100 * at - 1e-9) / 100)


def _packaged(key: str, read: Callable[[Any], R | None]) -> Iterator[R]:
    try:
        table = json.loads(PACKAGED.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield from (row for one in table.get(key, []) if (row := read(one)))


def _own(read: Callable[[Any], R | None]) -> Iterator[R]:
    try:
        with (cache_root() / FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()[-MOST_LINES:]
    except (OSError, RuntimeError):
        return
    for line in lines:
        try:
            row = read(json.loads(line))
        except ValueError:  # a line that was cut short
            continue
        if row:
            yield row


def _row(values: Any) -> Row | None:
    """A row as it was written; None where it is none, or says what cannot be."""
    try:
        row = Row(**{name: values[name] for name in Row.__slots__ if name in values})
        numbers = (row.predicted_bytes, row.measured_bytes)
        sane = all(isinstance(n, int) and n > 0 for n in numbers) and isinstance(row.kind, str)
        return row if sane and abs(row.error) < 10 else None
    except (TypeError, KeyError):
        return None


def _time_row(values: Any) -> TimeRow | None:
    """A row of time; None where it is none. What took no time says nothing."""
    try:
        row = TimeRow(**{name: values[name] for name in TimeRow.__slots__ if name in values})
        sane = (
            row.predicted_seconds > 0
            and row.measured_seconds >= SHORTEST_SECONDS
            and values.get("counts") == COUNTED
            and isinstance(row.kind, str)
        )
        return row if sane and 0.02 < row.times < 50 else None
    except (TypeError, KeyError):
        return None
