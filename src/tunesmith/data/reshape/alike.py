"""Rows that are nearly equal, to be kept together: by their sketches first, then exactly, on a second reading.

row 3 "How do I reset the router?" .. row 9 "How do I reset my router?" ..  ->  {9: 3}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

from numpy import ndarray

from tunesmith.data.doctor.near import MOST_UNITS, SHINGLE, Sketches, groups, overlap, shingles
from tunesmith.data.reshape.output import Spool

LEAST = 0.8
ROWS = 200_000
"""So many rows are looked through unless somebody asks: a minute, and 80 MB."""
_CONFIRMED = 50_000  # rows held at once for the exact comparison


@final
class Alike:
    """Takes the text of each row; `least` is the overlap of word triples from which rows count as equal."""

    def __init__(self, folder: Path, least: float | None) -> None:
        self.least = LEAST if least is None else least
        self._most = ROWS if least is None else None
        self._sketches = Sketches()
        self._texts = Spool(folder) if self.least > 0 else None
        self.too_many = False

    def __enter__(self) -> Alike:
        return self

    def __exit__(self, *_: object) -> None:
        if self._texts is not None:
            self._texts.__exit__(None, None, None)

    def add(self, row: int, text: str) -> None:
        """One more row by its number."""
        if self._texts is None or self.too_many:
            return
        if self._most is not None and self._texts.rows >= self._most:
            self.too_many = True
            return
        self._sketches.add(row, text)
        self._texts.put({"row": row, "text": text})

    @property
    def looked(self) -> bool:
        """Whether every row was looked at."""
        return self._texts is not None and not self.too_many

    def first_of(self) -> Mapping[int, int]:
        """Each row that is nearly an earlier one, with the first row of its group."""
        if not self.looked:
            return {}
        pairs = list(self._sketches.pairs(self.least))
        wanted = dict.fromkeys(row for pair in pairs for row in pair)
        grams = self._read(set(list(wanted)[:_CONFIRMED]))
        sure = [
            (a, b)
            for a, b in pairs
            if a not in grams or b not in grams or overlap(grams[a], grams[b]) >= self.least
        ]
        return groups(sure)

    def _read(self, wanted: set[int]) -> dict[int, ndarray]:
        assert self._texts is not None
        units = self._sketches.units
        return {
            each["row"]: shingles(units.of(each["text"][: 20 * MOST_UNITS])[:MOST_UNITS], SHINGLE)
            for each in (self._texts if wanted else ())
            if each["row"] in wanted
        }
