"""Cut the stream of rows into steps, a window at a time: rows until the next would exceed the tokens of a step.

rows [30 50 40 | 60 ..   batch_tokens 120  ->  step 0: 30 50 40   step 1: 60 ..     a step goes on over windows

Rows of one dialogue that a border would part go to the next step together, where half of the step is left: what they
begin with alike is computed once a step (data/sharing.py).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy import ndarray

from tunesmith.recipe import BatchGrowth

LEAST_FILLED = 0.5  # of its tokens a step holds, whatever belongs together


@dataclass(frozen=True, slots=True)
class CutterState:
    """The open step: its number, its rows [begin, end) so far and what is in them; and all tokens so far."""

    step: int = 0
    begin: int = 0
    end: int = 0
    tokens: int = 0
    targets: int = 0
    weight: float = 0.0
    longest: int = 0
    consumed: int = 0


@final
class Cutter:
    """Cuts the stream of rows into steps, a window at a time."""

    def __init__(
        self,
        batch_tokens: int,
        growth: BatchGrowth | None,
        total: float,
        most_steps: int | None,
        state: CutterState | None = None,
    ) -> None:
        self._full, self._growth, self._total, self._most = batch_tokens, growth, total, most_steps
        state = state or CutterState()
        self.first, self.begin = state.step, state.begin  # of the first step that is held
        # numbers side by side: as objects of Python those of 40,000 steps would be 8 MB
        self.cuts, self.tokens = array("q", [state.end]), array("q", [state.tokens])
        self.targets, self.longest = array("q", [state.targets]), array("q", [state.longest])
        self.weights = array("d", [state.weight])
        self._consumed = state.consumed
        self.is_done = False

    @property
    def state(self) -> CutterState:
        """How things stand, to go on from here."""
        begin = self.cuts[-2] if len(self.cuts) > 1 else self.begin
        return CutterState(
            self._open_step, begin, self.cuts[-1], self.tokens[-1], self.targets[-1], self.weights[-1],
            self.longest[-1], self._consumed,
        )  # fmt: skip

    @property
    def _open_step(self) -> int:
        return self.first + len(self.tokens) - 1

    def forget(self, before: int) -> None:
        """Let go of the steps before this one, but never of the open one."""
        count = min(before, self._open_step) - self.first
        if count > 0:
            self.begin = self.cuts[count - 1]
            self.first += count
            for column in (self.cuts, self.tokens, self.targets, self.weights, self.longest):
                del column[:count]

    def take(self, lengths: ndarray, targets: ndarray, weights: ndarray, follows: ndarray) -> int:
        """Rows of one window, in order; `follows`: which belong to the row before. How many of them the run takes."""
        ends = self._consumed + np.cumsum(lengths)
        count = int(np.searchsorted(ends, self._total, side="right"))
        if count == 0 and self._consumed == 0:
            count = min(1, len(lengths))  # a run has a row
        if count < len(lengths):
            self.is_done = True
        firsts: list[int] = []  # rows of this window with which its part of a step begins
        first, at = len(self.cuts) - 1, 0
        while at < count:
            end = self._before_dialogue(at, self._end_of_step(at, ends[:count]), ends[:count], follows)
            if end == at:  # the next row does not fit: the step is closed
                if self._most is not None and self._open_step + 1 == self._most:
                    self.is_done = True
                    break
                first += not firsts
                self._open()
                continue
            firsts.append(at)
            self.tokens[-1] += int(ends[end - 1]) - self._consumed
            self._consumed = int(ends[end - 1])
            self.cuts[-1] += end - at
            at = end
        if firsts:
            self._add_up(first, firsts, lengths[:at], targets[:at], weights[:at])
        return at

    def _add_up(
        self, first: int, firsts: list[int], lengths: ndarray, targets: ndarray, weights: ndarray
    ) -> None:
        """What the rows taken of a window add to the held steps from `first` on, a part each."""
        found = (np.add.reduceat(targets, firsts), np.add.reduceat(weights, firsts))
        parts = zip(*(each.tolist() for each in (*found, np.maximum.reduceat(lengths, firsts))))
        for step, (target, weight, longest) in enumerate(parts, first):
            self.targets[step] += target
            self.weights[step] += weight
            self.longest[step] = max(self.longest[step], longest)

    def _open(self) -> None:
        self.cuts.append(self.cuts[-1])
        self.tokens.append(0)
        self.targets.append(0)
        self.weights.append(0.0)
        self.longest.append(0)

    def _end_of_step(self, at: int, ends: ndarray) -> int:
        """The row before which the open step ends, if not at the end of the window."""
        began = self._consumed - self.tokens[-1]
        least = at + (self.tokens[-1] == 0)  # at least one row
        if self._growth is None or self._most is not None:
            limit = self._limit(self._open_step / self._most if self._most is not None else 0.0)
            return max(least, int(ends.searchsorted(began + limit, side="right")))
        while least < len(ends):  # the limit grows with what is consumed, row by row
            until = min(len(ends), least + 1024)
            before = (
                ends[least - 1 : until - 1]
                if least
                else np.concatenate([[self._consumed], ends[: until - 1]])
            )
            over = ends[least:until] - began > self._limit(before / self._total)
            if over.any():
                return least + int(np.argmax(over))
            least = until
        return least

    def _before_dialogue(self, at: int, end: int, ends: ndarray, follows: ndarray) -> int:
        """The end of the step where it parts no dialogue, if enough of the step is left."""
        if end == len(ends) or not follows[end] or follows[at:end].all():
            return end
        dialogue = end - 1 - int(np.argmin(follows[at:end][::-1]))  # its first row
        began = self._consumed - self.tokens[-1]
        left, most = (int(ends[place - 1]) if place else self._consumed for place in (dialogue, end))
        return dialogue if left - began >= LEAST_FILLED * (most - began) else end

    def _limit(self, done: float | ndarray) -> ndarray | float:
        """Tokens of a step when a share `done` of the run is behind (note 001, point 24)."""
        if self._growth is None:
            return self._full
        start = self._growth.start_tokens
        grown: ndarray = start + (self._full - start) * np.minimum(1.0, done / self._growth.over)
        return grown

    def close(self) -> None:
        """The end of the last step is the end of the run."""
        self.cuts.insert(0, 0)
