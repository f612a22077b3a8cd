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
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
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
from tunesmith.data.splits import is_augmented
from tunesmith.errors import DataError

_ALIGN = 64
_BLOCK = 4096  # bytes that a file system hands out
_EXPANDED = FATES.index("expanded")
_MOST_OPEN = 32  # an epoch reads a few shards at a time; what was mapped before is let go
_open: deque[weakref.ref[Shard]] = deque()


@final
class ShardBuilder:
    """Lays rows into columns; memory is that of one shard."""

    def __init__(self, name: str) -> None:
        self.books = Books(name)
        self.touched: list[TouchedRow] = []
        self._ids, self._offsets = array("I"), array("Q", [0])
        self._spans, self._span_counts, self._span_weights = array("I"), array("I"), array("f")
        self._lines, self._fates, self._made, self._sample_counts = (
            array("I"),
            array("B"),
            array("B"),
            array("I"),
        )
        self._kept, self._cut, self._repeated = array("I"), array("I"), array("I")
        self._keys, self._key_counts = array("Q"), array("I")

    @property
    def rows(self) -> int:
        """Rows kept so far."""
        return len(self._lines)

    def row(
        self,
        line: int,
        fate: str,
        keys: Sequence[bytes],
        kept: int,
        cut: int = 0,
        repeated: int = 0,
    ) -> None:
        """A kept row; its samples follow. `kept` counts its tokens that were not cut.

        An augmented row (`made`) is known by its original's key alone.
        """
        self._lines.append(line)
        self._fates.append(FATES.index(fate))
        self._made.append(is_augmented(keys))
        keys = keys[-1:] if is_augmented(keys) else keys
        self._sample_counts.append(0)
        for counts, value in ((self._kept, kept), (self._cut, cut), (self._repeated, repeated)):
            counts.append(value)
        self._key_counts.append(len(keys))
        for key in keys:
            self._keys.append(short(key))
        books = self.books
        books.fates[fate] += 1
        books.kept_tokens += kept
        books.cut_tokens += cut
        books.repeated_tokens += repeated

    def sample(
        self, ids: Iterable[int], spans: Sequence[tuple[int, int]], weights: Sequence[float] | None = None
    ) -> None:
        """A sample of the row that was begun last: its ids up to the last target, [start, end) of what is learnt."""
        self._ids.extend(ids)
        self._offsets.append(len(self._ids))
        for start, end in spans:
            self._spans.append(start)
            self._spans.append(end)
        self._span_counts.append(len(spans))
        if weights is not None and not self.books.weighted:
            self.books.weighted = True
        self._span_weights.extend(weights if weights is not None else [1.0] * len(spans))
        self._sample_counts[-1] += 1

    def columns(self) -> dict[str, ndarray]:
        """The columns, each in its narrowest type."""
        ids = np.frombuffer(self._ids, np.uint32)
        offsets = np.frombuffer(self._offsets, np.uint64)
        columns: dict[str, ndarray] = {
            "ids": ids,
            "offsets": offsets,
            "spans": np.frombuffer(self._spans, np.uint32),
            "span_counts": np.frombuffer(self._span_counts, np.uint32),
            "lines": np.frombuffer(self._lines, np.uint32),
            "fates": np.frombuffer(self._fates, np.uint8),
            "made": np.frombuffer(self._made, np.uint8),
            "sample_counts": np.frombuffer(self._sample_counts, np.uint32),
            "kept": np.frombuffer(self._kept, np.uint32),
            "cut": np.frombuffer(self._cut, np.uint32),
            "repeated": np.frombuffer(self._repeated, np.uint32),
            "key_counts": np.frombuffer(self._key_counts, np.uint32),
            **_distinct(ids, np.frombuffer(self._spans, np.uint32), self._span_counts, offsets),
        }
        narrow = {name: _narrow(column) for name, column in columns.items()}
        narrow["keys"] = np.frombuffer(self._keys, np.uint64)
        if self.books.weighted:
            narrow["span_weights"] = np.frombuffer(self._span_weights, np.float32)
        return narrow

    def write(self, folder: Path, number: int) -> None:
        """Write the shard; it exists once its .json does. No flush to disk: the hash tells a torn file."""
        base = folder / f"shard-{number:05d}"
        placed, digest = _write_columns(base.with_suffix(".bin"), self.columns())
        with _staged(base.with_suffix(".rows.jsonl")) as path, open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.touched)
        document = {
            "columns": placed,
            "sha256": digest,
            "stamp": stamp(base.with_suffix(".bin")),
            "touched_sha256": hash_of(base.with_suffix(".rows.jsonl")),
            "books": self.books.to_json(),
        }
        with _staged(base.with_suffix(".json")) as path:
            path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def short(key: bytes) -> int:
    """64 bits of a row's digest: among 3 million rows two unequal ones agree once in 4 million runs."""
    return int.from_bytes(key[:8], "little")


