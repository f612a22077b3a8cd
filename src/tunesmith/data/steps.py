"""Which rows each optimiser step takes. The whole order is a pure function of lengths, weights, budget and seed.

sources --Order--> a window: rows of 8 blocks and more, from each source its share --shuffled--> cut at batch_tokens

Of the run only the borders are held: of each step, and of each window. Rows are looked up when a step asks for
them; resuming is starting at step k. No count of workers or ranks is asked anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from numpy import ndarray

from tunesmith.data.cutting import Cutter
from tunesmith.data.ledger import Ledger
from tunesmith.data.mix import Mixed, mixed, within_repeats
from tunesmith.data.order import Order, shuffled
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.recipe import BatchGrowth, Budget, Epochs, Mix, Steps, Tokens

INTERLEAVED = 8
"""Blocks (shards) whose rows are shuffled together: one that is all of a topic cannot fill a batch."""

_AT_ONCE = 1 << 16  # rows that are measured together


@final
class StepPlan:
    """Rows of every step of a run. A row is (source, index), flattened: `bases[source] + index`."""

    def __init__(
        self,
        reading: _Reading,
        windows: Sequence[_Window],
        cuts: Sequence[int],
        tokens: Sequence[int],
        targets: Sequence[int],
        weights: Sequence[float],
        longest: Sequence[int],
        read: ndarray,
    ) -> None:
        self._reading, self._windows = reading, tuple(windows)
        self._window_cuts = np.cumsum([0, *(window.rows for window in windows)])
        self.cuts = np.array(cuts, np.int64)  # Int64[ndarray, "steps+1"], places in the stream of rows
        self.step_tokens = np.array(tokens, np.int64)  # Int64[ndarray, "steps"]
        self.step_targets = np.array(targets, np.int64)  # Int64[ndarray, "steps"]
        # Float64[ndarray, "steps"], what the targets weigh together: what a loss is divided by
        self.step_weights = np.array(weights, np.float64)
        self.step_longest = np.array(longest, np.int64)  # Int64[ndarray, "steps"], tokens of the longest row
        self.epoch_tokens = sum(reading.sizes)
        self.passes = tuple(float(r / max(1, size)) for r, size in zip(read, reading.sizes))
        """How often each source is read, in tokens."""
        self.requested = reading.mix.shares
        """Share of tokens asked of each source, before max_repeats."""
        self.realised = tuple((read / max(1, read.sum())).tolist())
        """Share of tokens that each source gives."""
        self._rows_of_window = lru_cache(maxsize=2)(self._look_up)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    @property
    def known(self) -> int:
        """Steps that are laid out beforehand: all of them."""
        return len(self)

    @property
    def total_tokens(self) -> int:
        """Real tokens of the run."""
        return int(self.step_tokens.sum())

    @property
    def total_targets(self) -> int:
        """Learnt tokens of the run."""
        return int(self.step_targets.sum())

    def sums(self, step: int) -> tuple[int, int, float]:
        """(tokens, targets, weight of the targets) of a step, counted from 0."""
        return int(self.step_tokens[step]), int(self.step_targets[step]), float(self.step_weights[step])

    def is_over(self, step: int, waiting: Callable[[], bool] = lambda: True) -> bool:
        """Whether no step of this number comes. Of a stream that may have to be waited for, while `waiting`."""
        return step >= len(self)

    def release(self, step: int, oldest: int) -> None:
        """Step `step` is reached, and no step before `oldest` will be asked for again."""

    def held_bytes(self, between: int) -> int:
        """What is kept on disk of the rows of so many steps: all lie in the cache."""
        return 0

    @property
    def waits_for(self) -> str:
        """What a step may have to wait for."""
        return "rows"

    def words_of_end(self, step: int) -> str | None:
        """Why no step follows this one, where more were asked for: only streams end early."""
        return None

    def ledger(self, known: Ledger, step: int) -> Ledger:
        """The books when `step` steps were taken: all was known beforehand."""
        return known

    def close(self) -> None:
        """The run has ended, or stopped."""

    @property
    def row_count(self) -> int:
        """Rows of the run; one that is read twice counts twice."""
        return int(self.cuts[-1])

    @property
    def rows(self) -> ndarray:
        """Int64[ndarray, "R"], rows of all steps, end to end. For a handful: of millions ask `rows_of`."""
        return self._between(0, self.row_count)

    def rows_of(self, step: int) -> ndarray:
        """Int64[ndarray, "n"], rows of a step, counted from 0."""
        return self._between(int(self.cuts[step]), int(self.cuts[step + 1]))

    def measure(self, step: int) -> tuple[ndarray, ndarray]:
        """(tokens, targets) of each row of a step."""
        lengths, targets, _ = _measure(self._reading.sources, self._reading.bases, self.rows_of(step))
        return lengths, targets

    def samples(self, sources: Sequence[SampleSet], step: int) -> list[Sample]:
        """The rows of a step, counted from 0."""
        bases = self._reading.bases
        chosen = self.rows_of(step)
        where = np.searchsorted(bases, chosen, side="right") - 1
        return [sources[s][int(row - bases[s])] for s, row in zip(where.tolist(), chosen.tolist())]

    def _between(self, start: int, stop: int) -> ndarray:
        first = int(np.searchsorted(self._window_cuts, start, side="right")) - 1
        found = [np.zeros(0, np.int64)]
        while start < stop:
            begin, end = int(self._window_cuts[first]), min(stop, int(self._window_cuts[first + 1]))
            found.append(self._rows_of_window(first)[start - begin : end - begin])
            start, first = end, first + 1
        return np.concatenate(found)

    def _look_up(self, number: int) -> ndarray:
        return self._reading.rows(self._windows[number])[0]


@dataclass(frozen=True, slots=True)
class _Window:
    """What is shuffled together: places [starts[s], stops[s]) of the stream of each source s."""

    number: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows that is."""
        return sum(self.stops) - sum(self.starts)


