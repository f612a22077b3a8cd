"""Rows with their meaning, one at a time, for those who write files; and books of what was lost on the way."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.files import DataFile
from tunesmith.data.formats import Fault
from tunesmith.data.gather import Opened, open_source
from tunesmith.data.records import Record
from tunesmith.data.refused import bad_row, bad_rows
from tunesmith.data.sources import Row, parse
from tunesmith.data.work import SPELT
from tunesmith.errors import DataError, Problem
from tunesmith.events import Reporter
from tunesmith.recipe import DataFormat, Source

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Read:
    """A row as it stands in the file, and the record it means; or the fault, with `value` where it could be read."""

    address: str
    value: Mapping[str, Any] | None
    record: Record | Fault


def read(opened: Opened) -> Iterator[Read]:
    """Each row of an opened source."""
    for raw in opened.rows:
        row = parse(raw)
        value = row.value if isinstance(row, Row) and isinstance(row.value, dict) else None
        yield Read(raw.address, value, opened.record(raw))


def opened(source: Source, reporter: Reporter | None = None) -> Opened:
    """A source whose format is known. Raises DataError where no row tells it."""
    found = open_source(source, reporter)
    if found.format is None:
        raise DataError.at(source.path, "has no row that can be read", "see: tunesmith data check")
    return found


def good_rows(
    sources: Sequence[Source], drop_bad: bool, reporter: Reporter | None = None
) -> Iterator[tuple[int, DataFormat, Read]]:
    """(number of the source, its format, row) of all that can be read.

    Raises one DataError with all bad rows at the end, or at once the problems of files; with `drop_bad` bad rows
    are passed on too, for the caller to count.
    """
    bad: list[Problem] = []
    count = 0
    for number, source in enumerate(sources):
        file = opened(source, reporter)
        for row in read(file):
            if isinstance(row.record, Fault) and not drop_bad:
                count += 1
                if len(bad) < SPELT:
                    bad.append(bad_row(row.address, row.record.reason, row.record.detail))
                continue
            assert file.format is not None
            yield number, file.format, row
    if bad:
        raise DataError(bad_rows(bad, count, "leave bad rows out and count them: --drop-bad"))


def one_format(
    rows: Iterable[tuple[int, DataFormat, Read]], sources: Sequence[Source], out: str
) -> Iterator[tuple[int, Read]]:
    """The rows with the number of their source, as long as they may stand in one file. Raises DataError."""
    first: DataFormat | None = None
    for number, format, row in rows:
        first = first or format
        if format != first:
            what = f"holds {format}, the files before it {first}: they do not go into one file"
            raise DataError.at(sources[number].path, what, f"first: tunesmith data convert --to {first}")
        if format != "text" and DataFile(out, Path(out)).kind == ".txt":
            raise DataError.at(out, ".txt holds documents alone", "name an --out that ends in .jsonl")
        yield number, row


@dataclass(slots=True)
class Losses:
    """What could not be carried, by reason: how often, where for example."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def note(self, reason: str, where: str, what: str) -> None:
        """One more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown, one = self.examples.setdefault(reason, []), {"where": where, "what": what[:200]}
        if len(shown) < SHOWN and shown[-1:] != [one]:
            shown.append(one)

    def to_json(self) -> list[dict[str, Any]]:
        """[{"reason", "count", "examples": [{"where", "what"}]}], most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: -item[1])
        return [{"reason": name, "count": n, "examples": self.examples[name]} for name, n in ordered]


def plain(value: Any) -> tuple[Any, bool]:
    """The value as JSON has it, and whether anything had to change: dates, bytes, NaN of typed tables."""
    match value:
        case None | bool() | int() | str():
            return value, False
        case float():
            return (value, False) if math.isfinite(value) else (None, True)
        case dict():
            inner = {str(key): plain(held) for key, held in value.items()}
            return {key: held for key, (held, _) in inner.items()}, any(
                changed for _, changed in inner.values()
            )
        case list() | tuple():
            items = [plain(held) for held in value]
            return [held for held, _ in items], any(changed for _, changed in items)
        case datetime.date() | datetime.time() | datetime.timedelta() | decimal.Decimal():
            return str(value), True
        case _:
            return repr(value), True