def _distinct(ids: ndarray, spans: ndarray, span_counts: array[int], offsets: ndarray) -> dict[str, ndarray]:
    """Which ids are read, and which are learnt."""
    starts = np.repeat(offsets[:-1], np.frombuffer(span_counts, np.uint32)).astype(np.int64)
    change = np.zeros(len(ids) + 1, np.int32)
    np.add.at(change, starts + spans[0::2], 1)
    np.add.at(change, starts + spans[1::2], -1)
    return {"read": np.unique(ids), "learnt": np.unique(ids[np.cumsum(change[:-1]) > 0])}


def _narrow(column: ndarray) -> ndarray:
    """The same values in the smallest type; one value where all are the same and there are several."""
    largest = int(column.max(initial=0))
    kind = next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)
    return column.astype(kind)


def _write_columns(path: Path, columns: Mapping[str, ndarray]) -> tuple[dict[str, Any], str]:
    """(where each column lies, sha256 of the file)."""
    placed: dict[str, Any] = {}
    digest = hashlib.sha256()
    with _staged(path) as staging, open(staging, "wb") as file:
        at = 0
        for name, column in columns.items():
            constant = len(column) > 1 and bool((column == column[0]).all())
            data = np.ascontiguousarray(column[:1] if constant else column).tobytes()
            placed[name] = [column.dtype.str, len(column), at, constant]
            data += b"\0" * (-len(data) % _ALIGN)
            file.write(data)
            digest.update(data)
            at += len(data)
    return placed, digest.hexdigest()


class _staged:
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
    def _reading(self) -> tuple[ndarray, ndarray, ndarray, ndarray | None]:
        counts = self.column("span_counts")
        firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        weights = self.column("span_weights") if self.books.weighted else None
        return self.column("ids"), self.column("offsets"), firsts, weights

    @cached_property
    def row_of(self) -> ndarray:
        """Int64[ndarray, "samples"], the row of each sample."""
        return np.repeat(np.arange(self.rows), self.column("sample_counts"))

    def sample(self, number: int) -> Sample:
        """One sample, as the model reads it."""
        ids, offsets, firsts, weights = self._reading
        tokens = ids[int(offsets[number]) : int(offsets[number + 1])].astype(np.int32)
        first, last = int(firsts[number]), int(firsts[number + 1])
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
        return self.row_address(int(self.row_of[number]))

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
        row = self.row_of
        is_first = np.diff(row, prepend=-1) > 0
        expanded = self.column("fates")[row] == _EXPANDED
        found: ndarray = np.where(is_first, self.block.continues[row], expanded)
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
        for name in ("map", "_reading", "row_of"):
            self.__dict__.pop(name, None)

    def touched(self) -> Iterator[TouchedRow]:
        """Rows that did not go whole, with their addresses."""
        with open(self.base.with_suffix(".rows.jsonl"), encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield TouchedRow(
                    **{**row, "address": f"{self.books.name}:{self.first_line + int(row['address'])}"}
                )


def remove(folder: Path, number: int) -> None:
    """Take a shard away, its books first."""
    for suffix in (".json", ".bin", ".rows.jsonl"):
        (folder / f"shard-{number:05d}{suffix}").unlink(missing_ok=True)
