"""What became of the rows of one shard, as it is kept beside the shard.

rows_in 42,000   fates {whole: 41,990, dropped: 10}   reasons {broken_json: 10}   complaints [line 17: broken_json ..]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_COUNTERS = ("fates", "reasons", "complaint_counts")


@dataclass(slots=True)
class Complaint:
    """A row that a run may have to refuse. kind: bad (a faulty row), fatal (always stops), labels (our fault)."""

    line: int
    reason: str
    detail: str
    kind: str


@dataclass(slots=True)
class Books:
    """What became of the rows of one shard. Lines count from `first_line` of the file `name`."""

    name: str
    format: str | None = None
    rows_in: int = 0
    lines: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    kept_tokens: int = 0
    cut_tokens: int = 0
    repeated_tokens: int = 0
    complaints: list[Complaint] = field(default_factory=list)
    complaint_counts: Counter[str] = field(default_factory=Counter)
    weighted: bool = False

    def complain(self, line: int, reason: str, detail: str, kind: str, most: int) -> None:
        """One more; the first `most` of a kind are spelt, the rest are counted."""
        if self.complaint_counts[kind] < most:
            self.complaints.append(Complaint(line, reason, detail, kind))
        self.complaint_counts[kind] += 1

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        counters = {name: dict(getattr(self, name)) for name in _COUNTERS}
        rest = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _COUNTERS}
        return {**rest, **counters, "complaints": [asdict(each) for each in self.complaints]}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Books:
        """The books as they were written."""
        counters = {name: Counter(value[name]) for name in _COUNTERS}
        complaints = [Complaint(**each) for each in value["complaints"]]
        return cls(**{**value, **counters, "complaints": complaints})
