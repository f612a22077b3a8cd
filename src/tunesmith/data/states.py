"""What the frozen layers of a model make of each row, kept on disk: blocks of rows, memory-mapped, whole or absent.

trunks/KEY/  block-00000.bin  block-00000.json {sha256}  block-00001.bin ..       manifest.json once all are there

    rows      | 0 1 2 | 3 4 | 5 6 7 8 |        a block has as many whole rows as BLOCK_TOKENS hold
    a row     its tokens end to end, `width` numbers each; bf16 as the int16 of the same bits (numpy has none)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from tunesmith.data import cache
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.data.shards import hash_of

KIND = "trunks"
BLOCK_TOKENS = 1 << 15  # 64 MiB of fp32 at width 512, 256 MiB of bf16 at 4096
# (samples of a block) -> the states of each, [T, width]; in any order: (place in the block, states)
Compute = Callable[[Sequence[Sample]], Iterator[tuple[int, ndarray]]]


@dataclass(frozen=True, slots=True)
class Made:
    """What was done to have all blocks: tokens and seconds of this time, blocks that were damaged."""

    tokens: int = 0
    seconds: float = 0.0
    damaged: int = 0


@final
class States:
    """The states of all rows of some sets, in order. Blocks are made by `fill`, rows are read by `row`."""

    def __init__(self, sets: Sequence[SampleSet], width: int, dtype: str, key: dict[str, Any]) -> None:
        """Raises OSError or DataError where the cache has no room for a folder."""
        self._sets, self._width, self._dtype = tuple(sets), width, np.dtype(dtype)
        lengths = np.concatenate([np.zeros(0, np.int64), *(each.lengths for each in sets)])
        self._bases = np.cumsum([0, *(len(each) for each in sets)])
        self._ends = np.cumsum(lengths)
        self._lengths = lengths
        self._cuts = _cut(self._ends)  # Int64[ndarray, "blocks+1"], rows
        parts = {**key, "rows": _digest(sets), "width": width, "dtype": dtype, "block": BLOCK_TOKENS}
        self.folder = cache.folder_of(KIND, cache.key_of(parts))
        self._lease: cache.Lease | None = None
        self.read_tokens = 0  # tokens whose states were asked for, so far

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def bytes(self) -> int:
        """Bytes of all blocks."""
        return self.tokens * self._width * self._dtype.itemsize

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self._cuts) - 1

    @property
    def missing_bytes(self) -> int:
        """Bytes of the blocks that are not there."""
        absent = [n for n in range(self.blocks) if not self._path(n).with_suffix(".json").exists()]
        return sum(self._size(number) for number in absent) * self._width * self._dtype.itemsize

    @property
    def seconds_a_token(self) -> float | None:
        """What it took to make them, on the machine that did; None before that."""
        about = (cache.read_document(self.folder / "manifest.json") or {}).get("about", {})
        return about["seconds"] / max(1, about["made"]) if "seconds" in about else None

    def fill(self, compute: Compute, what: str, progress: Callable[[int], None], waiting: Any = None) -> Made:
        """Make the blocks that are missing or not as they were written. Raises OSError; blocks made so far stay."""
        with cache.locked(self.folder, waiting):
            began, done, damaged, mine = time.perf_counter(), 0, 0, 0
            for number in range(self.blocks):
                size = self._size(number)
                state = self._look(number)
                if state != "whole":
                    damaged += state == "damaged"
                    self._make(number, compute)
                    mine += size
                done += size
                progress(done)
            made = Made(mine, time.perf_counter() - began if mine else 0.0, damaged)
            if mine or cache.read_document(self.folder / "manifest.json") is None:
                about = {"what": what, "rows": len(self._lengths), "tokens": self.tokens}
                speed = {"made": mine, "seconds": made.seconds} if mine else {}
                cache.write_document(self.folder / "manifest.json", {"about": about | speed})
            self._lease = cache.Lease(self.folder)
        cache.mark_used(self.folder)
        return made

    def remove_if_unfinished(self) -> None:
        """Give the disk back what a filling that could not be ended has taken."""
        if cache.read_document(self.folder / "manifest.json") is None:
            for path in [*self.folder.glob("block-*"), *self.folder.glob(".block-*")]:
                with contextlib.suppress(OSError):
                    path.unlink()

    def sets(self) -> list[SampleSet]:
        """The same sets; each sample brings its states."""
        return [_bringing(each, self, int(base)) for each, base in zip(self._sets, self._bases)]

    def row(self, number: int) -> ndarray:
        """[T, width] of a row, counted through all sets; a view of the file."""
        block = int(np.searchsorted(self._cuts, number, side="right")) - 1
        start = int(self._ends[number] - self._lengths[number]) - self._start(block)
        shape = (int(self._lengths[number]), self._width)
        self.read_tokens += shape[0]
        offset = start * self._width * self._dtype.itemsize
        # the row alone: what is mapped for long would count as memory of the process
        return np.memmap(self._path(block), self._dtype, "r", offset, shape)

    # --- a block ---

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:05d}.bin"

    def _start(self, block: int) -> int:
        """Tokens before a block."""
        first = int(self._cuts[block])
        return int(self._ends[first - 1]) if first else 0

    def _size(self, block: int) -> int:
        """Tokens of a block."""
        return self._start(block + 1) - self._start(block)

    def _look(self, block: int) -> str:
        """whole, missing or damaged. Its bytes are hashed: once a run, before the first step."""
        path = self._path(block)
        document = cache.read_document(path.with_suffix(".json"))
        if document is None:
            return "missing"
        try:
            return "whole" if hash_of(path) == document["sha256"] else "damaged"
        except (OSError, KeyError, TypeError):
            return "damaged"

    def _make(self, block: int, compute: Compute) -> None:
        """Write a block beside and rename it; its .json, written last, says that it is there."""
        path = self._path(block)
        path.with_suffix(".json").unlink(missing_ok=True)
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        first, last = int(self._cuts[block]), int(self._cuts[block + 1])
        starts = self._ends[first:last] - self._lengths[first:last] - self._start(block)
        samples = [self._sample(row) for row in range(first, last)]
        try:
            with open(
                staging, "wb"
            ) as file:  # a disk that is full says so here, and not with a signal later on
                os.posix_fallocate(file.fileno(), 0, self._size(block) * self._width * self._dtype.itemsize)
            laid = np.memmap(staging, self._dtype, "r+", shape=(self._size(block), self._width))
            for place, states in compute(samples):
                laid[starts[place] : starts[place] + len(states)] = states
            del laid
            digest = hash_of(staging)
            os.replace(staging, path)
        finally:
            staging.unlink(missing_ok=True)
        cache.write_document(path.with_suffix(".json"), {"sha256": digest})

    def _sample(self, row: int) -> Sample:
        owner = int(np.searchsorted(self._bases, row, side="right")) - 1
        return self._sets[owner][row - int(self._bases[owner])]


def _cut(ends: ndarray) -> ndarray:
    """Borders of blocks, in rows; a row longer than a block stands alone."""
    cuts = [0]
    while cuts[-1] < len(ends):
        begun = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, begun + BLOCK_TOKENS, side="right"))))
    return np.array(cuts, np.int64)


def _digest(sets: Sequence[SampleSet]) -> str:
    """sha256 of the tokens of all rows: template, tokenizer and data change it, and nothing else does."""
    digest = hashlib.sha256()
    for each in sets:
        digest.update(f"{len(each)};".encode())
        for sample in each:
            digest.update(len(sample.input_ids).to_bytes(8, "little"))
            digest.update(sample.input_ids.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A store whose samples bring their states."""

    samples: SampleSet
    states: States
    base: int

    def sample(self, number: int) -> Sample:
        """One of them."""
        return replace(self.samples[number], states=self.states.row(self.base + number))

    def address(self, number: int) -> str:
        """Where it came from."""
        return self.samples.address(number)

    def ids(self, learnt: bool) -> ndarray:
        """Distinct ids."""
        return self.samples.ids(learnt)


def _bringing(samples: SampleSet, states: States, base: int) -> SampleSet:
    count = len(samples)
    return SampleSet(
        [_Kept(samples, states, base)] if count else [],
        [count] if count else [],
        np.arange(count, dtype=np.uint32),
        samples.lengths_at(slice(None)),
        samples.targets_at(slice(None)),
        samples.weight_sums if samples.is_weighted else None,
    )
