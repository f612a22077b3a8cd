"""Held-out questions that also stand in training, by n-grams that no row shares by chance.

held-out item -> its 10-grams of words (16 Chinese characters)  --looked up in-->  those of each training row
A row leaks an item when it holds 60% of them. Brown et al. 2020, appendix C, took one of 13 words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from tunesmith.data.doctor.near import MOST_UNITS, Units, shingles
from tunesmith.data.records import Choice, Record, Text, as_chats

GRAM, GRAM_HAN = 10, 16  # a Chinese character says less than a word
LEAST_UNITS, LEAST_HAN = 8, 13  # a shorter question proves nothing: "what is 2 + 2?" is asked anywhere
LEAST_SHARE = 0.6
_HAN = re.compile("[\u3400-\u9fff]")
_COMMON = 0.01  # an n-gram of more than 1% of the items is the wording of the task


@dataclass(frozen=True, slots=True)
class HeldText:
    """One held-out question: which set it is of, where it stands, and its words."""

    use: str
    address: str
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row holds `share` of a held-out question."""

    held: HeldText
    share: float


@dataclass(slots=True)
class Leakage:
    """Held-out questions by their n-grams: first `add` all, then ask of each training row."""

    units: Units
    items: list[HeldText] = field(default_factory=list)
    grams: list[ndarray] = field(default_factory=list)
    widths: set[int] = field(default_factory=set)
    table: ndarray | None = None
    owners: dict[int, list[int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)

    def add(self, held: HeldText) -> None:
        """One more held-out question."""
        units = self.units.of(held.text[: 20 * MOST_UNITS])[:MOST_UNITS]
        han = 2 * len(_HAN.findall(held.text[: 20 * MOST_UNITS])) > len(units)
        if len(units) >= (LEAST_HAN if han else LEAST_UNITS):
            width = min(len(units), GRAM_HAN if han else GRAM)  # a short item is one n-gram
            self.widths.add(width)
            self.items.append(HeldText(held.use, held.address, held.text[:200]))
            self.grams.append(np.unique(shingles(units, width)))

    def _close(self) -> ndarray:
        """The table of n-grams, without those that many items share."""
        counts = Counter(gram for grams in self.grams for gram in grams.tolist())
        most = max(5, _COMMON * len(self.items))
        for number, grams in enumerate(self.grams):
            own = [gram for gram in grams.tolist() if counts[gram] <= most]
            self.sizes[number] = len(own)
            for gram in own:
                self.owners.setdefault(gram, []).append(number)
        self.grams = []
        self.table = np.array(sorted(self.owners), np.uint64)
        return self.table

    def find(self, texts: Sequence[str]) -> Leak | None:
        """The held-out question of which the texts of a training row hold most, if it is 60% or more."""
        if not self.items:
            return None
        table = self.table if self.table is not None else self._close()
        units = self.units.of("\n".join(texts)[: 20 * MOST_UNITS])[:MOST_UNITS]
        of_width = [shingles(units, width) for width in self.widths if len(units) >= width]
        if not of_width or not len(table):
            return None
        grams = np.unique(np.concatenate(of_width))
        at = np.searchsorted(table, grams)
        hits = grams[table[np.minimum(at, len(table) - 1)] == grams]
        if not len(hits):
            return None
        met = Counter(owner for gram in hits.tolist() for owner in self.owners[gram])
        number, shared = max(met.items(), key=lambda item: item[1] / self.sizes[item[0]])
        share = shared / self.sizes[number]
        return Leak(self.items[number], share) if share >= LEAST_SHARE else None


def question_of(record: Record) -> str:
    """What is asked: all that the last answer answers, without the system turn; a document whole."""
    if isinstance(record, Text):
        return record.text
    if isinstance(record, Choice):
        return record.question
    chat = as_chats(record)[0]
    last = [m.content for m in chat.messages[:-1] if m.role == "user"]
    return last[-1] if last else ""


def texts_of(record: Record) -> list[str]:
    """All that is said in a row, without the system turn."""
    if isinstance(record, Text):
        return [record.text]
    return [m.content for chat in as_chats(record)[:1] for m in chat.messages if m.role != "system"]
