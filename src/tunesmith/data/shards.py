"""A shard: some thousand rows as exact tokens, one compact file that is memory-mapped, and its books.

shard-00003.bin    ids | offsets | spans | lines | keys ..    each column in its narrowest type, one after another
shard-00003.json   where each column lies, sha256 of the file, what became of the rows     written last: it commits
shard-00003.rows.jsonl   a line a touched row

Three million rows of 40 tokens are 270 MB; a column whose values are all the same is stored as one value.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from tunesmith.data.books import Books
from tunesmith.data.cache import Lease
from tunesmith.data.ledger import FATES, TouchedRow
from tunesmith.data.samples import IGNORED, Sample
from tunesmith.data.sides import Block
from tunesmith.errors import DataError

_BLOCK = 4096  # bytes that a file system hands out
_EXPANDED = FATES.index("expanded")
_MOST_OPEN = 32  # an epoch reads a few shards at a time; what was mapped before is let go
_open: deque[weakref.ref[Shard]] = deque()


class staged:
    """A path to write to that takes its real name when all went well."""

    def __init__(self, path: Path) -> None:
        self.path, self.staging = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self.staging

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            os.replace(self.staging, self.path)
        else:
            self.staging.unlink(missing_ok=True)


def stamp(path: Path) -> list[int]:
    """What the file system knows of a file's content: size, and when it last changed (by either clock)."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def hash_of(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@final
