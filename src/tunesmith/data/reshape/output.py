"""Write rows into a new file, whatever its kind, so that it is whole or not there.

rows --spool (jsonl beside the goal)--> .jsonl .json .csv .tsv .parquet .txt, packed or not --rename--> goal
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from tunesmith.data.files import LINES, PACKED, DataFile, files_of
from tunesmith.data.rawrows import END_OF_TEXT
from tunesmith.errors import DataError
from tunesmith.folder import let_read

KINDS = (*sorted(LINES), ".json", ".csv", ".tsv", ".parquet", ".txt")
_BATCH_ROWS = 512


def require_output(path: str, inputs: str | None = None) -> Path:
    """The path of a file to be made: of a kind that can be written, new, in a folder that is there."""
    goal = Path(path)
    file = DataFile(path, goal)
    if inputs is not None and goal.exists() and any(goal.samefile(one.path) for one in files_of(inputs)):
        raise DataError.at(path, "is the input itself, which is never written over", "name another --out")
    if file.kind not in KINDS or (file.kind == ".parquet" and file.is_packed):
        known = ", ".join(KINDS)
        raise DataError.at(
            path, f"is no kind of file that can be written ({known})", "name such an --out; .gz and .zst pack"
        )
    return require_new(goal)


def require_new(goal: Path) -> Path:
    """Refuse what would be written over, and a folder that is no folder."""
    if goal.exists():
        raise DataError.at(str(goal), "exists, and is not written over", "remove it, or name another --out")
    if not goal.parent.is_dir():
        raise DataError.at(str(goal.parent), "is no folder", f"make it first: mkdir -p {goal.parent}")
    return goal


@contextlib.contextmanager
def staged(goal: Path) -> Iterator[Path]:
    """A file beside `goal` to write; it takes the goal's name when all went well, else it is removed."""
    packed = goal.suffix if goal.suffix.lower() in PACKED else ""
    kind = Path(goal.name.removesuffix(packed)).suffix
    with _writable(goal):
        handle, name = tempfile.mkstemp(dir=goal.parent, prefix=f".{goal.stem}.", suffix=f"{kind}{packed}")
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        let_read(beside)
        require_new(goal)  # someone else may have been quicker
        os.replace(beside, goal)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(goal: Path) -> Iterator[Path]:
    """Likewise a folder."""
    with _writable(goal):
        beside = Path(tempfile.mkdtemp(dir=goal.parent, prefix=f".{goal.name}."))
    try:
        yield beside
        let_read(beside)
        require_new(goal)
        os.rename(beside, goal)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _writable(goal: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError.at(
            str(goal), f"cannot be written: {error.strerror}", "choose another --out"
        ) from error


class Spool:
    """Rows on their way into a file: put(row) for each, then lay(path) writes them in the kind of its name."""

    def __init__(self, folder: Path) -> None:
        with _writable(folder):
            self._file: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115  # closed by __exit__
                "w+", dir=folder, encoding="utf-8", newline="\n"
            )
        self.rows = 0
        self.columns: dict[str, set[str]] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, row: Mapping[str, Any]) -> None:
        """One more row of plain JSON values."""
        for key, value in row.items():
            self.columns.setdefault(key, set()).add(_shape(value))
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self.rows += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return (json.loads(line) for line in self._file)

    def lay(self, path: Path) -> None:
        """Write all rows to `path`, by the kind its name tells."""
        kind = DataFile(str(path), path).kind
        if kind == ".parquet":
            _lay_parquet(self, path)
            return
        with _packing(path) as file:
            _LAYERS[".jsonl" if kind in LINES else kind](self, file)


@contextlib.contextmanager
def _packing(path: Path) -> Iterator[IO[bytes]]:
    """The file to write bytes to, packed as its name says; the same rows give the same bytes."""
    with open(path, "wb") as file:
        match path.suffix.lower():
            case ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    yield cast("IO[bytes]", packed)
            case ".zst":
                try:
                    import zstandard
                except ImportError as error:
                    fix = "pip install zstandard, or write .gz"
                    raise DataError.at(path.name, "zstd needs one more package", fix) from error
                with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                    yield cast("IO[bytes]", packed)
            case _:
                yield file


def _lay_lines(spool: Spool, file: IO[bytes]) -> None:
    for row in spool:
        file.write(_json(row).encode() + b"\n")


def _lay_array(spool: Spool, file: IO[bytes]) -> None:
    file.write(b"[")
    for i, row in enumerate(spool):
        file.write((b",\n" if i else b"\n") + _json(row).encode())
    file.write(b"\n]\n")


def _lay_text(spool: Spool, file: IO[bytes]) -> None:
    """A marker ends each document, so that blank lines inside one do not."""
    for row in spool:
        file.write(row["text"].encode() + b"\n" + END_OF_TEXT + b"\n")


def _lay_cells(spool: Spool, file: IO[bytes], delimiter: str) -> None:
    """A header, and rows whose lists and objects are JSON inside a cell."""

    class Encoded:
        def write(self, text: str) -> None:
            file.write(text.encode())

    writer = csv.writer(Encoded(), delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(spool.columns)
    for row in spool:
        writer.writerow([_cell(row.get(name)) for name in spool.columns])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


_LAYERS: Mapping[str, Callable[[Spool, IO[bytes]], None]] = {
    ".jsonl": _lay_lines,
    ".json": _lay_array,
    ".txt": _lay_text,
    ".csv": lambda spool, file: _lay_cells(spool, file, ","),
    ".tsv": lambda spool, file: _lay_cells(spool, file, "\t"),
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _shape(value: Any) -> str:
    """What a column holds, as far as a table with types must know."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case str():
            return "string"
        case int():
            return "int64" if -(2**63) <= value < 2**63 else "json"
        case float():
            return "double"
        case list() if all(isinstance(item, str) for item in value):
            return "list<string>"
        case list() if all(isinstance(item, dict) and item.keys() == {"role", "content"} for item in value):
            return (
                "turns" if all(isinstance(text, str) for item in value for text in item.values()) else "json"
            )
        case _:
            return "json"


def _lay_parquet(spool: Spool, path: Path) -> None:
    """Columns of one simple type keep it; anything else is JSON in a string, which the readers take."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    types = {
        "bool": pa.bool_(), "string": pa.string(), "int64": pa.int64(), "double": pa.float64(),
        "list<string>": pa.list_(pa.string()), "turns": pa.list_(turn),
    }  # fmt: skip
    shapes = {name: shapes - {"null"} for name, shapes in spool.columns.items()}
    simple = {name: next(iter(found)) for name, found in shapes.items() if len(found) == 1}
    schema = pa.schema([(name, types.get(simple.get(name, "string"), pa.string())) for name in shapes])
    as_json = {name for name in shapes if simple.get(name, "json") == "json"}
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in spool:
            batch.append(
                {
                    name: _cell(value) if name in as_json and value is not None else value
                    for name, value in row.items()
                }
            )
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
