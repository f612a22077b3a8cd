"""Cut a file into the bytes of its rows, in bounded memory: lines, items of a JSON array, documents.

[ {..}, {..}, {.. ]   an array is cut by counting brackets outside strings, so a broken item is one row,
  1     2     3 bad   and the next one is found again
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tunesmith.data.files import open_file

MAX_ROW_BYTES = 64 << 20
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
END_OF_TEXT = b"<|endoftext|>"


@dataclass(frozen=True, slots=True)
class RawRow:
    """The bytes of one row; `end` is the file position after it; `fault` (reason, detail) if it has none.

    A row of a table has its `value` instead.
    """

    address: str
    data: bytes
    end: int
    fault: tuple[str, str] | None = None
    is_text: bool = False
    value: Any = None


def _too_large(address: str, end: int) -> RawRow:
    detail = f"longer than {MAX_ROW_BYTES >> 20} MiB; split it"
    return RawRow(address, b"", end, ("row_too_large", detail))


def _bounded_lines(file: IO[bytes], start: int = 0) -> Iterator[tuple[int, bytes | None, int]]:
    """(line number counted from `start`, line or None when it is too large, position after it)."""
    number, position = 0, start
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        position += len(line)
        if position == len(line):  # the first of the file
            line = line.removeprefix(_BOM)
        if len(line) <= MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line, position
            continue
        while (rest := file.readline(_BLOCK)) and not rest.endswith(b"\n"):
            position += len(rest)
        position += len(rest)
        yield number, None, position


def split_lines(name: str, path: Path, start: int = 0, stop: int | None = None) -> Iterator[RawRow]:
    """One row a line; blank lines are passed over but counted in the addresses.

    Of the bytes [start, stop), which begin and end with a line; lines then count from `start`.
    """
    with open_file(path) as file:
        if start:
            file.seek(start)
        for number, line, end in _bounded_lines(file, start):
            if stop is not None and end > stop:
                return
            address = f"{name}:{number}"
            if line is None:
                yield _too_large(address, end)
            elif data := line.strip(_SPACE):
                yield RawRow(address, data, end)


def rows_of_lines(name: str, stream: IO[bytes], first: int, start: int) -> Iterator[RawRow]:
    """One row a line of a pipe from byte `start` on; blank lines are passed over, rows counted from `first`."""
    number = first
    for _, line, end in _bounded_lines(stream, start):
        address = f"{name}:{number}"
        if line is None:
            yield _too_large(address, end)
        elif data := line.strip(_SPACE):
            yield RawRow(address, data, end)
        else:
            continue
        number += 1


def count_lines(path: Path, start: int, stop: int) -> int:
    """Lines in the bytes [start, stop) of a file."""
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop and (block := file.read(min(_BLOCK, stop - start))):
            lines += block.count(b"\n")
            start, last = start + len(block), block[-1:]
    return lines + (last != b"\n")


# Whole strings are one match, so brackets inside them do not count. A raw newline cannot stand in a JSON
# string: a quote without its partner on the line matches alone, and the item is known to be broken.
_MARK = re.compile(rb'"(?:[^"\\\n]++|\\[^\n])*+"|["{}\[\],]')


class _Window:
    """A sliding view of a file: `data[at:]` is not yet used, `position` is the place of `at` in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.data = file.read(_BLOCK)
        self.at = len(_BOM) if self.data.startswith(_BOM) else 0
        self.dropped = 0
        self.at_end = not self.data

    @property
    def position(self) -> int:
        """Bytes of the file used so far."""
        return self.dropped + self.at

    def more(self) -> bool:
        """Read on; the block grows with what is held, so that a large row is not copied too often."""
        held = self.data[self.at :]
        block = self.file.read(max(_BLOCK, len(held)))
        self.dropped += self.at
        self.data, self.at, self.at_end = held + block, 0, not block
        return bool(block)


def split_json_array(name: str, path: Path) -> Iterator[RawRow]:
    """One row an item of a top-level JSON array; an item that is broken is a bad row, the next is found."""
    with open_file(path) as file:
        view = _Window(file)
        view.at = view.data.index(b"[", view.at) + 1
        number = endless = 0
        opening: bytes | None = None
        while (closed := _skip_separators(view)) is None:
            number += 1
            if number == 1:
                opening = _opening(view)
            length = _item_length(view, opening)
            if length is None:
                endless += 1
                # each search for a lost end may read far ahead: after many, the rest is one bad row
                yield _lost_item(f"{name}:{number}", view, opening if endless < 20 else None)
            else:
                data = view.data[view.at : view.at + length].strip(_SPACE)
                view.at += length
                yield RawRow(f"{name}:{number}", data, view.position)
        yield from _ending(f"{name}:{number + 1}", view, closed)


