"""Which rows each step takes, where sources are streams: laid out window by window while the run goes on.

first stream: whole shards until a window is full; the others: tokens in proportion  -->  a window, written down
windows.jsonl  the head, and all windows from which a kept checkpoint may go on      -->  the same steps after a kill
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy import ndarray

from tunesmith.data.cutting import CutterState
from tunesmith.data.ledger import Ledger
from tunesmith.data.mix import mixed, within_repeats
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.data.streaming.books import Account, with_streams
from tunesmith.data.streaming.feed import Feed, Interrupted, Waiting
from tunesmith.data.streaming.lanes import Finite, Lane, Streamed, Streams, shares_of, source_ledgers
from tunesmith.data.streaming.reading import require_kept, spool_of
from tunesmith.data.streaming.windows import Before, Stretch, Window, parted, read_log, write_log
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.folder import writing
from tunesmith.recipe import BatchGrowth, Data

Told = Callable[[Ledger], None]
LOG = "windows.jsonl"


@final
class StreamPlan:
    """The steps of a run that reads streams: so many, unless a stream ends before. See StepPlan."""

    def __init__(
        self,
        streams: Streams,
        finite: Sequence[SampleSet],
        data: Data,
        steps: int,
        batch_tokens: int,
        growth: BatchGrowth | None,
        seed: int,
        kept: Path | None,
        suits: Callable[[ndarray], None] = lambda ids: None,
    ) -> None:
        """`kept` is where a run keeps its streams: what it has of them is gone on with. Without it nothing is kept.

        `suits` raises for token ids that the model has no row for.
        """
        require_kept(streams.sources, kept)
        self._steps = steps
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        folder = kept
        if folder is None or not (folder / LOG).is_file():
            self._scratch = tempfile.TemporaryDirectory(prefix="tunesmith-stream-")
            folder = Path(self._scratch.name)
        self.folder, self._sources = folder, streams.sources
        known = iter(enumerate(finite))
        self.lanes: list[Lane] = []
        for number, source in enumerate(streams.sources):
            if source.stream is None:
                self.lanes.append(Finite(next(known)[1], number, seed, data.mix.max_repeats))
                continue
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            spool = None if kept is None else spool_of(source, kept)
            feed = Feed(source, streams.kitchen, streams.strict, place, spool)
            self.lanes.append(Streamed(feed, streams.held_out, suits))
        sizes = [lane.size for lane in self.lanes]
        weights = [source.weight or 1.0 for source in streams.sources]
        asked = mixed(sizes, weights, data.mix, [source.group for source in streams.sources])
        self.requested = asked.shares
        self._shares = within_repeats(asked, sizes, float(steps) * batch_tokens)
        self._leading = min(self._streams)
        of_run = (self.lanes, seed, batch_tokens, growth, steps)
        self._head, self._live = Stretch(*of_run), Stretch(*of_run)
        self._accounts: dict[int, Account] = {number: Account() for number in self._streams}
        self._told: Told = lambda ledger: None
        self._visit: Callable[[str], object] = lambda point: None
        self._ledger: Ledger | None = None
        self._ended: int | None = None  # number of the stream that ended
        with self._writing():
            self._lay_head(read_log(folder / LOG))

    def __len__(self) -> int:
        return self._steps

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self.folder, "the rows of a stream")

    @property
    def _streams(self) -> dict[int, Streamed]:
        return {number: lane for number, lane in enumerate(self.lanes) if isinstance(lane, Streamed)}

    # --- laying out ---

    def _lay_head(self, known: Sequence[Window]) -> None:
        """As many windows as the first step needs; then those an earlier run was at."""
        head, live = (
            [w for w in known if w.before.cut.step == 0],
            [w for w in known if w.before.cut.step > 0],
        )
        whole = not live or (head and live[0].number == head[-1].number + 1)
        for window in head:
            self._head.add(window)
            if self._head.complete:
                break
        for window in (*head, *live) if whole else live:
            self._live.add(window)
        if self._live.windows:
            self._replay()
        while not self._head.complete and not self._head.is_over:
            count = len(self._live.windows)
            if not self._lay(lambda: True):
                self._head.is_over = True
            for window in self._live.windows[count:]:
                self._head.add(window)
        if not self._head.complete:
            names = ", ".join(lane.feed.source.path for lane in self._streams.values())
            rows = sum(account.rows_in for account in self._accounts.values())
            raise DataError.at(
                names, f"holds no row to learn from ({rows} were read)", "see tunesmith data check"
            )
        write_log(self.folder / LOG, self._kept_windows())

    def _replay(self) -> None:
        """How things stand behind the last window that is known."""
        last = self._live.windows[-1]
        self._accounts = {number: account.copy() for number, account in last.before.accounts.items()}
        self._count(last.starts, last.stops)

    def _count(self, starts: Sequence[tuple[int, int]], stops: Sequence[tuple[int, int]]) -> None:
        for number, lane in self._streams.items():
            lane.account(self._accounts[number], starts[number], stops[number])

    def _before_next(self) -> Before:
        """How things stand behind the last window."""
        if not self._live.windows:
            none = tuple(0 for _ in self.lanes)
            return Before(0, none, tuple(0.0 for _ in self.lanes), CutterState(), self._copies())
        rows, samples, given = self._live.given()
        state = self._live.cutter.state
        return Before(rows, tuple(samples.tolist()), tuple(given.tolist()), state, self._copies())

    def _copies(self) -> dict[int, Account]:
        return {number: account.copy() for number, account in self._accounts.items()}

    def _lay(self, waiting: Waiting) -> bool:
        """One more window. False: a stream has ended, this was the last. Raises Interrupted, DataError."""
        before = self._before_next()
        starts = self._live.windows[-1].stops if self._live.windows else tuple((0, 0) for _ in self.lanes)
        leading = self._streams[self._leading]
        stop, given, more = leading.window_behind(starts[self._leading], before.given[self._leading], waiting)
        stops, ended = list(starts), None if more else self._leading
        stops[self._leading] = stop
        for number, lane in enumerate(self.lanes):
            if number != self._leading:
                due = given * self._shares[number] / self._shares[self._leading]
                stops[number], _, more = lane.advance(starts[number], before.given[number], due, waiting)
                ended = ended if more or ended is not None else number
        if ended is not None:
            self._ended = ended
            self._live.is_over = True
        if stops != list(starts):
            self._count(starts, stops)
            number = self._live.windows[-1].number + 1 if self._live.windows else 0
            window = Window(number, starts, tuple(stops), before)
            with open(self.folder / LOG, "a", encoding="utf-8") as file:
                file.write(window.to_line())
            self._visit("stream_window")
            self._live.add(window)
        return ended is None

    # --- what the engine asks ---

    def is_over(self, step: int, waiting: Waiting = lambda: True) -> bool:
        """Whether no step of this number comes; waits for its rows, while `waiting`. Raises DataError."""
        if step >= self._steps:
            return True
        try:
            with self._writing():
                while step >= self._live.complete:
                    if self._live.is_over or not self._lay(waiting):
                        return step >= self._live.complete
        except Interrupted:
            return False
        return False

    def _stretch_of(self, step: int) -> Stretch:
        self.is_over(step)
        for stretch in (self._live, self._head):
            try:
                stretch.place(step)
            except LookupError:
                continue
            return stretch
        what = f"the rows of step {step + 1} have been let go: every checkpoint lay behind them"
        raise DataError.at(str(self.folder), what, "begin anew: output=NEW")

    def rows_of(self, step: int) -> ndarray:
        """Int64[ndarray, "n"], rows of a step, counted from 0."""
        return self._stretch_of(step).rows(step)

    def measure(self, step: int) -> tuple[ndarray, ndarray]:
        """(tokens, targets) of each row of a step."""
        lengths, targets, _ = self._live.measure(self.rows_of(step))
        return lengths, targets

    def samples(self, sources: Sequence[SampleSet], step: int) -> list[Sample]:
        """The rows of a step, counted from 0."""
        owners, payloads = parted(self.rows_of(step))
        return [self.lanes[a].sample(b) for a, b in zip(owners.tolist(), payloads.tolist())]

    def sums(self, step: int) -> tuple[int, int, float]:
        """(tokens, targets, weight of the targets) of a step."""
        stretch = self._stretch_of(step)
        place, cutter = stretch.place(step), stretch.cutter
        return cutter.tokens[place], cutter.targets[place], cutter.weights[place]

    def release(self, step: int, oldest: int) -> None:
        """Let go of what lies before step `oldest`; tell how the books stand at `step`."""
        with self._writing():
            if self._live.drop(oldest):
                write_log(self.folder / LOG, self._kept_windows())
                self._visit("stream_let_go")
                first = self._live.windows[0].starts
                for number, lane in self._streams.items():
                    lane.feed.release(first[number][0], self._head_shards(number))
            if self._ledger is not None:
                self._told(self.ledger(self._ledger, step))

    def held_bytes(self, between: int) -> int:
        """What is kept on disk while the oldest checkpoint lies `between` steps back, if rows go on as they begin."""
        tokens = min(between, self._steps) * float(self.step_tokens.mean())
        return sum(
            lane.held_bytes(tokens * share, self._head_shards(number))
            for number, (lane, share) in enumerate(zip(self.lanes, self._shares))
            if isinstance(lane, Streamed)
        )

    @property
    def waits_for(self) -> str:
        """What a step may have to wait for."""
        return f"rows of {' and '.join(lane.feed.source.path for lane in self._streams.values())}"

    def words_of_end(self, step: int) -> str | None:
        """Why no step follows this one, where more were asked for."""
        if self._ended is None or step >= self._steps:
            return None
        path, rows = self._streams[self._ended].feed.source.path, self._accounts[self._ended].rows_in
        return f"the stream {path} ended after {rows} rows: step {step} of {self._steps} was the last"

    def _kept_windows(self) -> list[Window]:
        head = [window for window in self._head.windows if window.number < self._live.windows[0].number]
        return [*head, *self._live.windows]

    def _head_shards(self, number: int) -> int:
        shard, offset = self._head.windows[-1].stops[number]
        return shard + (offset > 0)

    # --- the run around it ---

    def begin(
        self,
        folder: Path,
        told: Told,
        reporter: Reporter,
        visit: Callable[[str], object] = lambda point: None,
    ) -> None:
        """The run begins, and keeps its streams in this folder; `told` hears how the ledger grows.

        `visit` is told of each point at which a test may want it killed.
        """
        self._told, self._visit = told, visit
        if self._scratch is not None:
            for event in filter(None, (lane.left_over() for lane in self._streams.values())):
                reporter.event(event)
        self.folder = folder
        with self._writing():
            for number, lane in self._streams.items():
                lane.feed.visit = visit
                lane.feed.begin(folder / str(number))
            write_log(folder / LOG, self._kept_windows())

    def close(self) -> None:
        """The run has ended, or stopped."""
        for lane in self._streams.values():
            lane.feed.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    # --- what is known beforehand: the head stands for the whole ---

    @property
    def known(self) -> int:
        """Steps that are always at hand."""
        return self._head.complete

    @property
    def step_tokens(self) -> ndarray:
        """Int64[ndarray, "known"], of the head's steps."""
        return np.array(self._head.cutter.tokens[: self.known], np.int64)

    @property
    def step_targets(self) -> ndarray:
        """Likewise."""
        return np.array(self._head.cutter.targets[: self.known], np.int64)

    @property
    def step_weights(self) -> ndarray:
        """Float64[ndarray, "known"]."""
        return np.array(self._head.cutter.weights[: self.known], np.float64)

    @property
    def step_longest(self) -> ndarray:
        """Int64[ndarray, "known"]."""
        return np.array(self._head.cutter.longest[: self.known], np.int64)

    def _of_run(self, column: ndarray) -> int:
        return round(float(column.mean()) * self._steps)

    @property
    def total_tokens(self) -> int:
        """Real tokens of the run, if it goes on as it begins."""
        return self._of_run(self.step_tokens)

    @property
    def total_targets(self) -> int:
        """Learnt tokens, likewise."""
        return self._of_run(self.step_targets)

    @property
    def row_count(self) -> int:
        """Rows, likewise."""
        return self._of_run(np.array([len(self._head.rows(step)) for step in range(self.known)]))

    @property
    def epoch_tokens(self) -> int:
        """A stream is read once."""
        return self.total_tokens

    @property
    def passes(self) -> tuple[float, ...]:
        """How often each source will be read; a stream once."""
        total = self.total_tokens
        return tuple(
            1.0 if np.isinf(lane.size) else share * total / max(1.0, lane.size)
            for lane, share in zip(self.lanes, self._shares)
        )

    @property
    def realised(self) -> tuple[float, ...]:
        """Share of tokens that each source gives, in the head."""
        return shares_of(self._head.learnt(self.known)[1])

    def train_sets(self, finite: Sequence[SampleSet]) -> tuple[SampleSet, ...]:
        """The samples of every source; of a stream those of its head."""
        known = iter(finite)
        return tuple(
            lane.head(self._head_shards(number)) if isinstance(lane, Streamed) else next(known)
            for number, lane in enumerate(self.lanes)
        )

    def with_head(self, finite: Ledger) -> Ledger:
        """The books of the finite sources, with what was read of the streams before the run begins."""
        self._ledger = finite
        found = self._with_streams(finite, *self._head.learnt(self.known)[:2], self._accounts)
        return found.with_repeats(self.passes, self.requested, self.realised)

    def ledger(self, known: Ledger, step: int) -> Ledger:
        """The books when `step` steps were taken: of each stream what was read by then."""
        assert self._ledger is not None
        samples, tokens, accounts = self._live.learnt(step)
        return self._with_streams(self._ledger, samples, tokens, accounts or self._accounts)

    def _with_streams(
        self, finite: Ledger, samples: ndarray, tokens: ndarray, accounts: Mapping[int, Account]
    ) -> Ledger:
        train = source_ledgers(self.lanes, finite, samples, tokens, self.requested, accounts)
        streams = self._streams.items()
        touched = [row for number, lane in streams for row in lane.touched(self._held_shards(number))]
        return with_streams(finite, list(train), list(accounts.values()), touched)

    def _held_shards(self, number: int) -> list[int]:
        """The shards that are still there and have been begun."""
        first, last = self._live.windows[0].starts[number], self._live.windows[-1].stops[number]
        return list(range(first[0], last[0] + (last[1] > 0)))
