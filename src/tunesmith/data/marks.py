"""The mark of an augmented row: which row it was made of, and how.

{.., "augmented": {"of": "faq.jsonl:7", "by": "synonyms", "key": "9f3a.."}}   key: row_keys of the original, the last
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.data.faults import loads
from tunesmith.data.records import Chat, Judged, Preference, Record

MARK = "augmented"


def original_of(row: Any) -> bytes | None:
    """The key of the row that an augmented row was made of; None for any other row. b"" where the mark is broken."""
    mark = row.get(MARK) if isinstance(row, Mapping) else None
    if isinstance(mark, str):  # a table's cell
        mark = loads(mark)
    if not isinstance(mark, dict) or not {"of", "by"} <= mark.keys():
        return None
    try:
        return bytes.fromhex(mark.get("key", ""))
    except (TypeError, ValueError):
        return b""


def marked(record: Record, row: Mapping[str, Any]) -> Record:
    """The record, which knows its original where the row says that it was augmented."""
    if MARK not in row or (original := original_of(row)) is None:
        return record
    match record:
        case Chat() | Preference():
            return replace(record, original=original)
        case Judged(chat=chat):
            return replace(record, chat=replace(chat, original=original))
        case _:
            return record


def is_marked(row: Any) -> bool:
    """Whether a row says that it was augmented."""
    return original_of(row) is not None
