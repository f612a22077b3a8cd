"""Near duplicates made certain: the few rows that a sketch calls alike are read once more and compared exactly.

(row 7, row 3) alike by sketch  --read both-->  92% of their word triples are common  ->  near_duplicate at row 7
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy import ndarray

from tunesmith.data.doctor.findings import Notes, excerpt
from tunesmith.data.doctor.leakage import question_of, texts_of
from tunesmith.data.doctor.near import MOST_UNITS, SHINGLE, Sketches, Units, groups, overlap, shingles
from tunesmith.data.faults import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.splits import Key, Split, row_keys
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import Source

MOST_CONFIRMED = 50_000  # rows held at once for the exact comparison
LINE = 40


@dataclass(frozen=True, slots=True)
class _Twin:
    grams: ndarray
    keys: tuple[Key, ...]
    question: str


def confirm(
    sketches: Sketches,
    sources: Sequence[Source],
    files: Sequence[tuple[Split, str]],
    least: float,
    notes: Notes,
    reporter: Reporter,
) -> bool:
    """Note each row that is nearly an earlier one. False where there were too many to compare them all exactly."""
    pairs = list(sketches.pairs(least))
    wanted: dict[int, None] = {}
    for pair in pairs:
        if len(wanted) < MOST_CONFIRMED:
            wanted.update(dict.fromkeys(pair))
    twins = _read(sources, files, wanted, sketches.units, reporter) if pairs else {}
    exact = {pair: _alike(twins, pair) for pair in pairs if pair[0] in twins and pair[1] in twins}
    beyond = [pair for pair in pairs if pair not in exact]
    found = groups([*(pair for pair, share in exact.items() if share >= least), *beyond])
    best: dict[int, tuple[float, int]] = {}
    for (row, other), share in exact.items():
        best[row] = max(best.get(row, (0.0, 0)), (share, other))
    for row, first in found.items():
        share, other = best.get(row, (0.0, first))
        other = other if share >= least else first
        where, like = (_address(files, place) for place in (row, other))
        if row >> LINE == other >> LINE:
            like = f"row {other & (1 << LINE) - 1}"
        what = f"{100 * share:.0f}% the same as {like}" if share >= least else f"nearly the same as {like}"
        shown = excerpt(twins[row].question) if row in twins else ""
        notes.add("near_duplicate", where, what, shown)
    return not beyond


def _alike(twins: dict[int, _Twin], pair: tuple[int, int]) -> float:
    """The overlap of two rows; a dialogue and the row that continues it are not duplicates."""
    one, other = twins[pair[0]], twins[pair[1]]
    if one.keys[-1] in other.keys or other.keys[-1] in one.keys:
        return 0.0
    return overlap(one.grams, other.grams)


def _address(files: Sequence[tuple[Split, str]], place: int) -> str:
    return f"{files[place >> LINE][1]}:{place & (1 << LINE) - 1}"


def _read(
    sources: Sequence[Source],
    files: Sequence[tuple[Split, str]],
    wanted: dict[int, None],
    units: Units,
    reporter: Reporter,
) -> dict[int, _Twin]:
    """The wanted rows once more; the others are passed over without being decoded."""
    numbers = {path: number for number, (use, path) in enumerate(files) if use == "train"}
    found: dict[int, _Twin] = {}
    for source in sources:
        try:
            opened = open_source(source, reporter)
            for raw in opened.rows:
                path, _, row = raw.address.rpartition(":")
                place = (numbers.get(path, -1) << LINE) | int(row)
                if place not in wanted or isinstance(record := opened.record(raw), Fault):
                    continue
                of_row = units.of("\n".join(texts_of(record))[: 20 * MOST_UNITS])[:MOST_UNITS]
                found[place] = _Twin(shingles(of_row, SHINGLE), row_keys(record), question_of(record)[:200])
        except DataError:  # told of already
            continue
    return found
