"""Consecutive windows of a run and the steps that they are cut into; what lies behind is dropped.

window 7  samples of each source [start, stop)  --shuffled-->  rows 28672 ..  --cut at batch_tokens-->  steps 130 ..
Each window knows how things stood before it, so that any of them can be the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from tunesmith.data.cutting import Cutter, CutterState
from tunesmith.data.order import shuffled
from tunesmith.data.streaming.books import Account
from tunesmith.data.streaming.lanes import Cursor, Lane
from tunesmith.folder import write_atomically
from tunesmith.recipe import BatchGrowth

_OWNER = 48  # bits of a row that are the source's own number of a sample


@dataclass(frozen=True, slots=True)
class Before:
    """How things stood before a window: rows laid; of each source samples and tokens; of each stream its books."""

    rows: int
    samples: tuple[int, ...]
    given: tuple[float, ...]
    cut: CutterState
    accounts: Mapping[int, Account]

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        accounts = {number: account.to_json() for number, account in self.accounts.items()}
        kept = {"rows": self.rows, "samples": self.samples, "given": self.given}
        return {**kept, "cut": asdict(self.cut), "accounts": accounts}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Before:
        """As it was kept."""
        accounts = {int(number): Account.of_json(each) for number, each in value["accounts"].items()}
        cut = CutterState(**value["cut"])
        return cls(value["rows"], tuple(value["samples"]), tuple(value["given"]), cut, accounts)


@dataclass(frozen=True, slots=True)
class Window:
    """What is shuffled together: of each source the samples between two cursors."""

    number: int
    starts: tuple[Cursor, ...]
    stops: tuple[Cursor, ...]
    before: Before

    def to_line(self) -> str:
        """A line of the log."""
        kept = {"number": self.number, "starts": self.starts, "stops": self.stops}
        return json.dumps({**kept, "before": self.before.to_json()}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Window:
        """Raises ValueError for a torn one."""
        value = json.loads(line)
        starts, stops = (tuple((a, b) for a, b in value[name]) for name in ("starts", "stops"))
        return cls(value["number"], starts, stops, Before.of_json(value["before"]))


def rows_of(window: Window, lanes: Sequence[Lane], seed: int) -> tuple[ndarray, ndarray]:
    """(Int64[ndarray, "n"], Bool[ndarray, "n"]), the rows of a window, shuffled, source and sample in one, and which
    of them go on with the dialogue of the row before."""
    parts, follows = [], []
    for number, (lane, start, stop) in enumerate(zip(lanes, window.starts, window.stops)):
        found = lane.payloads(start, stop)
        parts.append((number << _OWNER) + found)
        follows.append(lane.follows(found))
    draw = np.random.default_rng((seed, 7, window.number))
    return shuffled(np.concatenate(parts), np.concatenate(follows), draw)


def parted(rows: ndarray) -> tuple[ndarray, ndarray]:
    """(the source of each row, the source's own number of it)."""
    return rows >> _OWNER, rows & ((1 << _OWNER) - 1)


@final
class Stretch:
    """Consecutive windows and their steps."""

    def __init__(
        self, lanes: Sequence[Lane], seed: int, batch_tokens: int, growth: BatchGrowth | None, steps: int
    ) -> None:
        self.lanes, self.seed = lanes, seed
        self._cut_at = batch_tokens, growth, float("inf"), steps
        self.windows: list[Window] = []
        self.cutter = Cutter(*self._cut_at)
        self.is_over = False
        """Whether no window will follow: the open step is as long as it gets."""
        self._ends: list[int] = []
        self._rows = lru_cache(maxsize=2)(lambda number: rows_of(self._window(number), self.lanes, self.seed))

    def _window(self, number: int) -> Window:
        return self.windows[number - self.windows[0].number]

    def add(self, window: Window) -> None:
        """One more window."""
        if not self.windows:
            self.cutter = Cutter(*self._cut_at, window.before.cut)
        self.windows.append(window)
        rows, follows = self._rows(window.number)
        self._ends.append(window.before.rows + len(rows))
        self.cutter.take(*self.measure(rows), follows)

    def drop(self, before: int) -> bool:
        """Let go of the windows all of whose rows are of steps before this one."""
        behind = [after.before.cut.step < before for after in self.windows[1:]]
        count = behind.index(False) if False in behind else len(behind)
        if count:
            del self.windows[:count]
            del self._ends[:count]
            self.cutter.forget(before)
            self._rows.cache_clear()
        return count > 0

    @property
    def complete(self) -> int:
        """The number of the first step that is not yet whole."""
        state = self.cutter.state
        whole = self.cutter.is_done or (self.is_over and state.end > state.begin)
        return state.step + whole

    def place(self, step: int) -> int:
        """Where a step lies among those that are held. LookupError where it is behind or ahead."""
        place = step - self.cutter.first
        there = 0 <= place < self.complete - self.cutter.first
        if not there or self.begin(place) < self.windows[0].before.rows:
            raise LookupError(step)
        return place

    def begin(self, place: int) -> int:
        """The first row of a step."""
        return self.cutter.cuts[place - 1] if place > 0 else self.cutter.begin

    def rows(self, step: int) -> ndarray:
        """The rows of a step. Raises LookupError."""
        place = self.place(step)
        start, stop = self.begin(place), self.cutter.cuts[place]
        found = [np.zeros(0, np.int64)]
        at = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            window = self.windows[at]
            end = min(stop, self._ends[at])
            rows, _ = self._rows(window.number)
            found.append(rows[start - window.before.rows : end - window.before.rows])
            start, at = end, at + 1
        return np.concatenate(found)

    def measure(self, rows: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """(tokens, targets, weight of the targets) of each row."""
        owners, payloads = parted(rows)
        lengths, targets = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        weights = np.zeros(len(rows))
        for number, lane in enumerate(self.lanes):
            mine = np.flatnonzero(owners == number)
            if len(mine):
                lengths[mine], targets[mine], weights[mine] = lane.measure(payloads[mine])
        return lengths, targets, weights

    def learnt(self, step: int) -> tuple[ndarray, ndarray, Mapping[int, Account] | None]:
        """Of each source (samples, tokens) learnt before `step`; the accounts of the streams by then, if they differ
        from the newest."""
        place = step - self.cutter.first
        row = self.begin(place) if place < len(self.cutter.cuts) else self.cutter.cuts[-1]
        at = min(int(np.searchsorted(self._ends, row, side="left")), len(self.windows) - 1)
        samples, tokens = self._given_by(self.windows[at], row)
        after = self.windows[at + 1].before.accounts if at + 1 < len(self.windows) else None
        return samples, tokens, after

    def given(self) -> tuple[int, ndarray, ndarray]:
        """(rows, samples of each source, tokens of each source) up to the end of the last window."""
        return self._ends[-1], *self._given_by(self.windows[-1], self._ends[-1])

    def _given_by(self, window: Window, row: int) -> tuple[ndarray, ndarray]:
        """Of each source (samples, tokens) before a row of a window."""
        rows = self._rows(window.number)[0][: row - window.before.rows]
        owners, count = parted(rows)[0], len(self.lanes)
        samples = np.array(window.before.samples) + np.bincount(owners, minlength=count)
        lengths = self.measure(rows)[0]
        return samples, np.array(window.before.given) + np.bincount(owners, lengths, minlength=count)


def read_log(path: Path) -> list[Window]:
    """The windows that were written down; a torn last line does not count."""
    found: list[Window] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found.append(Window.of_line(line))
        except (ValueError, KeyError, TypeError):
            break
    return found


def write_log(path: Path, windows: Sequence[Window]) -> None:
    """Anew, whole or not at all."""
    write_atomically(path, "".join(window.to_line() for window in windows))
