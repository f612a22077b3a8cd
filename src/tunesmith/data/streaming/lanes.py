"""What a run reads from, side by side: sources that are known whole, and streams; each gives samples up to a cursor.

finite   cursor (0, place): a place in the endless order of its epochs
stream   cursor (shard, offset): the sample of that number among those that the shard keeps, in the order they came in
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, final

import numpy as np
from numpy import ndarray

from tunesmith.data.ledger import FATES, Ledger, SourceLedger, TouchedRow
from tunesmith.data.order import Order
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.data.shards import Shard
from tunesmith.data.sides import SIDES, GivenAway
from tunesmith.data.steps import advance
from tunesmith.data.streaming.books import Account
from tunesmith.data.streaming.feed import AHEAD, Feed, Waiting
from tunesmith.data.tokenised import Kitchen
from tunesmith.data.work import REASONS
from tunesmith.events import Rescued
from tunesmith.recipe import Source

Cursor = tuple[int, int]
_IN_SHARD = 24  # bits of a sample's number that are its number within the shard
_PLACE = (1 << _IN_SHARD) - 1


@dataclass(frozen=True, slots=True)
class Streams:
    """What a run's streams are read with. `held_out`: rows that must not be learnt."""

    sources: tuple[Source, ...]
    """All train sources, in their order."""
    kitchen: Kitchen
    strict: bool
    held_out: GivenAway


