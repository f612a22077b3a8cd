"""The worst micro-batch of a run: packed as the run will pack it, for any size, before a token is computed.

steps' rows -> pack at `size` -> most tokens, most targets, most padding between documents of unlike length
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy import ndarray

from tunesmith.data.packing import pack

# Steps that are looked at: those with the most tokens, the most targets, the longest row, and some between.
EACH_KIND = 16
# A micro-batch this near to the fullest has a say in how documents fall together.
NEAR = 0.9
# Documents at least this share of a group's longest are attended together (kernels/documents.py).
SHORTEST_IN_GROUP = 0.8


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What it holds. slots: places attended, padding between documents included.

    Of the steps it comes from: `computed` tokens for one of the data's (more than 1 where rows are padded), and the
    `share` of a micro-batch that one token of the data is; 0: not known."""

    tokens: int
    targets: int
    documents: int
    slots: int
    computed: float = 1.0
    share: float = 0.0


Worst = Callable[[int], MicroBatch]


def worst_of(rows: ndarray, cuts: ndarray, lengths: ndarray, targets: ndarray, packing: bool) -> Worst:
    """The worst micro-batch by its most tokens. rows[cuts[k]:cuts[k + 1]] are those of step k."""
    tokens, learnt = (np.add.reduceat(of[rows], cuts[:-1]) for of in (lengths, targets))
    longest = np.maximum.reduceat(lengths[rows], cuts[:-1])
    chosen = (rows[cuts[k] : cuts[k + 1]] for k in telling(tokens, learnt, longest))
    return worst_among([(lengths[those], targets[those]) for those in chosen], packing)


def worst_among(steps: Sequence[tuple[ndarray, ndarray]], packing: bool) -> Worst:
    """The same of some steps, each as the lengths and the targets of its rows."""

    @lru_cache(maxsize=64)
    def worst(size: int) -> MicroBatch:
        found = [batch for length, target in steps for batch in _cut(length, target, size, packing)]
        tokens, own = max(batch.tokens for batch in found), sum(int(length.sum()) for length, _ in steps)
        full = [batch for batch in found if batch.tokens >= NEAR * tokens]
        return MicroBatch(
            tokens,
            max(batch.targets for batch in found),
            max(batch.documents for batch in full),
            round(tokens * max(batch.slots / batch.tokens for batch in full)),
            sum(batch.tokens for batch in found) / own,
            len(found) / own,
        )

    return worst


def telling(tokens: ndarray, targets: ndarray, longest: ndarray) -> list[int]:
    """Numbers of the steps that are looked at, by what is known of each step."""
    count = len(tokens)
    numbers = {
        int(np.argmax(longest)),
        *np.linspace(0, count - 1, min(count, EACH_KIND)).astype(int).tolist(),
    }
    for total in (tokens, targets):
        numbers |= set(np.argsort(-total)[:EACH_KIND].tolist())
    return sorted(numbers)


def _cut(lengths: ndarray, targets: ndarray, size: int, packing: bool) -> list[MicroBatch]:
    """A step as it is cut into micro-batches."""
    found = []
    for members in pack(lengths, size, padded=not packing):
        own = lengths[members]
        tokens = int(own.sum()) if packing else len(own) * int(own.max())
        found.append(MicroBatch(tokens, int(targets[members].sum()), len(own), max(tokens, _slots(own))))
    return found


def _slots(lengths: Sequence[int] | ndarray) -> int:
    """Places of documents attended in groups of similar length, each padded to its group's longest."""
    slots = longest = 0
    for length in sorted((int(n) for n in lengths), reverse=True):
        longest = length if length < SHORTEST_IN_GROUP * longest or not longest else longest
        slots += longest
    return slots
