"""Read rows from files, one at a time, each with its address; a broken row costs only itself.

a.jsonl  line 12            -> Row("a.jsonl:12", {...})         .json, .txt and .jsonl alike; a BOM, CRLF,
a.jsonl  line 13, cut short -> BadRow("a.jsonl:13", "broken_json", ...)   blank lines are no fault
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.data.files import LINES, TABLES, DataFile, broken, files_of, open_file
from tunesmith.data.rawrows import RawRow, split_json_array, split_lines, split_text
from tunesmith.data.tables import split_table
from tunesmith.errors import DataError
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Source


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the file. `address` is PATH:LINE (of a .json array: PATH:ITEM), from 1."""

    address: str
    value: Any


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read. `reason` is short and countable, `detail` says it in words."""

    address: str
    reason: str
    detail: str


def read_rows(source: Source, reporter: Reporter | None = None) -> Iterator[Row | BadRow]:
    """Each row of the file, in order; a .txt gives {"text": document} rows.

    Raises DataError when the file as a whole cannot be read; a bad row never raises.
    """
    for raw in raw_rows(source, reporter):
        yield parse(raw)


def raw_rows(source: Source, reporter: Reporter | None = None) -> Iterator[RawRow]:
    """Each row as undecoded bytes: cheap to count. Memory stays within a row and a read block."""
    reporter = reporter or Silent()
    for file in files_of(source.path):
        yield from rows_of(source, file, reporter)


def rows_of(source: Source, file: DataFile, reporter: Reporter) -> Iterator[RawRow]:
    """Each row of one of a source's files. Raises DataError where it cannot be read as a whole."""
    size = file.path.stat().st_size
    counts_bytes = not file.is_packed and file.kind not in (".parquet", ".arrow")
    what = f"reading {file.name}"
    last = 0
    try:
        for raw in _split(source, file):
            if raw.end - last > 4_000_000:
                reporter.progress(what, raw.end, size if counts_bytes else None)
                last = raw.end
            yield raw
    except broken() as error:
        message = getattr(error, "strerror", None) or str(error)
        raise DataError.at(file.name, f"cannot be read: {message}", "check the file") from error
    reporter.progress(what, size, size)


def _split(source: Source, file: DataFile) -> Iterator[RawRow]:
    """The file cut into rows, by what it is rather than only by how it is called."""
    name, path = file.name, file.path
    if file.kind in (".parquet", ".arrow"):
        yield from split_table(file)
        return
    with open_file(path) as stream:
        head = stream.read(1 << 16)
    if coding := wide_encoding(head):
        detail = f"the whole file is {coding}, not UTF-8; convert it: iconv -f {coding} -t UTF-8"
        yield RawRow(f"{name}:1", b"", path.stat().st_size, ("wrong_encoding", detail))
        return
    if file.kind in TABLES:
        yield from split_table(file)
    elif file.kind == ".txt":
        yield from split_text(name, path, source.split)
    elif is_array(head, lines_by_name=file.kind in LINES):
        yield from split_json_array(name, path)
    elif file.kind == ".json" and not _has_whole_line(head):
        raise DataError.at(
            name,
            "is one JSON object, not an array of rows",
            "write the rows as an array [{...}, {...}], or one a line as .jsonl",
        )
    else:
        yield from split_lines(name, path)


def has_plain_lines(file: DataFile) -> bool:
    """Whether the rows are the lines of a plain file, so that reading can begin anywhere."""
    if file.is_packed or file.kind in TABLES or file.kind == ".txt":
        return False
    with open_file(file.path) as stream:
        head = stream.read(1 << 16)
    if wide_encoding(head) or is_array(head, lines_by_name=file.kind in LINES):
        return False
    return file.kind != ".json" or _has_whole_line(head)


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, told by its mark or by its zero bytes; None for anything else."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    sample = head[:4096]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = sample[first::2], sample[1 - first :: 2]
        if len(zeros) >= 4 and zeros.count(0) > 0.4 * len(zeros) and others.count(0) < 0.05 * len(others):
            return name
    return None


def is_array(head: bytes, lines_by_name: bool) -> bool:
    """Whether the file is one JSON array. In a .jsonl only if its first line is not a row by itself."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        return False
    return not lines_by_name or not _is_json(text.split(b"\n", 1)[0])


def _has_whole_line(head: bytes) -> bool:
    """Whether one of the first lines is a JSON value by itself; an empty file has none to be wrong."""
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:50] if line.strip()]
    return not lines or any(line.strip().startswith(b"{") and _is_json(line) for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class _Duplicate(ValueError):
    """A key that stands twice in one object."""


class _NotANumber(ValueError):
    """NaN or Infinity, which JSON does not have."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Duplicate(next(key for key in keys if keys.count(key) > 1))
    return values