def _skip_separators(view: _Window) -> bool | None:
    """Pass spaces and one comma. None: an item follows; True: the array was closed; False: the file ends."""
    commas = 0
    while True:
        mark = view.data[view.at : view.at + 1]
        if not mark:
            if not view.more():
                return False
        elif mark in _SPACE:
            view.at += 1
        elif mark == b"," and not commas:
            commas = 1
            view.at += 1
        elif mark == b"]":
            view.at += 1
            return True
        else:
            return None


def _opening(view: _Window) -> bytes | None:
    """How items begin, such as newline, two spaces, brace: where to go on after an item without an end."""
    _, newline, spaces = view.data[: view.at].rpartition(b"\n")
    if newline and not spaces.strip(b" \t") and view.data[view.at : view.at + 1] == b"{":
        return b"\n" + spaces + b"{"
    return None


def _item_length(view: _Window, opening: bytes | None) -> int | None:
    """Bytes up to the comma or bracket that ends the item; None when none does, or it is too large."""
    depth = done = 0
    indent = opening[:-1] if opening and len(opening) > 2 else None
    while True:
        for match in _MARK.finditer(view.data, view.at + done):
            mark = match.group()
            if mark == b'"':
                if view.at_end or view.data.find(b"\n", match.start()) >= 0:
                    return None
                break  # the string may go on in the next block
            if mark in (b"{", b"["):
                if depth and indent and view.data.endswith(indent, 0, match.start()):
                    return None  # an item begins inside this one
                depth += 1
            elif depth == 0 and len(mark) == 1:
                return max(match.start() - view.at, 1)
            elif mark in (b"}", b"]"):
                depth -= 1
            done = match.end() - view.at
        if len(view.data) - view.at > MAX_ROW_BYTES or not view.more():
            return None


def _lost_item(address: str, view: _Window, opening: bytes | None) -> RawRow:
    """The bad row for an item without an end; the view moves to the next item, or to the end of the file."""
    large = len(view.data) - view.at > MAX_ROW_BYTES
    shown = view.data[view.at : view.at + 40].split(b"\n")[0].decode("utf-8", "replace")
    while True:
        found = view.data.find(opening, view.at + 1) if opening else -1
        if found >= 0:
            view.at = found + 1
            break
        view.at = len(view.data) if opening is None else max(view.at, len(view.data) - len(opening))
        if not view.more():
            view.at = len(view.data)
            break
    if large:
        return _too_large(address, view.position)
    lost = "" if view.data[view.at :] else "; what follows it in the file cannot be told apart"
    return RawRow(address, b"", view.position, ("broken_json", f"has no end: {shown!r}{lost}"))


def _ending(address: str, view: _Window, closed: bool) -> Iterator[RawRow]:
    """A file that stops before the closing bracket, or goes on behind it, has one bad row more."""
    if not closed:
        yield RawRow(address, b"", view.position, ("broken_json", "the array has no closing bracket ]"))
        return
    while not view.data[view.at :].strip(_SPACE):
        view.at = len(view.data)
        if not view.more():
            return
    yield RawRow(
        address, b"", view.position, ("broken_json", "something stands behind the closing bracket ]")
    )


def split_text(name: str, path: Path, split: str) -> Iterator[RawRow]:
    """One row a document: the file, its lines, or its parts between <|endoftext|> lines or blank lines."""
    if split == "auto":
        split = "marker" if _has_marker(path) else "blank"
    document = _Document(name)
    with open_file(path) as file:
        for number, line, end in _bounded_lines(file):
            content = None if line is None else line.removesuffix(b"\n").removesuffix(b"\r")
            blank = content is not None and not content.strip(_SPACE)
            is_marker = content is not None and content.strip(_SPACE) == END_OF_TEXT
            if (split == "marker" and is_marker) or (split == "blank" and blank):
                yield from document.close(end)
                continue
            if document.start or not blank:
                document.add(number, content)
            if split == "line":
                yield from document.close(end)
        yield from document.close(path.stat().st_size)


class _Document:
    """Lines that will be one document; no more than MAX_ROW_BYTES of them are held."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = self.size = 0
        self.lines: list[bytes] = []

    def add(self, number: int, content: bytes | None) -> None:
        """One more line; None is a line that is too large by itself."""
        self.start = self.start or number
        self.size += MAX_ROW_BYTES + 1 if content is None else len(content) + 1
        if content is not None and self.size <= MAX_ROW_BYTES:
            self.lines.append(content)

    def close(self, end: int) -> Iterator[RawRow]:
        """The document without blank lines at its end, if there is one; then begin anew."""
        address = f"{self.name}:{self.start}"
        while self.lines and not self.lines[-1].strip(_SPACE):
            self.lines.pop()
        if self.size > MAX_ROW_BYTES:
            yield _too_large(address, end)
        elif self.lines:
            yield RawRow(address, b"\n".join(self.lines), end, is_text=True)
        self.start = self.size = 0
        self.lines = []


def _has_marker(path: Path) -> bool:
    with open_file(path) as file:
        return any(
            line is not None and line.strip(_SPACE) == END_OF_TEXT for _, line, _ in _bounded_lines(file)
        )
