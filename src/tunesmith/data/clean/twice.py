"""Rows that stand twice, or nearly twice, found as they come: the first is kept, and later runs find nothing new.

Nearly: the MinHash sketch of a row against those of kept rows that share a band; 128 bytes a kept row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from tunesmith.data.doctor.leakage import texts_of
from tunesmith.data.doctor.near import (
    BANDS,
    HASHES,
    LEAST_UNITS,
    MOST_UNITS,
    SHINGLE,
    WIDTH,
    Units,
    shingles,
    sketch,
)
from tunesmith.data.records import Record, Text
from tunesmith.data.splits import row_keys

LEAST_TEXT = 20  # letters; a shorter document is a heading or a line of stars
_IN_A_BAND = 16


@dataclass(slots=True)
class Seen:
    """The kept rows so far, by digest and by sketch."""

    near: float
    units: Units = field(default_factory=Units)
    digests: dict[int, str] = field(default_factory=dict)
    bands: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    sketches: list[ndarray] = field(default_factory=list)
    places: list[tuple[str, frozenset[bytes]]] = field(default_factory=list)

    def equal(self, address: str, record: Record) -> str | None:
        """Where the same row was kept; else this one is kept."""
        if isinstance(record, Text) and sum(map(str.isalnum, record.text)) < LEAST_TEXT:
            return None
        digest = int.from_bytes(row_keys(record)[-1][:8], "little")
        first = self.digests.setdefault(digest, address)
        return None if first is address else first

    def similar(self, address: str, record: Record) -> str | None:
        """Where nearly the same row was kept; else this one is kept. A dialogue that continues another is new."""
        units = self.units.of("\n".join(texts_of(record))[: 20 * MOST_UNITS])[:MOST_UNITS]
        if len(units) < LEAST_UNITS:
            return None
        own = sketch([shingles(units, SHINGLE)])[0]
        keys = row_keys(record)
        banded = [
            (band, int(own[WIDTH * band : WIDTH * (band + 1)].view(np.uint64)[0])) for band in range(BANDS)
        ]
        met = {number for key in banded for number in self.bands.get(key, ())}
        for number in sorted(met):
            where, others = self.places[number]
            alike = int((self.sketches[number] == own).sum()) >= self.near * HASHES
            if alike and not (keys[-1] in others or set(keys) & others):
                return where
        for key in banded:
            held = self.bands.setdefault(key, [])
            if len(held) < _IN_A_BAND:
                held.append(len(self.places))
        self.sketches.append(own)
        self.places.append((address, frozenset(keys)))
        return None
