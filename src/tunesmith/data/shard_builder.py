"""Lay the rows of one shard into columns and write them: ids, spans and keys end to end, never a list of rows.

row(line 17, whole, keys)  sample([5 9 8 2], spans [(2, 4)])   ->  ids | offsets | spans | keys ..   ->  shard-00003.*
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from tunesmith.data.books import Books
from tunesmith.data.ledger import FATES, TouchedRow
from tunesmith.data.shards import hash_of, staged, stamp
from tunesmith.data.splits import is_augmented

_ALIGN = 64


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
        with staged(base.with_suffix(".rows.jsonl")) as path, open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self.touched)
        document = {
            "columns": placed,
            "sha256": digest,
            "stamp": stamp(base.with_suffix(".bin")),
            "touched_sha256": hash_of(base.with_suffix(".rows.jsonl")),
            "books": self.books.to_json(),
        }
        with staged(base.with_suffix(".json")) as path:
            path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def short(key: bytes) -> int:
    """64 bits of a row's digest: among 3 million rows two unequal ones agree once in 4 million runs."""
    return int.from_bytes(key[:8], "little")


def _distinct(ids: ndarray, spans: ndarray, span_counts: array[int], offsets: ndarray) -> dict[str, ndarray]:
    """Which ids are read, and which are learnt."""
    starts = np.repeat(offsets[:-1], np.frombuffer(span_counts, np.uint32)).astype(np.int64)
    inside = np.zeros(len(ids) + 1, np.int8)  # spans never overlap: 1 from where one begins to where it ends
    np.add.at(inside, starts + spans[0::2], 1)
    np.add.at(inside, starts + spans[1::2], -1)
    np.cumsum(inside, dtype=np.int8, out=inside)
    return {"read": _ids_in(ids), "learnt": _ids_in(ids[inside[:-1] > 0])}


def _ids_in(ids: ndarray) -> ndarray:
    """The distinct ids, rising; without a sorted copy of millions."""
    there = np.zeros(int(ids.max(initial=0)) + 1, bool)
    there[ids] = True
    return np.flatnonzero(there).astype(np.uint32)


def _narrow(column: ndarray) -> ndarray:
    """The same values in the smallest type; one value where all are the same and there are several."""
    largest = int(column.max(initial=0))
    kind = next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)
    return column.astype(kind)


def _write_columns(path: Path, columns: Mapping[str, ndarray]) -> tuple[dict[str, Any], str]:
    """(where each column lies, sha256 of the file)."""
    placed: dict[str, Any] = {}
    digest = hashlib.sha256()
    with staged(path) as staging, open(staging, "wb") as file:
        at = 0
        for name, column in columns.items():
            constant = len(column) > 1 and bool((column == column[0]).all())
            data = np.ascontiguousarray(column[:1] if constant else column)
            placed[name] = [column.dtype.str, len(column), at, constant]
            for part in (data.data, b"\0" * (-data.nbytes % _ALIGN)):
                file.write(part)
                digest.update(part)
            at += data.nbytes + -data.nbytes % _ALIGN
    return placed, digest.hexdigest()