class Shard:
    """A written shard. Its columns are mapped when first asked for, after their hash was compared."""

    def __init__(self, folder: Path, number: int, document: Mapping[str, Any], first_line: int = 0) -> None:
        self.base = folder / f"shard-{number:05d}"
        self.number, self.first_line = number, first_line
        self._document = document
        self._proved = False
        self.lease: Lease | None = None  # what keeps the file from being cleared away
        self.books = Books.of_json(document["books"])

    @classmethod
    def find(cls, folder: Path, number: int, first_line: int = 0) -> Shard | None:
        """The shard of this number if it is whole; one that is not is removed, and None is given."""
        base = folder / f"shard-{number:05d}"
        try:
            document = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
            shard = cls(folder, number, document, first_line)
            if shard.is_whole():
                return shard
        except (OSError, ValueError, KeyError, TypeError):
            pass
        remove(folder, number)
        return None

    @property
    def document(self) -> Mapping[str, Any]:
        """What the manifest keeps of it."""
        return self._document

    def is_whole(self) -> bool:
        """Whether nothing has touched the file since it was written, or its bytes are still the same."""
        path = self.base.with_suffix(".bin")
        if not path.exists() or not self.base.with_suffix(".rows.jsonl").exists():
            return False
        if hash_of(self.base.with_suffix(".rows.jsonl")) != self._document["touched_sha256"]:
            return False
        same = stamp(path) == self._document["stamp"] or hash_of(path) == self._document["sha256"]
        return bool(same)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return int(self._document["stamp"][0])

    @property
    def bytes_on_disk(self) -> int:
        """Of all its files, in blocks of 4096."""
        sizes = (path.stat().st_size for path in self.base.parent.glob(f"{self.base.name}.*"))
        return sum(-size % _BLOCK + size for size in sizes)

    @cached_property
    def map(self) -> ndarray:
        """UInt8[ndarray, "bytes"], the file, once its hash was compared. Raises DataError."""
        path = self.base.with_suffix(".bin")
        if not self._proved and hash_of(path) != self._document["sha256"]:
            remove(self.base.parent, self.number)
            what = "a shard of the cache of tokens is damaged; it has been taken away"
            raise DataError.at(str(path), what, "start again (train: with --resume): only it is made anew")
        self._proved = True
        _open.append(weakref.ref(self))  # a run that has ended keeps nothing open
        if len(_open) > _MOST_OPEN and (oldest := _open.popleft()()) is not None:
            oldest.forget()
        return np.memmap(path, np.uint8, "r")

    def column(self, name: str) -> ndarray:
        """A column, mapped; a constant one as a view of its only value."""
        kind, count, at, constant = self._document["columns"][name]
        dtype = np.dtype(kind)
        stored = 1 if constant else count
        found = self.map[at : at + stored * dtype.itemsize].view(dtype)
        return np.broadcast_to(found, (count,)) if constant else found

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return int(self._document["columns"]["lines"][1])

    @property
    def samples(self) -> int:
        """Samples of these rows."""
        return int(self._document["columns"]["span_counts"][1])

    @cached_property
    def _reading(self) -> tuple[ndarray, ndarray, _Firsts, ndarray | None]:
        firsts = _Firsts(self.column("span_counts"))
        weights = self.column("span_weights") if self.books.weighted else None
        return self.column("ids"), self.column("offsets"), firsts, weights

    @cached_property
    def _samples_of(self) -> _Firsts:
        return _Firsts(self.column("sample_counts"))

    def of_samples(self, of_rows: ndarray) -> ndarray:
        """What is true of each row, of each of its samples."""
        found: ndarray = np.repeat(of_rows, self.column("sample_counts"))
        return found

    def sample(self, number: int) -> Sample:
        """One sample, as the model reads it."""
        ids, offsets, firsts, weights = self._reading
        tokens = ids[int(offsets[number]) : int(offsets[number + 1])].astype(np.int32)
        first, last = firsts[number], firsts[number + 1]
        spans = self.column("spans")[2 * first : 2 * last].tolist()
        labels = np.full(len(tokens) - 1, IGNORED, np.int32)
        spelt = None
        if weights is not None:
            spelt = np.zeros(len(labels), np.float32)
        for place, (start, end) in enumerate(zip(spans[::2], spans[1::2])):
            labels[start - 1 : end - 1] = tokens[start:end]
            if spelt is not None and weights is not None:
                spelt[start - 1 : end - 1] = weights[first + place]
        return Sample(tokens[:-1], labels, self.address(number), spelt)

    def address(self, number: int) -> str:
        """FILE:LINE of a sample."""
        return self.row_address(self._samples_of.owner(number))

    def row_address(self, row: int) -> str:
        """FILE:LINE of a row."""
        return f"{self.books.name}:{self.first_line + int(self.column('lines')[row])}"

    @property
    def block(self) -> Block:
        """The keys of its rows."""
        return Block(self.column("keys"), self.column("key_counts"))

    def joined(self) -> ndarray:
        """Bool[ndarray, "samples"], which goes on with the dialogue of the one before: they begin alike.

        A row that its template expands turn by turn, or rows of the file that are so already.
        """
        counts = self.column("sample_counts").astype(np.int64)
        is_first = np.zeros(self.samples, bool)
        is_first[np.cumsum(counts) - counts] = True  # no row is without a sample
        expanded = self.of_samples(self.column("fates") == _EXPANDED)
        found: ndarray = np.where(is_first, self.of_samples(self.block.continues), expanded)
        return found

    def ids(self, learnt: bool) -> ndarray:
        """The distinct ids that stand here, or are learnt here."""
        return self.column("learnt" if learnt else "read").astype(np.int32)

    def lengths(self) -> ndarray:
        """Int64[ndarray, "samples"], tokens the model reads of each."""
        return np.diff(self.column("offsets").astype(np.int64)) - 1

    def sums(self, weigh: bool) -> ndarray:
        """Of each sample: how many tokens are learnt (Int64), or what they weigh together (Float64)."""
        spans = self.column("spans").astype(np.int64)
        sizes: ndarray = spans[1::2] - spans[0::2]
        if weigh and self.books.weighted:
            sizes = sizes * self.column("span_weights").astype(np.float64)
        counts = self.column("span_counts").astype(np.int64)
        summed: ndarray = np.add.reduceat(sizes, np.cumsum(counts) - counts)  # no sample is without a span
        return summed

    def forget(self) -> None:
        """Let go of what was mapped and worked out."""
        for name in ("map", "_reading", "_samples_of"):
            self.__dict__.pop(name, None)

    def touched(self) -> Iterator[TouchedRow]:
        """Rows that did not go whole, with their addresses."""
        with open(self.base.with_suffix(".rows.jsonl"), encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield TouchedRow(
                    **{**row, "address": f"{self.books.name}:{self.first_line + int(row['address'])}"}
                )


@final
class _Firsts:
    """Where the parts of each number begin, by how many each has; nothing is held where all have as many.

    32 shards are open at a time: eight bytes a row of theirs would be 8 MB.
    """

    def __init__(self, counts: ndarray) -> None:
        self._every = int(counts[0]) if len(counts) and counts.strides == (0,) else None
        self._ends = None if self._every is not None else np.cumsum(counts, dtype=np.uint32)

    def __getitem__(self, number: int) -> int:
        if self._ends is None:
            return number * (self._every or 0)
        return int(self._ends[number - 1]) if number else 0

    def owner(self, part: int) -> int:
        """The number that a part belongs to."""
        if self._ends is None:
            return part // (self._every or 1)
        return int(np.searchsorted(self._ends, part, side="right"))


def remove(folder: Path, number: int) -> None:
    """Take a shard away, its books first."""
    for suffix in (".json", ".bin", ".rows.jsonl"):
        (folder / f"shard-{number:05d}{suffix}").unlink(missing_ok=True)
