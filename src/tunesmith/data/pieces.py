"""Cut a source into pieces of some megabytes, a shard each: by seeking where rows are lines, else by reading.

a.jsonl, 10 MB   ->  a.jsonl[0:4 MB], a.jsonl[4:8], a.jsonl[8:10]        only where each ends is looked for
a.csv, a.json    ->  the rows of 4 MB, the rows of the next 4 MB, ..     cut here, read once

Where a piece ends depends on the file alone, so shards are the same whoever makes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.files import files_of
from tunesmith.data.rawrows import RawRow, split_lines
from tunesmith.data.sources import has_plain_lines, rows_of
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Source

PIECE_BYTES = 4 << 20
_VALUE_BYTES = 16  # what a cell of a table counts for, beside its text


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one file: its bytes [start, end), or the rows themselves.

    Lines of a piece that is read by its bytes count from 0, and whoever puts the pieces together knows where it
    begins; rows that came with the piece know their line.
    """

    number: int
    name: str
    path: Path
    start: int
    end: int
    rows: tuple[RawRow, ...] | None = None

    def read(self) -> Iterator[tuple[int, RawRow]]:
        """Each row with its line (or number)."""
        rows = self.rows if self.rows is not None else split_lines(self.name, self.path, self.start, self.end)
        for raw in rows:
            yield int(raw.address.rpartition(":")[2]), raw


def pieces_of(source: Source, limit: int | None, reporter: Reporter | None = None) -> Iterator[Piece]:
    """The pieces of a source's first `limit` rows; their numbers count on over its files."""
    number, left = 0, limit
    for file in files_of(source.path):
        if left is None and has_plain_lines(file):
            for start, end in cut_at_lines(file.path, PIECE_BYTES):
                yield Piece(number, file.name, file.path, start, end)
                number += 1
            continue
        held: list[RawRow] = []
        size, start = 0, 0
        for raw in rows_of(source, file, reporter or Silent()):
            if left is not None and left <= 0:
                break  # the rest is not read
            held.append(raw)
            size += len(raw.data) + _size(raw.value)
            left = None if left is None else left - 1
            if size >= PIECE_BYTES:
                yield Piece(number, file.name, file.path, start, raw.end, tuple(held))
                number, held, size, start = number + 1, [], 0, raw.end
        if held:
            yield Piece(number, file.name, file.path, start, held[-1].end, tuple(held))
            number += 1


def count_rows(source: Source) -> int:
    """Rows of a source, read or not."""
    return sum(1 for file in files_of(source.path) for _ in rows_of(source, file, Silent()))


def cut_at_lines(path: Path, most: int) -> Iterator[tuple[int, int]]:
    """[start, end) of stretches of about `most` bytes that end with a line."""
    size, start = path.stat().st_size, 0
    with open(path, "rb", buffering=1 << 20) as file:
        while start < size:
            end = start + most
            if end < size:
                file.seek(end - 1)
                while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                    pass
                end = file.tell()
            yield start, min(end, size)
            start = min(end, size)


def _size(value: Any) -> int:
    """Roughly the bytes of a table's row."""
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value) + _VALUE_BYTES
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return _VALUE_BYTES + sum(map(_size, inner))


def workers_wanted(size_bytes: int) -> int:
    """How many processes are worth it: none for what one renders within a second or two."""
    asked = os.environ.get("TUNESMITH_WORKERS")
    if asked and asked.isdecimal():
        return int(asked)
    if size_bytes < 3 * PIECE_BYTES:
        return 0
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, size_bytes // PIECE_BYTES, 32)
