"""The order in which the samples of a source are read: without end, a fresh bijection each pass, a block at a time.

blocks  A[0 1 2] B[3 4] C[5 6 7 8]     pass 0: C A B -> 7 5 8 6 | 1 0 2 | 4 3     pass 1: B C A -> 3 4 | ..

A pure function of seed and block sizes. Any stretch of it costs the blocks it touches, so that resuming is a
look-up and memory is that of a few blocks, however many there are.
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy import ndarray


@final
class Order:
    """Sample numbers of a source by their place in its endless stream."""

    def __init__(self, block_sizes: ndarray, seed: tuple[int, ...]) -> None:
        self._sizes = np.asarray(block_sizes, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._seed = seed
        self._known: tuple[tuple[int, int], ndarray] | None = None

    def __len__(self) -> int:
        """Samples of one pass."""
        return int(self._sizes.sum())

    def stretch(self, start: int, stop: int) -> ndarray:
        """Int64[ndarray, "stop-start"], the samples at places [start, stop)."""
        found = [np.zeros(0, np.int64)]
        while start < stop:
            turn, at = divmod(start, len(self))
            end = min(len(self), at + stop - start)
            found += self._within(turn, at, end)
            start += end - at
        return np.concatenate(found)

    def _within(self, turn: int, start: int, stop: int) -> list[ndarray]:
        """A stretch of one pass, block by block."""
        order = np.random.default_rng((*self._seed, turn)).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[order])
        found = []
        number = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block = int(order[number])
            begin = int(ends[number] - self._sizes[block])
            end = min(stop, int(ends[number]))
            found.append(self._block(turn, block)[start - begin : end - begin])
            start, number = end, number + 1
        return found

    def _block(self, turn: int, block: int) -> ndarray:
        """The samples of a block in the order of this pass; the last one asked for is remembered."""
        if self._known is None or self._known[0] != (turn, block):
            drawn = np.random.default_rng((*self._seed, turn, block, 1)).permutation(int(self._sizes[block]))
            self._known = (turn, block), drawn + self._starts[block]
        return self._known[1]
