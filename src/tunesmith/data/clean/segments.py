"""Where each row stands in its file, to the byte, so that a copy differs only where something was cleaned.

jsonl  {..}\\n{..}\\n        a row and its line          json  [ {..}, {..} ]   an item, and what parts it from others
txt    document \\n\\n       a document and its blank     csv   a,b\\n           a record, by the lines it was read from
"""

from __future__ import annotations

import csv
import io
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.data.files import LINES, DataFile
from tunesmith.data.rawrows import RawRow
from tunesmith.data.sources import is_array

Kind = Literal["lines", "array", "text", "cells"]
_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Segment:
    """A row and its bytes [start, end); `until` is where its line, blank or record ends. None: cannot be told."""

    raw: RawRow
    start: int | None
    end: int
    until: int


def kind_of_file(file: DataFile, data: mmap.mmap | bytes) -> Kind:
    """How the rows of a file lie in it."""
    if file.kind in (".csv", ".tsv"):
        return "cells"
    if file.kind == ".txt":
        return "text"
    return "array" if is_array(bytes(data[: 1 << 16]), lines_by_name=file.kind in LINES) else "lines"


def segments(rows: Iterator[RawRow], kind: Kind, data: mmap.mmap | bytes) -> Iterator[Segment]:
    """The place of each row, in order."""
    last = 0
    records = _records(data) if kind == "cells" else {}
    for raw in rows:
        if kind == "cells":
            start, end = records.get(int(raw.address.rpartition(":")[2]), (None, last))
            yield Segment(raw, start, end, end)
            last = end
            continue
        if kind == "text":
            yield _document(raw, last, data)
            last = raw.end
            continue
        end = raw.end
        while end > last and data[end - 1] in _SPACE:
            end -= 1
        known = raw.data and data[end - len(raw.data) : end] == raw.data
        yield Segment(raw, end - len(raw.data) if known else None, end, raw.end)
        last = raw.end


def _document(raw: RawRow, last: int, data: mmap.mmap | bytes) -> Segment:
    """A document behind `last`; its lines may end in \\r\\n, which reading takes away."""
    for written in (raw.data, raw.data.replace(b"\n", b"\r\n")):
        if written and (found := data.find(written, last, raw.end)) >= 0:
            return Segment(raw, found, found + len(written), raw.end)
    return Segment(raw, None, last, raw.end)


def _records(data: mmap.mmap | bytes) -> Mapping[int, tuple[int, int]]:
    """{line number: its record's bytes} of a csv file, its line end included."""
    lines = bytes(data).splitlines(keepends=True) if b"\r" not in data[:] else _split_newlines(bytes(data))
    at = 0
    ends = [0]
    for line in lines:
        at += len(line)
        ends.append(at)
    texts = (
        line.decode("utf-8-sig" if i == 0 else "utf-8", "surrogateescape") for i, line in enumerate(lines)
    )
    reader = csv.reader(texts, delimiter=delimiter_of(lines[0] if lines else b""), strict=True)
    found: dict[int, tuple[int, int]] = {}
    while True:
        first = reader.line_num
        try:
            next(reader)
        except StopIteration:
            return found
        except csv.Error:
            continue
        found[first + 1] = (ends[first], ends[reader.line_num])


def _split_newlines(data: bytes) -> list[bytes]:
    """Lines as files are read: ended by \\n alone."""
    return list(io.BytesIO(data))


def delimiter_of(first: bytes) -> str:
    """What parts the cells of a table, by its first line."""
    if b"\t" in first and b"," not in first:
        return "\t"
    return ";" if b";" in first and b"," not in first else ","


def write_cells(cells: Sequence[str], delimiter: str, line_end: str) -> str:
    """One record of a csv file."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=line_end).writerow(cells)
    return out.getvalue()


def read_cells(text: str, delimiter: str) -> list[str]:
    """The cells of one record."""
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def with_cells(record: str, value: Mapping[str, Any], header: Sequence[str], delimiter: str) -> str:
    """A record with the cells of `value` in it: by its header, or a question, its options and its answer."""
    line_end = "\r\n" if record.endswith("\r\n") else "\n" if record.endswith("\n") else ""
    cells = read_cells(record, delimiter)
    if set(value) <= set(header):
        cells = [value.get(name, cell) if name else cell for name, cell in zip(header, cells)]
    else:
        cells = [value["question"], *value["options"], value["answer"]]
    return write_cells(cells, delimiter, line_end)
