"""Which rows a recipe learns from and which it holds out: worked out from the shards, and kept for the next run.

shards of all sources --keys--> given away? --sides--> places, lengths, targets of each source and side + ledger

A few rows are laid out in memory; of many, the index is a memory-mapped file of the cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from tunesmith.data import cache
from tunesmith.data.ledger import (
    FATES,
    Ledger,
    SourceAccount,
    SourceLedger,
    SplitLedger,
    TokenLedger,
    TouchedRow,
)
from tunesmith.data.samples import SampleSet
from tunesmith.data.shards import Shard
from tunesmith.data.sides import SIDES, Block, GivenAway, Rows, assign
from tunesmith.data.tokenised import Tokenised

STORED_ROWS = 50_000
# Why a row that its shard kept is on no side after all: its code, the reason, the detail.
_GIVEN_AWAY, _OF_HELD, _AUGMENTED = 3, 6, 9  # the first two plus the side that is held out
_LEFT_OUT: dict[int, tuple[str, str]] = {_AUGMENTED: ("augmented", "an augmented row is never held out")}
for _side in (1, 2):
    _detail = f"the row, its beginning or its continuation stands in the {SIDES[_side]} file"
    _LEFT_OUT[_GIVEN_AWAY + _side] = f"also_in_{SIDES[_side]}", _detail
    _detail = f"the row it was made of is in {SIDES[_side]}"
    _LEFT_OUT[_OF_HELD + _side] = f"augmented_of_{SIDES[_side]}", _detail
_COLUMNS = {
    "places": np.uint32, "lengths": np.uint32, "targets": np.uint32, "weight_sums": np.float64, "joined": np.bool_
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Index:
    """The sets of samples of a recipe, and its books. `sets[side]` has one set a source, in order."""

    sets: Mapping[str, Sequence[SampleSet]]
    ledger: Ledger


def index_of(
    sources: Sequence[Tokenised], validation: float | int | None, test: float | int | None, seed: int
) -> Index:
    """From the cache, or worked out. Raises DataError where nothing would be left to train on."""
    parts = {
        "code": cache.code_version(),
        "sources": [[source.key, source.use, source.source.path] for source in sources],
        "validation": validation,
        "test": test,
        "seed": seed,
    }
    rows = sum(source.rows for source in sources)
    if rows < STORED_ROWS:
        return _read(sources, *_work_out(sources, validation, test, seed, _Memory()))
    folder = cache.folder_of("splits", cache.key_of(parts))
    with cache.locked(folder):
        document = cache.read_document(folder / "index.json")
        if document is None or not _is_whole(folder, document):
            staging = folder / "staging"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            columns, books = _work_out(sources, validation, test, seed, _Files(staging))
            del columns
            for path in staging.iterdir():
                path.rename(folder / path.name)
            staging.rmdir()
            what = " + ".join(dict.fromkeys(source.source.path for source in sources))
            about = {"what": what, "rows": rows, "tokens": books["tokens"]["kept"]}
            sizes = {path.name: path.stat().st_size for path in folder.glob("*.npy")}
            document = {"about": about, "books": books, "sizes": sizes}
            cache.write_document(folder / "index.json", document)
    cache.mark_used(folder)
    # mapped files stay readable when they are deleted: nothing need be held
    columns = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return _read(sources, columns, document["books"])


def _is_whole(folder: Path, document: Mapping[str, Any]) -> bool:
    there = {path.name: path.stat().st_size for path in folder.glob("*.npy")}
    return bool(there == document.get("sizes"))


class _Memory:
    """Where columns are laid while they are worked out: in memory."""

    def new(self, name: str, kind: Any, size: int) -> ndarray:
        """A column of zeros."""
        return np.zeros(size, kind)

    def scratch(self, size: int) -> ndarray:
        """UInt64[ndarray, "size"] to work in."""
        return np.zeros(size, np.uint64)


@dataclass(frozen=True, slots=True)
class _Files:
    """In files, which cost no memory of the process."""

    folder: Path

    def new(self, name: str, kind: Any, size: int) -> ndarray:
        """A column of zeros."""
        path = self.folder / f"{name}.npy"
        if size == 0:
            np.save(path, np.zeros(0, kind))
            return np.zeros(0, kind)
        made: ndarray = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(size,))
        return made

    def scratch(self, size: int) -> ndarray:
        """UInt64[ndarray, "size"] to work in, of a file that nobody else sees."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return np.memmap(file, np.uint64, "w+", shape=(size,))


