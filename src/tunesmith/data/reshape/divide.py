"""Split data files into parts: rows that belong together stay together, and each kind of row gets its share.

rows --equal or nearly, continued, same group, augmented--> groups --by stratum, in an order of their own--> parts

The order in which groups are drawn comes from their content and the seed: adding rows moves few others.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data.doctor.leakage import texts_of
from tunesmith.data.formats import Fault
from tunesmith.data.marks import original_of
from tunesmith.data.reshape.alike import Alike
from tunesmith.data.reshape.output import Spool, require_new, staged_folder
from tunesmith.data.reshape.rows import Losses, good_rows, one_format, plain
from tunesmith.data.splits import Key, row_keys
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.folder import write_json
from tunesmith.recipe import Source

PARTS = ("train", "validation", "test")
SOURCE = "source"
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: shares or counts of rows, the column of groups, that of strata (`source`: the file).

    near: from which overlap of word triples rows count as equal; 0 from none, None from 0.8 where there are few rows.
    """

    validation: int | float | None = None
    test: int | float | None = None
    by: str | None = None
    stratify: str | None = None
    seed: int = 0
    near: float | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    keys: tuple[Key, ...]
    group: str | None
    stratum: str
    original: Key | None = None
    """Of an augmented row: the key of the row that it was made of."""
    twin: int | None = None
    """The first of the rows that are nearly equal to it."""


