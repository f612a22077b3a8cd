"""Rows that mean nothing, told before a tokenizer is loaded (which takes seconds): without torch or transformers.

each file --first rows--> none is bad: nothing more is read here      one is: the whole file, and all are told
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from tunesmith.data.formats import Fault
from tunesmith.data.gather import Opened, open_source
from tunesmith.data.prepare import inputs_of
from tunesmith.data.refused import Refused, bad_row
from tunesmith.data.work import SPELT, record_of
from tunesmith.errors import DataError, Problem
from tunesmith.recipe import Data, ObjectiveKind

FIRST_BYTES = 1 << 20
MOST_BYTES = 16 << 20
"""More take longer to look through than libraries to load: whoever tokenises them does so in processes."""
ROW_BYTES = 128  # what the shortest row costs


def require_rows(data: Data, objective: ObjectiveKind, training: bool = True) -> None:
    """No file is unreadable, none begins with rows that cannot be learnt from. Raises DataError with all problems.

    What only a tokenizer or a template can tell (length, labels) is left to `prepare`; streams are not touched.
    """
    refused, left = Refused(data), data.limit
    for use, source in inputs_of(data):
        if source.stream is not None:
            continue
        try:
            opened = open_source(source)
            if (training and refused.untrained(opened)) or data.on_bad_row != "error":
                continue
            seen = _look(opened, objective, left if use == "train" else None)
        except DataError as error:
            refused.files += error.problems
            continue
        refused.add(seen.bad, seen.bad_count)
        if use == "train" and left is not None:
            left = max(0, left - seen.rows) if seen.whole else 0
    refused.tell()


@dataclass(slots=True)
class _Seen:
    """What a look at a file found; `whole`: it was looked through to its end, or to the limit."""

    rows: int = 0
    bad: list[Problem] = field(default_factory=list)
    bad_count: int = 0
    whole: bool = True


def _look(opened: Opened, objective: ObjectiveKind, limit: int | None) -> _Seen:
    """The bad rows of a file that has one among its first."""
    seen, size = _Seen(), 0
    for raw in itertools.islice(opened.rows, limit):
        seen.rows += 1
        record = record_of(opened, raw, objective)
        if isinstance(record, Fault):
            seen.bad_count += 1
            if seen.bad_count <= SPELT:
                seen.bad.append(bad_row(raw.address, record.reason, record.detail))
        size += len(raw.data) + ROW_BYTES
        if size > MOST_BYTES or (size > FIRST_BYTES and not seen.bad):
            return _Seen(whole=False)
    return seen