def _work_out(
    sources: Sequence[Tokenised],
    validation: float | int | None,
    test: float | int | None,
    seed: int,
    place: _Memory | _Files,
) -> tuple[dict[str, ndarray], dict[str, Any]]:
    """(columns by name, the books): `sides0` has the side of each row of source 0, `places0_train` ... its samples."""
    columns = {f"sides{n}": place.new(f"sides{n}", np.uint8, source.rows) for n, source in enumerate(sources)}
    fates = [_by_shard(source, columns[f"sides{n}"]) for n, source in enumerate(sources)]
    _place(sources, fates, validation, test, seed, place)
    books = _Books(sources, columns)
    for number, source in enumerate(sources):
        for side in SIDES:
            if side == source.use or source.use == "train":
                columns |= _lay(source, number, side, columns[f"sides{number}"], place, books)
    return columns, books.close()


def _by_shard(source: Tokenised, column: ndarray) -> list[ndarray]:
    """A column of all rows as one view a shard."""
    ends = np.cumsum([shard.rows for shard in source.shards], dtype=np.int64)
    return np.split(column, ends[:-1]) if source.shards else []


def _place(
    sources: Sequence[Tokenised],
    fates: Sequence[Sequence[ndarray]],
    validation: float | int | None,
    test: float | int | None,
    seed: int,
    place: _Memory | _Files,
) -> None:
    """Write the side of each row of each shard of each source, or why it is on none (_LEFT_OUT)."""
    _place_held_out_files(sources, fates)
    train = [n for n, source in enumerate(sources) if source.use == "train"]
    rows = [
        Rows(
            [_kept(shard.block, _free(shard, fate)) for shard, fate in zip(sources[n].shards, fates[n])],
            sources[n].is_text,
        )
        for n in train
    ]
    assigned = assign(rows, validation, test, seed, place.scratch)
    for n, of in zip(train, assigned):
        for shard, fate, sides in zip(sources[n].shards, fates[n], of):
            fate[_free(shard, fate)] = sides
    held = {code: _held_keys([(sources[n], fates[n]) for n in train], code) for code in range(1, len(SIDES))}
    for n in train:
        for shard, fate in zip(sources[n].shards, fates[n]):
            made = _made(shard) & (fate == 0)  # where its original is, or else it trains
            for code, keys in held.items() if made.any() else ():
                fate[made & np.isin(shard.block.last, keys)] = _OF_HELD + code


def _place_held_out_files(sources: Sequence[Tokenised], fates: Sequence[Sequence[ndarray]]) -> None:
    """Rows of held-out files are on their side; who gives one of them away is left out, file after file."""
    held_out = GivenAway()
    for source, found in zip(sources, fates):  # held-out files first: their rows must be known before others
        own = SIDES.index(source.use)
        for shard, fate in zip(source.shards, found):
            away = held_out.find(shard.block)
            fate[:] = np.where(away > 0, away + _GIVEN_AWAY, own)
            if own:
                fate[_made(shard)] = _AUGMENTED
        if own:
            for shard, fate in zip(source.shards, found):
                held_out.add(own, shard.block, fate == own)


def _free(shard: Shard, fate: ndarray) -> ndarray:
    """Rows that may go to any side."""
    free: ndarray = (fate == 0) & ~_made(shard)
    return free