def divide(
    sources: Sequence[Source],
    wish: Wish,
    out: str,
    *,
    drop_bad: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write train.jsonl, validation.jsonl, test.jsonl and split.json into the new folder `out`; the report.

    Rows are written as they were read. Raises DataError where a row cannot be read, unless `drop_bad`.
    """
    folder = Path(out)
    require_new(folder)
    shares = [part for part in (wish.validation, wish.test) if isinstance(part, float)]
    if sum(shares) >= 1:
        what = f"and --test ask for {' + '.join(f'{part:g}' for part in shares)} of all rows"
        raise DataError.at(
            "--validation", what, "leave something to train on: shares of less than 1 together"
        )
    if not (wish.validation or wish.test):
        raise DataError.at("--validation", "nor --test is given", "such as --validation 0.05 --test 200")
    with Spool(folder.parent) as spool, Alike(folder.parent, wish.near) as alike:
        rows, bad = _read(sources, wish, drop_bad, spool, alike, reporter)
        rows = _with_twins(rows, alike)
        sides = place_augmented(rows, assign(rows, wish))
        report = {**_report(sources, wish, rows, sides, bad, folder), "near": _near(rows, alike)}
        with staged_folder(folder) as beside:
            for part in report["parts"]:
                with Spool(beside) as chosen:
                    for row, side in zip(spool, sides):
                        if side == part["name"]:
                            chosen.put(row)
                    chosen.lay(beside / f"{part['name']}.jsonl")
            write_json(beside / "split.json", report)
    return report


def _read(
    sources: Sequence[Source],
    wish: Wish,
    drop_bad: bool,
    spool: Spool,
    alike: Alike,
    reporter: Reporter | None,
) -> tuple[list[_Row], Losses]:
    rows: list[_Row] = []
    bad = Losses()
    missing = dict.fromkeys(name for name in (wish.by, wish.stratify) if name not in (None, SOURCE))
    for number, row in one_format(good_rows(sources, drop_bad, reporter), sources, "train.jsonl"):
        if isinstance(row.record, Fault):
            bad.note(row.record.reason, row.address, row.record.detail)
            continue
        assert row.value is not None
        for name in [name for name in missing if row.value.get(name) is not None]:
            del missing[name]
        group = None if wish.by is None else _said(row.value.get(wish.by))
        by = wish.stratify
        stratum = (
            sources[number].path if by == SOURCE else "" if by is None else _said(row.value.get(by)) or "null"
        )
        if original_of(row.value) is None:
            alike.add(len(rows), "\n".join(texts_of(row.record)))
        rows.append(_Row(row_keys(row.record), group, stratum, original_of(row.value)))
        spool.put(plain(row.value)[0])
    if missing:
        raise DataError.at(
            sources[0].path,
            f"no row has a column {' nor '.join(map(repr, missing))}",
            f"name a column of the file; --stratify {SOURCE} takes the files themselves",
        )
    return rows, bad


def _with_twins(rows: Sequence[_Row], alike: Alike) -> list[_Row]:
    """Rows that are nearly equal know the first of them."""
    first = dict(alike.first_of())
    first |= {root: root for root in first.values()}
    return [replace(row, twin=first.get(number)) for number, row in enumerate(rows)]


def _near(rows: Sequence[_Row], alike: Alike) -> dict[str, Any]:
    """How many rows have a row that is nearly equal, and whether that was looked for."""
    return {"least": alike.least, "looked": alike.looked, "rows": sum(row.twin is not None for row in rows)}


def _said(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(plain(value)[0], ensure_ascii=False, sort_keys=True)


class _Together:
    """Sets that grow together: join(a, b), find(a)."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = item = self.parent[self.parent[item]]
        return item

    def join(self, one: int, other: int) -> None:
        a, b = sorted((self.find(one), self.find(other)))
        self.parent[b] = a


def groups_of(rows: Sequence[_Row]) -> list[list[int]]:
    """Row numbers that must not part: rows equal or nearly, a dialogue and what continues it, rows of one group."""
    together = _Together(len(rows))
    whole: dict[Key, int] = {}
    for i, row in enumerate(rows):
        together.join(whole.setdefault(row.keys[-1], i), i)
    named: dict[str | int, int] = {}
    for i, row in enumerate(rows):
        for key in row.keys[:-1]:
            if key in whole:
                together.join(whole[key], i)
        if row.group is not None:
            together.join(named.setdefault(row.group, i), i)
        if row.twin is not None:
            together.join(named.setdefault(row.twin, i), i)
    found: dict[int, list[int]] = {}
    for i in range(len(rows)):
        found.setdefault(together.find(i), []).append(i)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Group:
    rows: Sequence[int]
    stratum: str
    rank: bytes


def assign(rows: Sequence[_Row], wish: Wish) -> list[str]:
    """The part of each row. Raises DataError where nothing would be left to train on."""
    key = wish.seed.to_bytes(8, "little", signed=True)

    def rank(members: Sequence[int]) -> bytes:
        named = [
            group.encode("utf-8", "surrogatepass") for i in members if (group := rows[i].group) is not None
        ]
        first = min(named or (rows[i].keys[-1] for i in members))
        return hashlib.blake2b(first, key=key, digest_size=16).digest()

    def stratum(members: Sequence[int]) -> str:
        return Counter(rows[i].stratum for i in members).most_common(1)[0][0]

    real = [i for i, row in enumerate(rows) if row.original is None]
    groups = [
        _Group(numbers, stratum(numbers), rank(numbers))
        for members in groups_of([rows[i] for i in real])
        if (numbers := [real[k] for k in members])
    ]
    groups.sort(key=lambda group: group.rank)
    sides = ["train"] * len(rows)
    taken: set[bytes] = set()
    # test first: with the same seed it stays the same whatever validation asks
    for part, asked in (("test", wish.test), ("validation", wish.validation)):
        if asked is None:
            continue
        count = asked if isinstance(asked, int) else max(1, round(asked * len(real)))
        chosen = _draw([group for group in groups if group.rank not in taken], count)
        taken |= {group.rank for group in chosen}
        for group in chosen:
            for i in group.rows:
                sides[i] = part
        if not chosen:
            what = f"{count} of {len(real)} rows: every one of the {len(groups)} groups is larger"
            raise DataError.at(f"--{part}", what, "ask for more, or group by a finer column, or --near 0")
    if all(sides[i] != "train" for i in real):
        raise DataError.at("--validation", f"and --test take all of {len(real)} rows", "ask for less")
    return sides


def place_augmented(rows: Sequence[_Row], sides: Sequence[str]) -> list[str]:
    """Augmented rows train if their originals do, and are left out if these are held out; they never test."""
    side_of: dict[Key | str, str] = {}
    for row, side in zip(rows, sides):
        if row.original is None:
            side_of |= dict.fromkeys((*row.keys, *((row.group,) if row.group is not None else ())), side)
    placed = list(sides)
    for i, row in enumerate(rows):
        if row.original is not None:
            known = [side_of[key] for key in (row.original, row.group) if key is not None and key in side_of]
            placed[i] = "train" if all(side == "train" for side in known) else LEFT_OUT
    return placed


def _draw(groups: Sequence[_Group], count: int) -> list[_Group]:
    """Groups of about `count` rows together, never more, from each stratum by its size."""
    sizes = Counter[str]()
    for group in groups:
        sizes[group.stratum] += len(group.rows)
    total = sum(sizes.values())
    wanted = {name: count * size / total for name, size in sizes.items()}
    chosen: list[_Group] = []
    left = count
    # first what fits wholly into a stratum's share, then what fills the rest, the least served first
    for group in groups:
        if len(group.rows) <= min(wanted[group.stratum] + 1e-9, left):
            wanted[group.stratum] -= len(group.rows)
            left -= len(group.rows)
            chosen.append(group)
    known = {group.rank for group in chosen}
    rest = [group for group in groups if group.rank not in known]
    for name in sorted(wanted, key=lambda name: (-wanted[name], name)):
        fits = next(
            (g for g in rest if g.stratum == name and len(g.rows) <= min(left, wanted[name] + 1)), None
        )
        if fits is not None and wanted[name] > 1e-9:
            left -= len(fits.rows)
            chosen.append(fits)
    return chosen


def _report(
    sources: Sequence[Source],
    wish: Wish,
    rows: Sequence[_Row],
    sides: Sequence[str],
    bad: Losses,
    folder: Path,
) -> dict[str, Any]:
    """Rows of each part and stratum; they and the rows left out sum to what was read."""
    per_part = Counter(sides)
    strata: dict[str, Counter[str]] = {}
    for row, side in zip(rows, sides):
        strata.setdefault(row.stratum, Counter())[side] += 1
    groups = groups_of([row for row in rows if row.original is None])
    unread, held_back = sum(bad.counts.values()), per_part[LEFT_OUT]
    assert sum(per_part[part] for part in PARTS) + held_back == len(rows)
    asked: Mapping[str, Any] = {"validation": wish.validation, "test": wish.test}
    return {
        "folder": str(folder),
        "sources": [source.path for source in sources],
        "seed": wish.seed,
        "by": wish.by,
        "stratify": wish.stratify,
        "rows_in": len(rows) + unread,
        "left_out": unread + held_back,
        "augmented": {"train": sum(row.original is not None for row in rows) - held_back, "left_out": held_back},
        "losses": bad.to_json(),
        "groups": {"count": len(groups), "largest": max(map(len, groups), default=0)},
        "parts": [
            {"name": part, "path": str(folder / f"{part}.jsonl"), "rows": per_part[part], "asked": asked.get(part),
             "strata": {name: counts[part] for name, counts in sorted(strata.items())}}
            for part in PARTS
            if per_part[part]
        ],
    }  # fmt: skip
