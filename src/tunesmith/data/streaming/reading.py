"""Rows of a stream, each with the place behind it, from which reading can go on after a kill.

data/*.jsonl, feed/    file after file in order of their names; at_end: wait also waits for rows and files to come
pipe, -                lines, once; what has left the pipe is kept (spool.py) and read from there
rows.py:make           make(start) gives an iterator of rows (dicts, or texts), the first `start` passed over
"""

from __future__ import annotations

import importlib
import json
import os
import stat
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from tunesmith.data.files import DataFile, files_of
from tunesmith.data.rawrows import RawRow, rows_of_lines, split_lines
from tunesmith.data.shards import hash_of
from tunesmith.data.sources import has_plain_lines, rows_of
from tunesmith.data.streaming.spool import Spool
from tunesmith.errors import DataError, Problem
from tunesmith.events import Silent
from tunesmith.recipe import Source

POLL_SECONDS = 0.5
_ONCE = (
    "is a pipe, which can be read only once: to look at its rows would take them from the run",
    "train learns from it as it is; for plan, lr-find, sweep, stages and data verbs write its rows into the files of a"
    " folder, with stream: {at_end: wait}",
)
_TAIL = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a row: rows so far, and in files which file, its bytes, its lines or rows so far."""

    rows: int = 0
    file: str = ""
    byte: int = 0
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it is kept beside a shard."""
        return asdict(self)


def kind_of(source: Source) -> str:
    """files, pipe or function."""
    path = source.path
    if path == "-":
        return "pipe"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        name, colon, function = path.rpartition(":")
        return "function" if colon and function.isidentifier() and name else "files"
    return "files" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "pipe"


def spool_of(source: Source, base: Path) -> Spool | None:
    """Where a pipe's bytes are kept, in what a run keeps of its streams; None for what can be read again."""
    if source.stream is None or kind_of(source) != "pipe":
        return None
    return Spool(source.path, base, source.stream.at_end == "wait")


def require_kept(sources: Iterable[Source], kept: Path | None) -> None:
    """What can be read only once needs a run that keeps it. Raises DataError; nothing has been read by then."""
    pipes = [source.path for source in sources if source.stream is not None and kind_of(source) == "pipe"]
    problems = [Problem(path, *_ONCE) for path in pipes if kept is None]
    if kept is not None and "-" in pipes and os.isatty(0):
        what, fix = "standard input is a terminal: no rows come from it", "MAKE_ROWS | tunesmith train RECIPE"
        problems.append(Problem("-", what, fix))
    if problems:
        raise DataError(problems)


def read_stream(source: Source, place: Place, spool: Spool | None = None) -> Iterator[tuple[RawRow, Place]]:
    """Every row behind `place`; a pipe's from its spool. Raises DataError where the source cannot be read."""
    if spool is not None:
        return _pipe(source, place, spool)
    return (_function if kind_of(source) == "function" else _files)(source, place)


def head_of(source: Source) -> Iterator[RawRow]:
    """The rows of its first window, to look at. Raises DataError for what can be read only once."""
    assert source.stream is not None
    require_kept([source], None)
    calm = source.model_copy(update={"stream": source.stream.model_copy(update={"at_end": "stop"})})
    return islice((raw for raw, _ in read_stream(calm, Place())), source.stream.window)


def digest_of(source: Source) -> str:
    """What of a stream must be the same when a run goes on: how it is read; of a function, its file."""
    path = source.path.rpartition(":")[0]
    if kind_of(source) == "function" and path.endswith(".py") and Path(path).is_file():
        return hash_of(Path(path))
    return f"stream {source.path}"


# --- files ----------------------------------------------------------------------------------------------------


