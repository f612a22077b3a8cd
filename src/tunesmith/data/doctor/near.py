r"""Near duplicates by MinHash (Broder 1997) and banding: rows that share most of their word triples.

text -> units (words; each Chinese character is one) -> triples -> 64 smallest hashes -> 16 bands of 4
rows with an equal band are compared by their hashes, then exactly, on a second reading of only those rows
Two rows of overlap J meet in a band with probability 1 - (1 - J^4)^16: 0.9998 at 0.8, 0.99 at 0.7, 0.33 at 0.4.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

HASHES, BANDS = 64, 16
WIDTH = HASHES // BANDS
SHINGLE = 3
LEAST_UNITS = 10
MOST_UNITS = 20_000
MOST_ROWS = 2_000_000  # 128 bytes each: 256 MB
_BATCH = 200_000
_UNIT = re.compile(
    r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]+"
)
_WORDS_KEPT = 1 << 20

_rng = np.random.default_rng(20260101)
_MULTIPLY = _rng.integers(1, 1 << 63, HASHES, dtype=np.uint64) | np.uint64(1)
_ADD = _rng.integers(0, 1 << 63, HASHES, dtype=np.uint64)
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(slots=True)
class Units:
    """Turns text into numbers, one a word or Chinese character; the same word has the same number anywhere."""

    known: dict[str, int] = field(default_factory=dict)

    def of(self, text: str) -> ndarray:
        """uint64 numbers of the units of a text, case and width folded, punctuation left out."""
        folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()
        known = self.known
        numbers = []
        for unit in _UNIT.findall(folded):
            number = known.get(unit)
            if number is None:
                if len(known) >= _WORDS_KEPT:
                    known.clear()
                digest = hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                number = known[unit] = int.from_bytes(digest, "little")
            numbers.append(number)
        return np.array(numbers, np.uint64)


def shingles(units: ndarray, width: int) -> ndarray:
    """A 64-bit hash for each `width` units that follow each other; of fewer units, one for all."""
    if not len(units):
        return units
    width = min(width, len(units))
    count = len(units) - width + 1
    mixed = np.zeros(count, np.uint64)
    for i in range(width):
        mixed = (mixed ^ units[i : i + count]) * _MIX[0]
        mixed ^= mixed >> np.uint64(29)
    return mixed * _MIX[1] ^ (mixed >> np.uint64(32))


def overlap(one: ndarray, other: ndarray) -> float:
    """|A and B| / |A or B| of two sets of hashes."""
    one, other = np.unique(one), np.unique(other)
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


def sketch(rows: Sequence[ndarray]) -> ndarray:
    """MinHash of rows of shingles, UInt16[ndarray, "rows 64"]: the smallest of each hash, its lowest 16 bits."""
    values = np.concatenate(rows)
    starts = np.cumsum([0, *(len(part) for part in rows[:-1])])
    found = np.empty((len(rows), HASHES), np.uint16)
    for i in range(HASHES):
        hashed = ((values * _MULTIPLY[i] + _ADD[i]) >> np.uint64(32)).astype(np.uint32)
        found[:, i] = np.minimum.reduceat(hashed, starts).astype(np.uint16)
    return found


@dataclass(slots=True)
class Sketches:
    """The MinHash sketch of each row that was added: 64 numbers of 16 bits, whatever its length."""

    units: Units = field(default_factory=Units)
    rows: array[int] = field(default_factory=lambda: array("q"))
    kept: list[ndarray] = field(default_factory=list)
    waiting: list[ndarray] = field(default_factory=list)
    waiting_size: int = 0
    left_out: int = 0

    def add(self, row: int, text: str) -> None:
        """One more row by its number; a text of a few words is left out, as is what passes the limit."""
        units = self.units.of(text[: 20 * MOST_UNITS])[:MOST_UNITS]
        if len(units) < LEAST_UNITS:
            return
        if len(self.rows) >= MOST_ROWS:
            self.left_out += 1
            return
        self.rows.append(row)
        self.waiting.append(shingles(units, SHINGLE))
        self.waiting_size += len(self.waiting[-1])
        if self.waiting_size >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Sketch the waiting rows together."""
        if not self.waiting:
            return
        self.kept.append(sketch(self.waiting))
        self.waiting, self.waiting_size = [], 0

    def pairs(self, least: float) -> Iterator[tuple[int, int]]:
        """(row, an earlier row) that probably overlap by `least` or more; each row at most a few times."""
        self._flush()
        if not self.kept:
            return
        sketches = np.concatenate(self.kept) if len(self.kept) > 1 else self.kept[0]
        self.kept = [sketches]
        rows = np.frombuffer(self.rows, np.int64)
        seen: set[tuple[int, int]] = set()
        # the sketch's estimate strays by 0.05: what it puts a little under the limit is looked at too
        needed = int(np.ceil((least - 0.1) * HASHES))
        for band in range(BANDS):
            for later, earlier in _meetings(sketches[:, WIDTH * band : WIDTH * (band + 1)]):
                alike = (sketches[later] == sketches[earlier]).sum(axis=1) >= needed
                for pair in zip(rows[later[alike]].tolist(), rows[earlier[alike]].tolist()):
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _meetings(band: ndarray) -> Iterator[tuple[ndarray, ndarray]]:
    """(later, earlier) indices of rows with an equal band: each with the first of its group, and its neighbour."""
    key = np.ascontiguousarray(band).view(np.uint64).ravel()
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    places = np.flatnonzero(same)
    if not len(places):
        return
    later, neighbour = order[places + 1], order[places]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    first = order[starts[np.searchsorted(starts, places + 1, side="right") - 1]]
    yield later, first
    apart = neighbour != first
    if apart.any():
        yield later[apart], neighbour[apart]


def groups(pairs: Iterable[tuple[int, int]]) -> Mapping[int, int]:
    """Each row that is like an earlier one, with the first row of its group."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (up := parent.get(row, row)) != row:
            parent[row] = parent.get(up, up)
            row = up
        return row

    for one, other in pairs:
        a, b = root(one), root(other)
        parent[max(a, b)] = parent.setdefault(min(a, b), min(a, b))
    return {row: root(row) for row in sorted(parent) if root(row) != row}
