"""The order in which the samples of a source are read: without end, a fresh bijection each pass, a block at a time.

blocks  A[0 1 2] B[3 4] C[5 6 7 8]     pass 0: C A B -> 7 5 8 6 | 1 0 2 | 4 3     pass 1: B C A -> 3 4 | ..

A pure function of seed and block sizes. Any stretch of it costs the blocks it touches, so that resuming is a
look-up and memory is that of a few blocks, however many there are. Samples of one dialogue, expanded turn by turn,
stay together: what they begin with alike is then computed once (data/sharing.py).
"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy import ndarray


@final
class Order:
    """Sample numbers of a source by their place in its endless stream."""

    def __init__(
        self, block_sizes: ndarray, seed: tuple[int, ...], joined: ndarray | None = None
    ) -> None:  # joined: Bool[ndarray, "N"], whether a sample goes on from the one before it
        self._sizes = np.asarray(block_sizes, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._seed, self._joined = seed, joined
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

    def follows(self, samples: ndarray) -> ndarray:
        """Bool[ndarray, "n"], which of these stand right behind the sample that they go on from."""
        found = np.zeros(len(samples), bool)
        if self._joined is not None:
            found[1:] = (samples[1:] == samples[:-1] + 1) & (self._joined[samples[1:]] > 0)
        return found

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
            samples = self._starts[block] + np.arange(self._sizes[block])
            draw = np.random.default_rng((*self._seed, turn, block, 1))
            self._known = (turn, block), shuffled(samples, self.follows(samples), draw)[0]
        return self._known[1]


def shuffled(rows: ndarray, follows: ndarray, draw: np.random.Generator) -> tuple[ndarray, ndarray]:
    """(the rows in random order, which of them follow); those that follow the row before them stay behind it."""
    if not follows.any():
        return draw.permutation(rows), follows
    firsts = np.flatnonzero(~follows)
    order = draw.permutation(len(firsts))
    counts = np.diff(firsts, append=len(rows))[order]
    before = np.cumsum(counts) - counts
    places = np.repeat(firsts[order] - before, counts) + np.arange(len(rows))
    return rows[places], follows[places]