@dataclass(frozen=True, slots=True)
class _Reading:
    """The streams of all sources and how they are mixed."""

    sources: tuple[SampleSet, ...]
    orders: tuple[Order, ...]
    bases: ndarray  # Int64[ndarray, "S+1"]
    sizes: tuple[int, ...]  # tokens of each source
    mix: Mixed
    seed: int

    @classmethod
    def of(cls, sources: Sequence[SampleSet], mix: Mixed, sizes: tuple[int, ...], seed: int) -> _Reading:
        orders = tuple(Order(s.block_sizes, (seed, number), s.joined) for number, s in enumerate(sources))
        bases = np.cumsum([0, *(len(source) for source in sources)])
        return cls(tuple(sources), orders, bases, sizes, mix, seed)

    def rows(self, window: _Window) -> tuple[ndarray, ndarray]:
        """(the rows of a window, shuffled, which of them go on with the dialogue of the row before)."""
        parts, follows = [], []
        for order, start, stop, base in zip(self.orders, window.starts, window.stops, self.bases):
            found = order.stretch(start, stop)
            parts.append(found + base)
            follows.append(order.follows(found))
        draw = np.random.default_rng((self.seed, 7, window.number))
        return shuffled(np.concatenate(parts), np.concatenate(follows), draw)

    def windows(self, shares: Sequence[float], length: float) -> Iterator[_Window]:
        """Windows without end, or until every source was read as often as it may be.

        Where the sources are mixed a window ends with the run, at `length` tokens: each has given its share by then.
        """
        epoch_tokens = sum(self.sizes)
        passes = [share * epoch_tokens / size if size else 0.0 for share, size in zip(shares, self.sizes)]
        blocks = sum(n * len(source.block_sizes) for n, source in zip(passes, self.sources))
        in_epoch = max(1, int(blocks / INTERLEAVED + 1e-9))
        ends = [self._end(order) for order in self.orders]
        starts = tuple(0 for _ in self.sources)
        given = np.zeros(len(self.sources))
        for number, tokens in enumerate(_borders(epoch_tokens / in_epoch, length), start=1):
            if self.mix.whole:
                wanted = tuple(_part(len(order), number, in_epoch) for order in self.orders)
            else:
                due = [share * tokens for share in shares]
                wanted = tuple(self._advance(s, starts[s], given, due[s]) for s in range(len(due)))
            stops = tuple(max(a, min(b, end)) for a, b, end in zip(starts, wanted, ends))
            if stops == starts and (
                self.mix.whole or all(s >= e for s, e, n in zip(stops, ends, passes) if n)
            ):
                return
            yield _Window(number, starts, stops)
            starts = stops

    def _end(self, order: Order) -> int:
        """The place at which the stream of a source ends."""
        return int(len(order) * self.mix.max_repeats) if self.mix.max_repeats is not None else 1 << 62

    def _advance(self, source: int, start: int, given: ndarray, due: float) -> int:
        """The place up to which a source has given the tokens that are due; `given` is brought up to date."""
        start, given[source] = advance(
            self.sources[source], self.orders[source], start, float(given[source]), due
        )
        return start


