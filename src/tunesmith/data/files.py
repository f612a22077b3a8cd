"""Which files a path means, and how to open them: one file, a pattern, a folder, plain or packed.

data/a.jsonl  ->  a.jsonl        data/*.jsonl.gz  ->  a.jsonl.gz, b.jsonl.gz        data/  ->  all known in it
"""

from __future__ import annotations

import glob
import gzip
import sys
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

from tunesmith.data.hub import fetch, may_be_hub
from tunesmith.errors import DataError

LINES = {".jsonl", ".ndjson"}
TABLES = {".csv", ".tsv", ".parquet", ".arrow"}
KNOWN = {*LINES, ".json", ".txt", *TABLES}
PACKED = {".gz", ".zst"}
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that can be read. `name` is how addresses call it."""

    name: str
    path: Path

    @property
    def kind(self) -> str:
        """The suffix that says what is in it, such as .jsonl for a.jsonl.gz."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        return (suffixes[-2] if len(suffixes) > 1 else "") if self.is_packed else (suffixes or [""])[-1]

    @property
    def is_packed(self) -> bool:
        """Whether it is compressed."""
        return self.path.suffix.lower() in PACKED


def files_of(name: str) -> tuple[DataFile, ...]:
    """The data files that a path means, in order of their names; DataError says what is the matter."""
    path = Path(name)
    try:
        if path.is_dir():
            return _in_folder(name, path)
        if not path.exists() and any(mark in name for mark in "*?[") and not may_be_hub(name):
            found = [DataFile(each, Path(each)) for each in sorted(glob.glob(name, recursive=True))]
            found = [file for file in found if file.path.is_file()]
            if not found:
                raise DataError.at(name, "matches no file", "paths start from the folder the command runs in")
        elif not path.exists() and may_be_hub(name):
            return tuple(DataFile(each, local) for each, local in _fetched(name))
        elif not path.exists():
            raise DataError.at(name, "does not exist", "paths start from the folder the command runs in")
        else:
            found = [DataFile(name, path)]
        for file in found:
            _require(file)
    except broken(ValueError) as error:
        message = getattr(error, "strerror", None) or str(error)
        raise DataError.at(name, f"cannot be read: {message}", "give the path of a readable file") from error
    return tuple(found)


@lru_cache(maxsize=32)
def _fetched(name: str) -> tuple[tuple[str, Path], ...]:
    """Asked once in a process: a data set is read several times, and must be the same each time."""
    return tuple(fetch(name, frozenset(KNOWN)))


def _in_folder(name: str, path: Path) -> tuple[DataFile, ...]:
    """The data files right inside a folder, hidden ones aside; a saved `datasets` folder by its shards."""
    if (path / "dataset_dict.json").exists():
        inside = sorted(each.name for each in path.iterdir() if each.is_dir())
        raise DataError.at(
            name, f"holds several data sets: {', '.join(inside)}", f"name one: {name}/{inside[0]}"
        )
    files = [DataFile(f"{name.rstrip('/')}/{each.name}", each) for each in sorted(path.iterdir())]
    saved = (path / "state.json").exists() and (path / "dataset_info.json").exists()
    wanted = {".arrow"} if saved else KNOWN
    found = tuple(
        file for file in files
        if file.kind in wanted and file.path.is_file() and not file.path.name.startswith((".", "cache-"))
    )  # fmt: skip
    if not found:
        kinds = ", ".join(sorted(wanted))
        raise DataError.at(
            name, f"is a folder without data files ({kinds})", "give a file, or put some in it"
        )
    for file in found:
        _require(file)
    return found


def _require(file: DataFile) -> None:
    if file.kind not in KNOWN:
        kind = file.kind or "no suffix"
        raise DataError.at(file.name, f"is of an unknown kind ({kind})", _how_to_convert(file))
    with open_file(file.path) as stream:
        stream.read(1)


def broken(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What reading a file may raise that is cut short, or is not packed as its name says; and `more`."""
    zstandard = sys.modules.get("zstandard")
    packed: tuple[type[Exception], ...] = (zstandard.ZstdError,) if zstandard is not None else ()
    return (OSError, EOFError, zlib.error, *packed, *more)


def _how_to_convert(file: DataFile) -> str:
    if file.kind in {".xlsx", ".xls", ".ods"}:
        return "save it as .csv"
    if file.kind in {".xz", ".bz2", ".zip", ".tar"}:
        return "unpack it first; .gz and .zst are read as they are"
    return (
        f"one of {', '.join(sorted(KNOWN))}, each also as .gz or .zst; rename the file if it is one of these"
    )


def open_file(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked on the way. Raises DataError where zstandard is missing."""
    match path.suffix.lower():
        case ".gz":
            return cast("IO[bytes]", gzip.open(path, "rb"))
        case ".zst":
            try:
                import zstandard
            except ImportError as error:
                raise DataError.at(
                    str(path), "is packed with zstd, which needs one more package", "pip install zstandard"
                ) from error
            import io

            packed = open(path, "rb")  # noqa: SIM115  # closed with the reader around it
            raw = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            return cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", raw)))
        case _:
            return open(path, "rb", buffering=_BLOCK)  # a line of 1 GB by 8 KB takes three times as long
