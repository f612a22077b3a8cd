"""Columns that tell something of a row without being learnt: its task, and the tags of its speaker.

{"category": "qa", "age": 31, "prompt": ..}   ->   rows a task, and whether a tag's column exists at all
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tunesmith.data.doctor.balance import MOST_TASKS, TASK_COLUMNS
from tunesmith.data.rawrows import RawRow
from tunesmith.data.sources import Row, parse
from tunesmith.recipe import Data

_HEAD = 200


@dataclass(slots=True)
class Columns:
    """Counts of such columns. Where the first rows have none, later rows are not decoded for it."""

    data: Data
    tasks: dict[str, Counter[str]] = field(default_factory=dict)
    seen_tags: set[str] = field(default_factory=set)
    rows: int = 0

    @property
    def wanted_tags(self) -> set[str]:
        """Columns that data.tags names."""
        return set() if self.data.tags is None else set(self.data.tags.columns)

    @property
    def missing(self) -> list[str]:
        """Columns of data.tags that no row has."""
        return sorted(self.wanted_tags - self.seen_tags) if self.rows else []

    def take(self, raw: RawRow) -> None:
        """One more good row of training."""
        self.rows += 1
        if self.rows > _HEAD and not self.tasks and self.wanted_tags <= self.seen_tags:
            return
        row = parse(raw)
        if not isinstance(row, Row) or not isinstance(row.value, dict):
            return
        self.seen_tags |= {name for name in self.wanted_tags if row.value.get(name) not in (None, "")}
        for name in TASK_COLUMNS:
            value = row.value.get(name)
            if isinstance(value, str) and value and len(value) <= 60:
                counts = self.tasks.setdefault(name, Counter())
                if value in counts or len(counts) <= MOST_TASKS:
                    counts[value] += 1
                return
