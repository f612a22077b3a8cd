"""Open a source: tell its format by its first rows, then say what each row means.

file --raw_rows--> parse --to_record--> record
                     |          |
                   BadRow     Fault      --> reasons, and problems for the user
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunesmith.data.formats import Fault, check_columns, explain, recognise, to_record
from tunesmith.data.ledger import SourceAccount
from tunesmith.data.rawrows import RawRow
from tunesmith.data.records import Record
from tunesmith.data.sources import BadRow, Row, parse, raw_rows
from tunesmith.data.streaming.reading import head_of
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import DataFormat, ObjectiveKind, Source

_HEAD_ROWS = 200
_HEAD_BYTES = 4 << 20


@dataclass(slots=True)
class Opened:
    """A source whose format is known (None: no row so far could be read) and whose rows are still to come."""

    source: Source
    format: DataFormat | None
    why: str
    rows: Iterator[RawRow]

    def record(self, raw: RawRow) -> Record | Fault:
        """What a row means, or why it means nothing."""
        row = parse(raw)
        if isinstance(row, BadRow):
            return Fault(row.reason, row.detail)
        if self.format is None and isinstance(row.value, dict):
            self.format = recognise([row.value], self.source.path, self.source.columns)
        if self.format is None:
            return Fault("wrong_type", "the row is no JSON object")
        return to_record(row.value, self.format, self.source.columns, self.source.tags)


def open_source(source: Source, reporter: Reporter | None = None) -> Opened:
    """Look at the first rows to tell the format, then offer all of them. DataError when there are none."""
    rows = raw_rows(source, reporter) if source.stream is None else head_of(source)
    head: list[RawRow] = []
    size = 0
    while len(head) < _HEAD_ROWS and size < _HEAD_BYTES and (raw := next(rows, None)):
        head.append(raw)
        size += len(raw.data)
    if not head:
        raise DataError.at(source.path, "holds no rows", "give a file with at least one row")
    rows = itertools.chain(head, rows)
    if source.format is not None:
        check_columns(source.format, source.columns, source.path)
        return Opened(source, source.format, "named in the recipe", rows)
    values = [row.value for row in map(parse, head) if isinstance(row, Row)]
    if not any(isinstance(value, dict) for value in values):
        return Opened(source, None, "no row could be read", rows)
    found = explain(values, source.path, source.columns)
    return Opened(source, found.format, found.why, rows)


def recognised(source: Source, rows: Sequence[RawRow]) -> DataFormat | None:
    """The format of some rows; None where no row could be read."""
    if source.format is not None:
        return source.format
    values = [row.value for row in map(parse, rows[:_HEAD_ROWS]) if isinstance(row, Row)]
    values = [value for value in values if isinstance(value, dict)]
    return recognise(values, source.path, source.columns) if values else None


def objective_of(path: str) -> ObjectiveKind:
    """What a lone data file can be used for: documents are learnt whole, anything else by its answers.

    A file that cannot be told is left to those who report it.
    """
    try:
        return "pretrain" if open_source(Source(path=path)).format == "text" else "sft"
    except DataError:
        return "sft"


def read_records(
    opened: Opened, account: SourceAccount, limit: int | None
) -> Iterator[tuple[str, Record | Fault]]:
    """Each row up to `limit` with its meaning; the rows behind it are only counted, as not read."""
    for number, raw in enumerate(opened.rows):
        account.arrive()
        if limit is not None and number >= limit:
            account.settle("not_read")
            continue
        yield raw.address, opened.record(raw)
    account.format = opened.format