class Lane(Protocol):
    """A source of a run. `payloads` are its own numbers of samples, Int64."""

    size: float
    """Tokens of one pass; infinite for a stream."""

    def advance(
        self, start: Cursor, given: float, due: float, waiting: Waiting
    ) -> tuple[Cursor, float, bool]:
        """(the cursor by which the tokens due are given, tokens given by then, whether more will come)."""

    def payloads(self, start: Cursor, stop: Cursor) -> ndarray:
        """The samples between two cursors."""

    def follows(self, payloads: ndarray) -> ndarray:
        """Bool[ndarray, "n"], which of these stand right behind the sample that they go on from."""

    def measure(self, payloads: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """(tokens, targets, weight of the targets) of each."""

    def sample(self, payload: int) -> Sample:
        """One of them."""


@final
class Finite:
    """A source that is known whole, in its usual order: shuffled by shards, another order each epoch."""

    def __init__(self, samples: SampleSet, number: int, seed: int, max_repeats: float | None) -> None:
        self.samples = samples
        self.order = Order(samples.block_sizes, (seed, number), samples.joined)
        self.size = float(samples.token_count)
        self._end = int(len(self.order) * max_repeats) if max_repeats is not None else 1 << 62

    def advance(
        self, start: Cursor, given: float, due: float, waiting: Waiting
    ) -> tuple[Cursor, float, bool]:
        """It always has more, until it has been read as often as it may be: then the others go on alone."""
        place, given = advance(self.samples, self.order, start[1], given, due, self._end)
        return (0, place), given, True

    def payloads(self, start: Cursor, stop: Cursor) -> ndarray:
        """Sample numbers."""
        return self.order.stretch(start[1], stop[1])

    def follows(self, payloads: ndarray) -> ndarray:
        """As in a run without streams: what they begin with alike is computed once."""
        return self.order.follows(payloads)

    def measure(self, payloads: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """From the index."""
        found = self.samples
        return found.lengths_at(payloads), found.targets_at(payloads), found.weight_sums_at(payloads)

    def sample(self, payload: int) -> Sample:
        """One of them."""
        return self.samples[payload]


@dataclass(frozen=True, slots=True)
class Look:
    """What of a shard is learnt: numbers of the samples it keeps, and what each of its samples has."""

    shard: Shard
    away: ndarray  # UInt8[ndarray, "rows"], the held-out file that a row would give away; 0 for none
    kept: ndarray  # Int64[ndarray, "n"]
    lengths: ndarray  # Int64[ndarray, "samples"]
    targets: ndarray
    weights: ndarray
    joined: ndarray  # Bool[ndarray, "samples"]

    def add_to(self, account: Account) -> None:
        """All rows of the shard, once."""
        books, here = self.shard.books, self.away == 0
        account.rows_in += books.rows_in
        account.fates.update(books.fates)
        account.reasons.update(books.reasons)
        account.rows += int(here.sum())
        account.samples += len(self.kept)
        account.tokens += int(self.lengths[self.kept].sum())
        account.targets += int(self.targets[self.kept].sum())
        account.augmented += int((np.asarray(self.shard.column("made")) > 0)[here].sum())
        for name in ("kept", "cut", "repeated"):
            account.all_tokens[name] += int(self.shard.column(name)[here].sum(dtype=np.int64))
        gone = _fates_of(self.shard.column("fates")[~here])
        account.fates.subtract(gone)
        account.reasons.subtract({REASONS[fate]: n for fate, n in gone.items() if fate in REASONS})
        for code in range(1, len(SIDES)):
            if count := int((self.away == code).sum()):
                account.fates["dropped"] += count
                account.reasons[f"also_in_{SIDES[code]}"] += count


def _fates_of(codes: ndarray) -> Counter[str]:
    """How many rows of each fate."""
    numbers, counts = np.unique(codes, return_counts=True)
    return Counter({FATES[code]: count for code, count in zip(numbers.tolist(), counts.tolist())})


@final
class Streamed:
    """A stream. Rows that a held-out file has, begins or continues are not learnt."""

    size = float("inf")

    def __init__(self, feed: Feed, held_out: GivenAway, suits: Callable[[ndarray], None]) -> None:
        """`suits` raises for token ids that the model has no row for."""
        self.feed, self._held_out, self._suits = feed, held_out, suits
        self._look = lru_cache(maxsize=16)(self._look_at)

    @property
    def window(self) -> int:
        """So many rows are shuffled together."""
        assert self.feed.source.stream is not None
        return self.feed.source.stream.window

    def look(self, number: int, waiting: Waiting) -> Look | None:
        """At a shard; None behind the end of the stream."""
        return None if self.feed.shard(number, waiting) is None else self._look(number)

    def _look_at(self, number: int) -> Look:
        shard = self.feed.shard(number)
        assert shard is not None
        self._suits(shard.ids(learnt=False))
        away = self._held_out.find(shard.block) if shard.rows else np.zeros(0, np.uint8)
        kept = np.flatnonzero(shard.of_samples(away == 0)) if shard.rows else np.zeros(0, np.int64)
        targets, weights = shard.sums(weigh=False), shard.sums(weigh=True).astype(np.float64)
        joined = shard.joined() if shard.rows else np.zeros(0, bool)
        return Look(shard, away, kept, shard.lengths(), targets, weights, joined)

    def window_behind(self, start: Cursor, given: float, waiting: Waiting) -> tuple[Cursor, float, bool]:
        """Whole shards until their samples fill a window."""
        number, rows = start[0], 0
        while rows < self.window:
            if (look := self.look(number, waiting)) is None:
                return (number, 0), given, False
            rows += max(1, len(look.kept))
            given += float(look.lengths[look.kept].sum())
            number += 1
        return (number, 0), given, True

    def advance(
        self, start: Cursor, given: float, due: float, waiting: Waiting
    ) -> tuple[Cursor, float, bool]:
        """Waits for what is not there yet."""
        number, offset = start
        while given <= due - 0.5:
            if (look := self.look(number, waiting)) is None:
                return (number, 0), given, False
            sums = given + np.cumsum(look.lengths[look.kept[offset:]])
            taken = min(len(sums), int(np.searchsorted(sums, due - 0.5, side="right")) + 1)
            given = float(sums[taken - 1]) if taken else given
            number, offset = (number, offset + taken) if taken < len(sums) else (number + 1, 0)
        return (number, offset), given, True

    def between(self, start: Cursor, stop: Cursor) -> list[tuple[int, int, int | None]]:
        """(shard, first, end) of the shards that two cursors lie around."""
        return [
            (number, start[1] if number == start[0] else 0, stop[1] if number == stop[0] else None)
            for number in range(start[0], stop[0] + (stop[1] > 0))
        ]

    def payloads(self, start: Cursor, stop: Cursor) -> ndarray:
        """Shard number and sample number in one."""
        found = [
            (number << _IN_SHARD) + self._look(number).kept[first:end]
            for number, first, end in self.between(start, stop)
        ]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def follows(self, payloads: ndarray) -> ndarray:
        """Within a shard."""
        found = np.zeros(len(payloads), bool)
        found[1:] = payloads[1:] == payloads[:-1] + 1
        for number in np.unique(payloads >> _IN_SHARD).tolist():
            mine = np.flatnonzero(found & (payloads >> _IN_SHARD == number))
            found[mine] = self._look(number).joined[payloads[mine] & _PLACE]
        return found

    def measure(self, payloads: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """From the shards."""
        lengths, targets = np.zeros(len(payloads), np.int64), np.zeros(len(payloads), np.int64)
        weights = np.zeros(len(payloads))
        shards, samples = payloads >> _IN_SHARD, payloads & _PLACE
        for number in np.unique(shards).tolist():
            mine, look = np.flatnonzero(shards == number), self._look(number)
            for column, of in ((lengths, look.lengths), (targets, look.targets), (weights, look.weights)):
                column[mine] = of[samples[mine]]
        return lengths, targets, weights

    def sample(self, payload: int) -> Sample:
        """One of them."""
        return self._look(payload >> _IN_SHARD).shard.sample(payload & _PLACE)

    def left_over(self) -> Rescued | None:
        """What an earlier start, which ended before its first step, had read of a pipe."""
        spool = self.feed.spool
        if spool is None or not spool.had:
            return None
        reason = f"an earlier start read {spool.had} bytes of {spool.path}, and ended before its first step"
        action = f"they come first; not wanted? Begin anew without {spool.folder}"
        return Rescued(step=0, reason=reason, action=action)

    def held_bytes(self, tokens: float, head: int) -> int:
        """On disk, of so many tokens: their shards, the `head` shards, the window begun and those made ahead."""
        looks = [look for number in range(head) if (look := self._look(number)) is not None]
        seen = sum(int(look.lengths[look.kept].sum()) for look in looks)
        size = sum(look.shard.bytes_on_disk for look in looks)
        if self.feed.spool is not None:
            size += self.feed.spool.end
        window = size / max(1, sum(len(look.kept) for look in looks)) * self.window
        return round(size + tokens * size / max(1, seen) + (AHEAD + 2) * window)

    def account(self, account: Account, start: Cursor, stop: Cursor) -> None:
        """Add the shards that are begun between two cursors."""
        for number, first, _ in self.between(start, stop):
            if first == 0:
                self._look(number).add_to(account)

    def touched(self, numbers: Sequence[int]) -> list[TouchedRow]:
        """The rows of some shards that did not go whole."""
        found = []
        for number in numbers:
            look = self._look(number)
            away = {
                look.shard.row_address(row): int(look.away[row]) for row in np.flatnonzero(look.away).tolist()
            }
            found += [row for row in look.shard.touched() if row.address not in away]
            found += [
                TouchedRow(
                    address, "dropped", f"also_in_{SIDES[code]}", f"it stands in the {SIDES[code]} file"
                )
                for address, code in away.items()
            ]
        return found

    def head(self, shards: int) -> SampleSet:
        """The samples of the first shards."""
        looks = [look for n in range(shards) if (look := self._look(n)) is not None and len(look.kept)]
        columns = [
            np.concatenate([np.zeros(0, kind), *(of(look) for look in looks)])
            for kind, of in (
                (np.int64, lambda look: look.kept),
                (np.int64, lambda look: look.lengths[look.kept]),
                (np.int64, lambda look: look.targets[look.kept]),
                (np.float64, lambda look: look.weights[look.kept]),
            )
        ]
        weighted = any(look.shard.books.weighted for look in looks)
        return SampleSet(
            [look.shard for look in looks],
            [len(look.kept) for look in looks],
            columns[0], columns[1], columns[2], columns[3] if weighted else None,
        )  # fmt: skip


# --- their books ------------------------------------------------------------------------------------------------


def shares_of(tokens: ndarray) -> tuple[float, ...]:
    """Of all tokens, what each source gave."""
    return tuple((tokens / max(1.0, tokens.sum())).tolist())


def source_ledgers(
    lanes: Sequence[Lane],
    finite: Ledger,
    samples: ndarray,
    tokens: ndarray,
    requested: Sequence[float],
    accounts: Mapping[int, Account],
) -> Iterator[SourceLedger]:
    """The ledger of each train source, of which so many samples and tokens were learnt."""
    known, given = iter(source for source in finite.sources if source.use == "train"), shares_of(tokens)
    for number, lane in enumerate(lanes):
        if isinstance(lane, Streamed):
            account = accounts[number].source(lane.feed.source.path, lane.feed.format)
            source = replace(account.close(), learnt_samples=int(samples[number]))
        else:
            source = replace(next(known), repeats=float(tokens[number] / max(1.0, lane.size)))
        yield replace(source, requested_share=requested[number], realised_share=given[number])
