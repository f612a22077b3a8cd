"""The mark of an augmented row: which row it was made of, and how.

{.., "augmented": {"of": "faq.jsonl:7", "by": "synonyms", "key": "9f3a.."}}   key: row_keys of the original, the last
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.data.faults import loads
from tunesmith.data.records import Record, with_identity

MARK = "augmented"
# Stands before the original's key in the identity of an augmented row; as long as a key.
AUGMENTED = b"an augmented row"


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
    """The record, which is split as its original is where the row says that it was augmented."""
    if MARK not in row or (original := original_of(row)) is None:
        return record
    return with_identity(record, (AUGMENTED, original))


def is_marked(row: Any) -> bool:
    """Whether a row says that it was augmented."""
    return original_of(row) is not None
