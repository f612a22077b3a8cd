"""Read one source to its end: rows -> records -> exact tokens, laid out as flat columns.

file --raw_rows--> parse --to_record--> render --> tokens, labels (columns) + account (fates, reasons)
                     |          |          |
                   BadRow     Fault      Drop      --> reasons, and problems for the user
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from tunesmith.data.formats import Fault, check_columns, explain, recognise, to_record
from tunesmith.data.ledger import SourceAccount, TouchedRow
from tunesmith.data.rawrows import RawRow
from tunesmith.data.records import Record
from tunesmith.data.render import Rendered
from tunesmith.data.samples import IGNORED, Sample, SampleSet, weights_of
from tunesmith.data.sources import BadRow, Row, parse, raw_rows
from tunesmith.data.splits import Key, Split
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
    rows = raw_rows(source, reporter)
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


def objective_of(path: str) -> ObjectiveKind:
    """What a lone data file can be used for: documents are learnt whole, anything else by its answers.

    A file that cannot be told is left to those who report it.
    """
    try:
        return "pretrain" if open_source(Source(path=path)).format == "text" else "sft"
    except DataError:
        return "sft"


@dataclass(slots=True)
class Columns:
    """Samples end to end while they are read; `rows[i]` is the kept row that sample i came from."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    addresses: list[str] = field(default_factory=list)
    weights: array[float] | None = None

    def append(self, sample: Sample, row: int) -> None:
        """One more sample of kept row number `row`."""
        if sample.weights is not None and self.weights is None:  # all that came before weighs 1
            learnt = np.frombuffer(self.labels, np.int32) != IGNORED
            self.weights = array("f", learnt.astype(np.float32).tobytes())
        if self.weights is not None:
            self.weights.frombytes(weights_of(sample).tobytes())
        self.tokens.frombytes(np.ascontiguousarray(sample.input_ids, np.int32).tobytes())
        self.labels.frombytes(np.ascontiguousarray(sample.labels, np.int32).tobytes())
        self.lengths.append(len(sample.input_ids))
        self.rows.append(row)
        self.addresses.append(sample.address)

    def select(self, chosen: ndarray) -> SampleSet:
        """The samples of the rows for which `chosen[row]` holds, in order."""
        lengths = np.frombuffer(self.lengths, np.int64)
        mask = chosen[np.frombuffer(self.rows, np.int64)] if len(lengths) else np.zeros(0, bool)
        of_tokens = np.repeat(mask, lengths)
        return SampleSet(
            tokens=np.frombuffer(self.tokens, np.int32)[of_tokens],
            labels=np.frombuffer(self.labels, np.int32)[of_tokens],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[mask])]),
            addresses=tuple(itertools.compress(self.addresses, mask.tolist())),
            weights=None if self.weights is None else np.frombuffer(self.weights, np.float32)[of_tokens],
        )


@dataclass(slots=True)
class Gathered:
    """A source read to its end. `keys[row]` says what equals kept row number `row`."""

    source: Source
    use: Split
    account: SourceAccount
    columns: Columns = field(default_factory=Columns)
    keys: list[tuple[Key, ...]] = field(default_factory=list)
    touched: list[TouchedRow] = field(default_factory=list)
    augmented: dict[int, tuple[str, Rendered]] = field(default_factory=dict)
    kept_tokens: int = 0
    cut_tokens: int = 0
    repeated_tokens: int = 0


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
