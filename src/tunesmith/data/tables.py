"""Read rows of tables: csv and tsv a row at a time, parquet and arrow a batch at a time.

question,answer        ->  {"question": "1+1?", "answer": "2"}
1+1?,2
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tunesmith.data.files import DataFile, open_file
from tunesmith.data.rawrows import MAX_ROW_BYTES, RawRow
from tunesmith.errors import DataError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BATCH_ROWS = 64


def split_table(file: DataFile) -> Iterator[RawRow]:
    """Each row of a table as a value, addressed by its line (csv, tsv) or its number (parquet, arrow)."""
    yield from (_split_cells(file) if file.kind in (".csv", ".tsv") else _split_columns(file))


class _Lines:
    """The lines of a file for the csv reader, and where it stands."""

    def __init__(self, file: IO[bytes], first: bytes) -> None:
        self.file, self.line, self.position = file, first, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, self.line = self.line or self.file.readline(MAX_ROW_BYTES), b""
        if not line:
            raise StopIteration
        self.position += len(line)
        return line.decode("utf-8", "surrogateescape")


def _split_cells(file: DataFile) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with open_file(file.path) as stream:
        first = stream.readline(MAX_ROW_BYTES).removeprefix(b"\xef\xbb\xbf")
        lines = _Lines(stream, first)
        delimiter = "\t" if file.kind == ".tsv" else ";" if b";" in first and b"," not in first else ","
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            address = f"{file.name}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RawRow(address, b"", lines.position, ("broken_csv", str(error)))
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if header is None and not _is_question(cells):
                header = _header(file, cells)
                continue
            yield _row(address, cells, header, lines.position)


def _is_question(cells: Sequence[str]) -> bool:
    """Whether a first row is no header but an item as MMLU has them: question, options, letter."""
    return len(cells) >= 4 and cells[-1].strip() in tuple(_LETTERS[: len(cells) - 2])


def _header(file: DataFile, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError.at(f"{file.name}:1", f"two columns are called {twice[0]!r:.40}", "rename one of them")
    return names


def _row(address: str, cells: Sequence[str], header: Sequence[str] | None, end: int) -> RawRow:
    if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
        from tunesmith.data.sources import describe_bytes

        data = "\n".join(cells).encode("utf-8", "surrogateescape")
        return RawRow(address, b"", end, ("wrong_encoding", describe_bytes(data, 0)))
    if any("\0" in cell for cell in cells):
        return RawRow(address, b"", end, ("nul_character", "a cell holds a NUL character"))
    if header is None:
        value: dict[str, Any] = {"question": cells[0], "options": cells[1:-1], "answer": cells[-1]}
    elif len(cells) != len(header):
        what = f"{len(cells)} cells where the header has {len(header)}"
        return RawRow(address, b"", end, ("wrong_columns", what))
    else:
        value = {name: cell for name, cell in zip(header, cells) if name}
    return RawRow(address, b"", end, value=value)


def _split_columns(file: DataFile) -> Iterator[RawRow]:
    """Rows through pyarrow, some at a time; a file it cannot read is a DataError."""
    import pyarrow

    number = 0
    try:
        for batch in _batches(file.path, file.kind):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for value in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield RawRow(f"{file.name}:{number}", b"", number, value=value)
    except (pyarrow.ArrowException, OSError) as error:
        what = f"cannot be read as {file.kind[1:]}: {str(error).splitlines()[0][:200]}"
        raise DataError.at(file.name, what, "check that the file is whole") from error


def _batches(path: Path, kind: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() != kind:
        raise OSError("it is packed; parquet and arrow pack themselves, unpack it first")
    if kind == ".parquet":
        yield from pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS)
        return
    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            stored = pyarrow.ipc.open_file(source)
            yield from (stored.get_batch(i) for i in range(stored.num_record_batches))
            return
        yield from reader