def _refuse_constant(name: str) -> Any:
    raise _NotANumber(name)


# strict=True: a raw control character inside a string is a fault of the row
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def parse(raw: RawRow) -> Row | BadRow:
    """Decode one row. Every way in which it can be wrong has a reason of its own."""
    if raw.fault:
        return BadRow(raw.address, *raw.fault)
    if raw.value is not None:
        where = _find_bad_character(raw.value, "")
        return BadRow(raw.address, *where) if where else Row(raw.address, raw.value)
    try:
        text = raw.data.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(raw.address, "wrong_encoding", describe_bytes(raw.data, error.start))
    if raw.is_text:
        if "\0" in text:
            return BadRow(raw.address, "nul_character", "the document holds a NUL character")
        return Row(raw.address, {"text": text})
    try:
        value = _DECODER.decode(text)
    except _Duplicate as error:
        return BadRow(raw.address, "duplicate_key", f"key {str(error)!r:.80} stands twice in one object")
    except _NotANumber as error:
        return BadRow(raw.address, "not_a_number", f"{error} is not JSON; use null or leave the key out")
    except json.JSONDecodeError as error:
        return BadRow(raw.address, "broken_json", describe_syntax(text, error))
    except RecursionError:
        return BadRow(raw.address, "broken_json", "nested too deeply")
    except ValueError:  # Python reads no integer of more than 4300 digits
        return BadRow(raw.address, "broken_json", "holds a whole number of thousands of digits")
    return _bad_characters(raw, value) or Row(raw.address, value)


def _bad_characters(raw: RawRow, value: Any) -> BadRow | None:
    """Characters that JSON can spell but text cannot hold: half a surrogate pair, NUL."""
    if b"\\u" not in raw.data:
        return None
    where = _find_bad_character(value, "")
    return BadRow(raw.address, *where) if where else None


def _find_bad_character(value: Any, path: str) -> tuple[str, str] | None:
    """(reason, detail) of the first bad character in any text of the value, keys included."""
    if isinstance(value, str):
        if "\0" in value:
            return "nul_character", f"{path or 'the row'} holds a NUL character (\\u0000)"
        lone = next((c for c in value if "\ud800" <= c <= "\udfff"), None)
        spelt = f"\\u{ord(lone):04x}" if lone else ""
        return ("lone_surrogate", f"{path or 'the row'} holds {spelt}, half of a character") if lone else None
    inner: list[tuple[Any, str]] = []
    if isinstance(value, dict):
        inner = [(key, f"key {i + 1} of {path or 'the row'}") for i, key in enumerate(value)]
        inner += [
            (v, f"{path}.{k}".lstrip(".").encode("ascii", "replace").decode()) for k, v in value.items()
        ]
    elif isinstance(value, list):
        inner = [(v, f"{path}[{i}]") for i, v in enumerate(value)]
    return next((found for v, p in inner if (found := _find_bad_character(v, p))), None)


def describe_bytes(data: bytes, at: int) -> str:
    """What bytes are that are not UTF-8; Chinese text in GB18030 is named as such."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return f"byte {at + 1} of the row is not UTF-8"
    wide = [c for c in text if ord(c) >= 0x80]
    common = sum(
        "\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uffef" for c in wide
    )
    if common >= 0.9 * len(wide):
        return "the text is GB18030 (GBK), not UTF-8; convert the file: iconv -f GB18030 -t UTF-8"
    return f"byte {at + 1} of the row is not UTF-8"


def describe_syntax(text: str, error: json.JSONDecodeError) -> str:
    """The decoder's words, and the usual cause where it shows."""
    around = text[max(0, error.pos - 15) : error.pos + 15].encode("ascii", "backslashreplace").decode()
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"the row ends in the middle ({error.msg}, column {error.pos + 1})"
    before = text[: error.pos].rstrip()
    if before.endswith(","):
        hint = "a comma before the closing bracket"
    elif text[error.pos] == "'":
        hint = "JSON wants double quotes"
    elif text[error.pos] in "/#":
        hint = "JSON has no comments"
    else:
        hint = error.msg
    return f"{hint}, column {error.pos + 1}, near {around!r}"