def _files(source: Source, place: Place) -> Iterator[tuple[RawRow, Place]]:
    waits = source.stream is not None and source.stream.at_end == "wait"
    done: set[str] = set()  # files that do not grow, read to their end
    while True:
        files = [file for file in files_of(source.path) if file.name >= place.file]
        if place.file and (not files or files[0].name != place.file):
            what = f"{place.file}, of which {place.line} rows were read, is no longer there"
            raise DataError.at(source.path, what, "put it back; a run that begins anew needs it no more")
        known = len(done), place
        for number, file in enumerate(files):
            if file.name in done:
                continue
            growing = waits and number == len(files) - 1
            for raw, place in _file(source, file, place, growing):  # noqa: B020  # goes on behind the last row
                yield raw, place
            if not (growing and has_plain_lines(file)):
                done.add(file.name)
        if not waits:
            return
        if (len(done), place) == known:
            time.sleep(POLL_SECONDS)


def _file(source: Source, file: DataFile, place: Place, growing: bool) -> Iterator[tuple[RawRow, Place]]:
    """The rows of one file behind `place`; of one that grows, whole lines only."""
    begun = place if place.file == file.name else Place(place.rows, file.name)
    rows = begun.rows
    if not has_plain_lines(file):
        rest = islice(rows_of(source, file, Silent()), begun.line, None)
        for count, raw in enumerate(rest, 1):
            yield raw, Place(rows + count, file.name, 0, begun.line + count)
        return
    size = file.path.stat().st_size
    if size < begun.byte:
        what = f"is shorter than what was read of it ({size} of {begun.byte} bytes)"
        raise DataError.at(file.name, what, "put the file back as it was; a stream only grows")
    stop = _end_of_lines(file.path, size) if growing else size
    if stop <= begun.byte:
        return
    for raw in split_lines(file.name, file.path, begun.byte, stop):
        rows += 1
        line = begun.line + int(raw.address.rpartition(":")[2])
        raw = replace(raw, address=f"{file.name}:{line}") if begun.line else raw
        yield raw, Place(rows, file.name, raw.end, line)


def _end_of_lines(path: Path, size: int) -> int:
    """Where the last whole line of a file ends."""
    with open(path, "rb") as file:
        end = size
        while end > 0:
            start = max(0, end - _TAIL)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


# --- a pipe ---------------------------------------------------------------------------------------------------


def _pipe(source: Source, place: Place, spool: Spool) -> Iterator[tuple[RawRow, Place]]:
    rows = place.rows
    with spool.read_from(place.byte) as lines:
        for raw in rows_of_lines(source.path, lines, first=rows + 1, start=place.byte):
            rows += 1
            yield raw, Place(rows, byte=raw.end)


# --- a function -----------------------------------------------------------------------------------------------


def _function(source: Source, place: Place) -> Iterator[tuple[RawRow, Place]]:
    rows, name = place.rows, source.path
    make = _load(name)
    try:
        for value in make(rows):
            rows += 1
            yield _row(f"{name}:{rows}", value, rows), Place(rows)
    except DataError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}, line {at.lineno}"
        what = f"raised {type(error).__name__}: {error} ({where}), after {rows} rows"
        fix = "it is called with the number of rows to pass over, and gives an iterator of rows"
        raise DataError.at(name, what, fix) from error


def _load(name: str) -> Callable[[int], Iterator[Any]]:
    """FILE.py:FUNCTION, or package.module:FUNCTION. It runs as code: name only what you have read."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        from tunesmith.data.doctor.custom import load_module  # the doctor's rules come with it

        module = load_module(Path(path), "tunesmith_stream")
    else:
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            fix = "paths start from the folder the command runs in; a function is named FILE.py:FUNCTION"
            raise DataError.at(name, f"neither a file nor a module: {error}", fix) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise DataError.at(name, f"{path} has no function {function}", "def NAME(start): yield row")
    return cast("Callable[[int], Iterator[Any]]", found)


def _row(address: str, value: Any, end: int) -> RawRow:
    """As if it had stood in a file: what JSON cannot say is a fault of the row."""
    if isinstance(value, str):
        return RawRow(address, value.encode("utf-8", "surrogatepass"), end, is_text=True)
    try:
        return RawRow(address, json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), end)
    except (TypeError, ValueError, RecursionError) as error:
        return RawRow(address, b"", end, ("wrong_type", f"the row is not plain data: {error}"))
