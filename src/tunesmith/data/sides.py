"""Who trains, who validates, who tests: decided by a row's content, so equal rows never part.

chats   rows in an order drawn from seed and content, the first n held out; a dialogue and the
        rows that continue it (note 001, point 16) count as equal
text    [ train ............ | validation | test ]   blocks at the end: neighbours tell of each other

Rows are known by 64 bits of their digests, a block of some ten thousand at a time: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from tunesmith.errors import DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
SIDES = ("train", "validation", "test")
_FEW = 100_000  # so many rows are sorted whole
_AT_A_TIME = 8_000  # candidates that are ranked together
Scratch = Callable[[int], ndarray]  # UInt64[ndarray, "n"] to work in: of millions, better a file than memory


@dataclass(frozen=True, slots=True)
class Block:
    """Keys of consecutive rows: those of row i are keys[ends[i-1]:ends[i]], the last of them the whole row's."""

    keys: ndarray  # UInt64[ndarray, "K"]
    counts: ndarray  # UInt[ndarray, "R"], at least 1 each

    @property
    def ends(self) -> ndarray:
        """Int64[ndarray, "R"], where the last key of each row stands."""
        found: ndarray = np.cumsum(self.counts, dtype=np.int64) - 1
        return found

    @property
    def last(self) -> ndarray:
        """UInt64[ndarray, "R"], what equals the whole row."""
        found: ndarray = self.keys[self.ends]
        return found

    @property
    def firsts(self) -> ndarray:
        """Int64[ndarray, "R"], where the keys of each row begin."""
        found: ndarray = np.cumsum(self.counts, dtype=np.int64) - self.counts
        return found

    @property
    def continues(self) -> ndarray:
        """Bool[ndarray, "R"], which rows go on with the dialogue that is the row before."""
        before = np.repeat(np.append(self.last[:1], self.last[:-1]), self.counts)
        begins_with = self.keys == before
        begins_with[self.ends] = False  # an equal row goes on with nothing
        found: ndarray = np.logical_or.reduceat(begins_with, self.firsts)
        return found


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one source that may be split, in file order."""

    blocks: Sequence[Block]
    is_text: bool

    def __len__(self) -> int:
        return sum(len(block.counts) for block in self.blocks)


def block_of(keys: Sequence[Sequence[bytes]]) -> Block:
    """A block of rows by their `row_keys`."""
    flat = [int.from_bytes(key[:8], "little") for row in keys for key in row]
    return Block(np.array(flat, np.uint64), np.array([len(row) for row in keys], np.uint32))


@dataclass(slots=True)
class GivenAway:
    """The rows of held-out files: what equals one, begins one or continues one must not be learnt."""

    _whole: list[tuple[ndarray, int]] = field(default_factory=list)
    _beginnings: list[tuple[ndarray, int]] = field(default_factory=list)

    def add(self, side: int, block: Block, kept: ndarray) -> None:
        """More rows of a held-out file; `kept` says which of them it keeps."""
        self._whole.append((np.unique(block.last[kept]), side))
        self._beginnings.append((np.unique(block.keys[np.repeat(kept, block.counts)]), side))

    def find(self, block: Block) -> ndarray:
        """UInt8[ndarray, "R"], the side of the held-out file that each row would give away; 0 for none."""
        found = np.zeros(len(block.counts), np.uint8)
        for kept, side in self._beginnings:
            found = np.where((found == 0) & _among(kept, block.last), side, found).astype(np.uint8)
        for kept, side in self._whole:
            hit = _among(kept, block.keys)
            if hit.any():
                own = np.logical_or.reduceat(hit, block.firsts)
                found = np.where((found == 0) & own, side, found).astype(np.uint8)
        return found


def assign(
    sources: Sequence[Rows],
    validation: int | float | None,
    test: int | float | None,
    seed: int,
    scratch: Scratch = lambda size: np.zeros(size, np.uint64),
) -> list[Iterator[ndarray]]:
    """The side (UInt8) of each row of each block of each source, as it is asked for. A float is a share of all rows.

    Raises DataError when so much is asked that nothing is left to train on.
    """
    total = sum(map(len, sources))
    asked = {"validation": _rows(validation, total), "test": _rows(test, total)}
    if not any(asked.values()):
        return [(np.zeros(len(block.counts), np.uint8) for block in rows.blocks) for rows in sources]
    roots = _Roots.of(sources, scratch)
    distinct = roots.distinct(sum(asked.values()))
    _require_rows(asked, total, distinct, any(rows.is_text for rows in sources))
    # test first: with a fixed seed it stays the same whatever validation asks
    held = _Held()
    _hold_out(roots, TEST, asked["test"], held, seed, distinct, keep=2 if asked["validation"] else 1)
    _hold_out(roots, VALIDATION, asked["validation"], held, seed, distinct, keep=1)
    return [map(held.sides, source) for source in roots.blocks]


def _rows(part: int | float | None, total: int) -> int:
    """A share as a number of rows, at least one."""
    if part is None:
        return 0
    return part if isinstance(part, int) else max(1, round(part * total))


def _require_rows(asked: Mapping[str, int], total: int, distinct: int, is_text: bool) -> None:
    parts = [name for name, n in asked.items() if n]
    fix = "ask for less, add rows, or set it to null"
    if is_text:
        fix += "; a .txt is cut at blank lines, split: line cuts it at every line"
    where = " and ".join(f"data.{name}" for name in parts)
    if sum(asked.values()) >= total:
        wanted = " and ".join(f"{asked[name]} for {name}" for name in parts)
        raise DataError.at(where, f"{wanted} of {total} rows leaves nothing to train on", fix)
    if distinct <= len(parts):
        what = f"{total} rows, but only {distinct} different: equal rows fall on the same side"
        raise DataError.at(where, what, fix)


@dataclass(frozen=True, slots=True)
class _Roots:
    """What each row is known by: the first of its beginnings that is a row of its own, or itself."""

    blocks: list[list[ndarray]]
    is_text: list[bool]

    @classmethod
    def of(cls, sources: Sequence[Rows], scratch: Scratch) -> _Roots:
        every = [block for rows in sources for block in rows.blocks]
        is_text = [rows.is_text for rows in sources]
        if all(len(block.keys) == len(block.counts) for block in every):  # no row has a beginning
            return cls([[block.keys for block in rows.blocks] for rows in sources], is_text)
        total = sum(map(len, sources))
        whole = scratch(total)
        _fill(whole, (block.last for block in every))
        whole.sort()
        laid = scratch(total)
        views = iter(_fill(laid, (_roots(block, whole) for block in every)))
        return cls([[next(views) for _ in rows.blocks] for rows in sources], is_text)

    def sizes(self) -> list[int]:
        """Rows of each source."""
        return [sum(map(len, source)) for source in self.blocks]

    def distinct(self, asked: int) -> int:
        """How many different rows there are; of many rows of which few are asked for, enough are."""
        every = [block for source in self.blocks for block in source]
        rows = sum(map(len, every))
        if rows > _FEW and asked < rows / 2 and any(len(np.unique(block)) > 100 for block in every):
            return rows
        return len(np.unique(np.concatenate([np.zeros(0, np.uint64), *every])))


def _fill(into: ndarray, parts: Iterable[ndarray]) -> list[ndarray]:
    """Lay parts end to end; the view of each."""
    views, at = [], 0
    for part in parts:
        views.append(into[at : at + len(part)])
        views[-1][:] = part
        at += len(part)
    return views


def _roots(block: Block, whole: ndarray) -> ndarray:
    if len(block.keys) == len(block.counts):
        return block.keys
    place = np.arange(len(block.keys))
    own = np.where(_among(whole, block.keys), place, len(place))
    found: ndarray = block.keys[np.minimum.reduceat(own, block.firsts)]
    return found


@dataclass(slots=True)
class _Held:
    """The roots that are held out so far, sorted, with the side of each."""

    roots: ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    codes: ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))

    def add(self, roots: ndarray, side: int) -> None:
        merged = np.concatenate([self.roots, roots])
        order = np.argsort(merged, kind="stable")
        self.roots = merged[order]
        self.codes = np.concatenate([self.codes, np.full(len(roots), side, np.uint8)])[order]

    def sides(self, roots: ndarray) -> ndarray:
        """UInt8, the side of each; TRAIN where it is not held out."""
        if not len(self.roots):
            return np.zeros(len(roots), np.uint8)
        place = np.minimum(np.searchsorted(self.roots, roots), len(self.roots) - 1)
        return np.where(self.roots[place] == roots, self.codes[place], np.uint8(TRAIN)).astype(np.uint8)


def _hold_out(roots: _Roots, side: int, count: int, held: _Held, seed: int, distinct: int, keep: int) -> None:
    """Send about `count` rows to `side`, from each source by its size; `keep` different rows must stay."""
    if not count:
        return
    free = [sum(int((held.sides(b) == TRAIN).sum()) for b in source) for source in roots.blocks]
    spare = left = distinct - len(held.roots) - keep
    for source, text, share in zip(roots.blocks, roots.is_text, _shares(count, free)):
        wanted = share - sum(int((held.sides(block) == side).sum()) for block in source)
        for candidates, sizes in _from_the_end(source) if text else _by_rank(source, seed, wanted):
            fresh = held.sides(candidates) == TRAIN
            taken, wanted = _take(candidates[fresh], sizes[fresh], wanted, left, whole=not text)
            held.add(taken, side)
            left -= len(taken)
            if wanted <= 0 or left <= 0:
                break
    if left == spare:  # every group is larger than what is asked: the smallest must do
        every = np.concatenate([block[held.sides(block) == TRAIN] for s in roots.blocks for block in s])
        found, sizes = np.unique(every, return_counts=True)
        smallest = found[sizes == sizes.min()]
        held.add(smallest[np.argsort(_rank(smallest, seed))][:1], side)


def _take(candidates: ndarray, sizes: ndarray, wanted: int, spare: int, whole: bool) -> tuple[ndarray, int]:
    """The candidates that are taken, in order, and how many rows are wanted still.

    A group of equal chats larger than what is asked is passed over; a block of text has no holes.
    """
    if len(sizes) and int(sizes.max()) == 1:
        number = max(0, min(wanted, spare, len(candidates)))
        return candidates[:number], wanted - number
    chosen: list[int] = []
    for place, size in enumerate(sizes.tolist()):
        if wanted <= 0 or len(chosen) >= spare:
            break
        if not whole or size <= wanted:
            chosen.append(place)
            wanted -= size
    return candidates[np.array(chosen, np.int64)], wanted


def _by_rank(source: Sequence[ndarray], seed: int, wanted: int) -> Iterator[tuple[ndarray, ndarray]]:
    """(different roots of a source in the order of their rank, rows of each), a stretch of ranks at a time."""
    rows = sum(map(len, source))
    least = min(1.5 * (max(wanted, 0) + 1000), _AT_A_TIME)
    width = 2**64 if rows <= _FEW else min(2**64, int(2**64 * least / rows))
    low = 0
    while low < 2**64 and rows:
        high = min(low + width, 2**64)
        found = []
        for block in source:
            rank = _rank(block, seed)
            found.append(block[(rank >= np.uint64(low)) & (rank <= np.uint64(high - 1))])
        roots, sizes = np.unique(np.concatenate(found), return_counts=True)
        order = np.argsort(_rank(roots, seed), kind="stable")
        yield roots[order], sizes[order]
        low = high


def _from_the_end(source: Sequence[ndarray]) -> Iterator[tuple[ndarray, ndarray]]:
    """Different documents from the last backwards, each where it stands first, a block at a time.

    What occurs earlier too stays in training.
    """
    counts: dict[int, int] = {}
    for number in range(len(source) - 1, -1, -1):
        block = source[number]
        roots, firsts, sizes = np.unique(block, return_index=True, return_counts=True)
        earlier = np.zeros(len(roots), bool)
        for other in source[:number]:
            earlier |= _among(np.unique(other), roots)
        total = sizes + np.array([counts.get(int(root), 0) for root in roots.tolist()], np.int64)
        for root, size in zip(roots[earlier].tolist(), total[earlier].tolist()):
            counts[root] = size
        order = np.argsort(-firsts)
        order = order[~earlier[order]]
        yield roots[order], total[order]


def _shares(count: int, sizes: Sequence[int]) -> list[int]:
    """`count` dealt out in proportion to sizes, largest remainders first; sums to count."""
    total = sum(sizes)
    exact = [count * size / total for size in sizes] if total else [0.0 for _ in sizes]
    dealt = [int(value) for value in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (dealt[i] - exact[i], i))
    for i in by_remainder[: count - sum(dealt)]:
        dealt[i] += 1
    return dealt


def _rank(roots: ndarray, seed: int) -> ndarray:
    """UInt64, a place in an order drawn from seed and content (splitmix64's finaliser, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        mixed = roots ^ (
            np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _among(kept: ndarray, values: ndarray) -> ndarray:
    """Bool, which of the values are in `kept`, which is sorted."""
    if not len(kept):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(kept, values), len(kept) - 1)
    found: ndarray = kept[place] == values
    return found