def _borders(window: float, length: float) -> Iterator[float]:
    """Tokens at which windows of so many end: 10, 20, 25, 30, .. where the run is 25 tokens long."""
    for number in itertools.count():
        if number * window + 1 < length < (number + 1) * window - 1:
            yield length
        yield (number + 1) * window


def advance(
    samples: SampleSet, order: Order, start: int, given: float, due: float, end: int = 1 << 62
) -> tuple[int, float]:
    """(the place up to which a source has given the tokens that are due, what it has given by then)."""
    # rounding of shares must not leave a row over
    while given <= due - 0.5 and len(order) and start < end:
        ahead = max(16, int(1.1 * (due - given) * len(order) / samples.token_count))
        lengths = samples.lengths_at(order.stretch(start, min(end, start + min(ahead, 1 << 18))))
        sums = given + np.cumsum(lengths)
        taken = min(len(sums), int(np.searchsorted(sums, due - 0.5, side="right")) + 1)
        start, given = start + taken, float(sums[taken - 1])
    return start, given


def _part(rows: int, number: int, of: int) -> int:
    """The place at which window `number` ends, when each epoch of `rows` rows has `of` windows."""
    epoch, within = divmod(number, of)
    return epoch * rows + rows * within // of


def plan_steps(
    sources: Sequence[SampleSet],
    weights: Sequence[float | None],
    budget: Budget,
    batch_tokens: int,
    seed: int,
    growth: BatchGrowth | None = None,
    mix: Mix | None = None,
    groups: Sequence[str] | None = None,
) -> StepPlan:
    """Lay out the run. An epoch is as many tokens as all sources hold once.

    A step takes rows until the next would exceed `batch_tokens`, at least one, and a dialogue whole where it can
    (data/cutting.py). The run ends early where
    every source has been read `mix.max_repeats` times.
    """
    sizes = tuple(source.token_count for source in sources)
    asked = mixed(sizes, weights, mix or Mix(), groups or ["domain"] * len(sizes))
    reading = _Reading.of(sources, asked, sizes, seed)
    total = _token_budget(budget, sum(sizes))
    most_steps = budget.steps if isinstance(budget, Steps) else None
    cutter = Cutter(batch_tokens, growth, total, most_steps)
    windows = []
    read = np.zeros(len(sources), np.int64)
    length = total if most_steps is None else float(most_steps * batch_tokens)
    for window in reading.windows(within_repeats(asked, sizes, length), length):
        windows.append(window)
        _cut(cutter, sources, reading.bases, reading.rows(window), read)
        if cutter.is_done:
            break
    cutter.close()
    return StepPlan(
        reading, windows, cutter.cuts, cutter.tokens, cutter.targets, cutter.weights, cutter.longest, read
    )


def _cut(
    cutter: Cutter,
    sources: Sequence[SampleSet],
    bases: ndarray,
    window: tuple[ndarray, ndarray],
    read: ndarray,
) -> None:
    """Give a window's rows to the cutter, a part at a time; `read` counts the tokens taken of each source."""
    rows, follows = window
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        measured = _measure(sources, bases, part)
        used = cutter.take(*measured, follows[start : start + _AT_ONCE])
        owner = np.searchsorted(bases, part[:used], side="right") - 1
        read += np.bincount(owner, measured[0][:used], minlength=len(sources)).astype(np.int64)
        if cutter.is_done:
            return


def _measure(sources: Sequence[SampleSet], bases: ndarray, rows: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """(tokens, targets, weight of the targets) of each row."""
    if len(sources) == 1:
        return sources[0].lengths_at(rows), sources[0].targets_at(rows), sources[0].weight_sums_at(rows)
    lengths, targets = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    weights = np.zeros(len(rows))
    for source, base, end in zip(sources, bases, bases[1:]):
        mine = np.flatnonzero((rows >= base) & (rows < end))
        index = rows[mine] - base
        lengths[mine], targets[mine] = source.lengths_at(index), source.targets_at(index)
        weights[mine] = source.weight_sums_at(index)
    return lengths, targets, weights


def _token_budget(budget: Budget, epoch_tokens: int) -> float:
    """Most real tokens of the run; without end where steps are counted."""
    match budget:
        case Epochs():
            return budget.epochs * epoch_tokens
        case Tokens():
            return budget.tokens
        case Steps():
            return np.inf