def _made(shard: Shard) -> ndarray:
    return np.asarray(shard.column("made")) > 0


def _held_keys(train: Sequence[tuple[Tokenised, Sequence[ndarray]]], side: int) -> ndarray:
    """What equals the rows of the train sources that are held out on a side."""
    found = [shard.block.last[fate == side] for source, of in train for shard, fate in zip(source.shards, of)]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


def _kept(block: Block, kept: ndarray) -> Block:
    if kept.all():
        return block
    return Block(block.keys[np.repeat(kept, block.counts)], block.counts[kept])


def _lay(
    source: Tokenised, number: int, side: str, sides: ndarray, place: _Memory | _Files, books: _Books
) -> dict[str, ndarray]:
    """The columns of one source's samples on one side."""
    code = SIDES.index(side)
    sizes, rows = [], 0
    for shard, of in zip(source.shards, _by_shard(source, sides)):
        sizes.append(int(shard.column("sample_counts")[of == code].sum()))
        rows += int((of == code).sum())
    weighted = any(shard.books.weighted for shard in source.shards)
    joined = any(shard.joined().any() for shard in source.shards)
    wanted = {"weight_sums": weighted, "joined": joined}
    names = [name for name in _COLUMNS if wanted.get(name, True)]
    laid = {name: place.new(f"{name}{number}_{side}", _COLUMNS[name], sum(sizes)) for name in names}
    at = 0
    for shard, of, size in zip(source.shards, _by_shard(source, sides), sizes):
        of_samples = shard.of_samples(of == code)
        here = slice(at, at + size)
        laid["places"][here] = np.flatnonzero(of_samples)
        laid["lengths"][here] = shard.lengths()[of_samples]
        laid["targets"][here] = shard.sums(weigh=False)[of_samples]
        if weighted:
            laid["weight_sums"][here] = shard.sums(weigh=True)[of_samples]
        if joined:
            laid["joined"][here] = shard.joined()[of_samples]
        at += size
    books.count(side, rows, laid["lengths"], laid["targets"])
    return {f"{name}{number}_{side}": column for name, column in laid.items()} | {
        f"sizes{number}_{side}": _small(place, f"sizes{number}_{side}", sizes)
    }


def _small(place: _Memory | _Files, name: str, values: Sequence[int]) -> ndarray:
    column = place.new(name, np.int64, len(values))
    column[:] = values
    return column


class _Books:
    """Adds up what the sides make of the shards' books."""

    def __init__(self, sources: Sequence[Tokenised], columns: Mapping[str, ndarray]) -> None:
        self.sources, self.columns = sources, columns
        self.splits: dict[str, SplitLedger] = {}

    def count(self, side: str, rows: int, lengths: ndarray, targets: ndarray) -> None:
        """One more set of samples."""
        if side != "train" and not rows:
            return
        sums = (rows, len(lengths), int(lengths.sum(dtype=np.int64)), int(targets.sum(dtype=np.int64)))
        before = self.splits.get(side, SplitLedger())
        self.splits[side] = SplitLedger(*(a + b for a, b in zip(asdict(before).values(), sums)))

    def close(self) -> dict[str, Any]:
        """Sources in the order train, validation, test; tokens of what no held-out file gives away."""
        ledgers, tokens = {}, dict.fromkeys(("kept", "cut", "repeated"), 0)
        for number, source in enumerate(self.sources):
            account = source.account()
            at = 0
            for shard in source.shards:
                sides = self.columns[f"sides{number}"][at : at + shard.rows]
                at += shard.rows
                away = sides >= len(SIDES)
                for name in tokens:
                    tokens[name] += int(shard.column(name)[~away].sum(dtype=np.int64))
                account.augmented += int((_made(shard) & ~away).sum())
                if away.any():
                    _take_back(account, shard, sides, away)
            ledgers[number] = asdict(account.close())
        order = sorted(ledgers, key=lambda n: SIDES.index(self.sources[n].use))
        splits = {side: self.splits[side] for side in SIDES if side in self.splits}
        tokens["targets"] = sum(split.targets for split in splits.values())
        return {
            "sources": [ledgers[n] for n in order],
            "tokens": tokens,
            "splits": {name: asdict(split) for name, split in splits.items()},
        }


def _take_back(account: SourceAccount, shard: Shard, sides: ndarray, away: ndarray) -> None:
    """Rows that are left out were kept by their shard, and are dropped."""
    from tunesmith.data.work import REASONS

    fates, counts = np.unique(shard.column("fates")[away], return_counts=True)
    for fate, count in zip(fates.tolist(), counts.tolist()):
        account.take_back(FATES[fate], REASONS.get(FATES[fate]), count)
    for code, (reason, _) in _LEFT_OUT.items():
        if count := int((sides == code).sum()):
            account.settle("dropped", reason, rows=count)


def _read(sources: Sequence[Tokenised], columns: Mapping[str, ndarray], books: Mapping[str, Any]) -> Index:
    """The sets and the ledger of laid columns."""
    sets: dict[str, list[SampleSet]] = {side: [] for side in SIDES}
    for number, source in enumerate(sources):
        for side in SIDES:
            if f"places{number}_{side}" not in columns:
                continue
            sizes = columns[f"sizes{number}_{side}"]
            filled = np.flatnonzero(sizes)
            places, lengths, targets = (
                columns[f"{name}{number}_{side}"] for name in ("places", "lengths", "targets")
            )
            stores = [source.shards[i] for i in filled.tolist()]
            weights, joined = (columns.get(f"{name}{number}_{side}") for name in ("weight_sums", "joined"))
            found = SampleSet(stores, sizes[filled], places, lengths, targets, weights, joined)
            if len(found) or (side == "train" and source.use == "train"):
                sets[side].append(found)
    ledgers = tuple(SourceLedger(**each) for each in books["sources"])
    splits = {name: SplitLedger(**each) for name, each in books["splits"].items()}
    touched = TouchedRows(tuple((source, columns[f"sides{number}"]) for number, source in enumerate(sources)))
    return Index(sets, Ledger(ledgers, TokenLedger(**books["tokens"]), splits, touched))


@final
@dataclass(frozen=True, slots=True)
class TouchedRows:
    """Every row that did not go whole, in the order of the ledger's sources; read from the shards when asked for."""

    sources: tuple[tuple[Tokenised, ndarray], ...]

    def __iter__(self) -> Iterator[TouchedRow]:
        ordered = sorted(self.sources, key=lambda pair: SIDES.index(pair[0].use))
        for source, sides in ordered:
            at = 0
            for shard in source.shards:
                yield from _touched(shard, sides[at : at + shard.rows])
                at += shard.rows


def held_out_of(ledger: Ledger) -> GivenAway:
    """What equals, begins or continues a row that is held out must not be learnt."""
    found = GivenAway()
    rows = ledger.rows
    for source, sides in rows.sources if isinstance(rows, TouchedRows) else ():
        at = 0
        for shard in source.shards:
            for code in range(1, len(SIDES)):
                held = np.asarray(sides[at : at + shard.rows] == code)
                if held.any():
                    found.add(code, shard.block, held)
            at += shard.rows
    return found


def _touched(shard: Shard, sides: ndarray) -> Iterator[TouchedRow]:
    away = np.flatnonzero(sides >= len(SIDES))
    if not len(away):
        yield from shard.touched()
        return
    given = {}
    for row in away.tolist():
        address = shard.row_address(row)
        given[address] = TouchedRow(address, "dropped", *_LEFT_OUT[int(sides[row])])
    told = [row for row in shard.touched() if row.address not in given]
    yield from sorted([*told, *given.values()], key=lambda row: int(row.address.rpartition(":")[2]))
