"""A micro-batch filled up with tokens that teach nothing, so that what is computed has one of few shapes.

    tokens   [a a a b b b b]  1,987 -> 2,048    targets [a b b]  803 -> 832, those of the last document weigh 0
A processor compiles a product in bf16 for its number of rows, and packed rows have ever new ones: half of a step
(docs/log.md). On a card full rows, which have one token less than data.max_length, get it back at their end, where
no other sees it: cuDNN attends to documents of one length that comes again (kernels/varlen.py).

    tokens   2 documents of 4,095 -> of 4,096
Loss and gradient are those of the rows; no document sees another.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tunesmith.data.loader import Batch
from tunesmith.data.packing import filled
from tunesmith.data.samples import IGNORED


def fill(batch: Batch) -> Batch:
    """The batch with one document more, [1 T] -> [1 T + more]; as it is where rows are padded."""
    rows, tokens = batch.input_ids.shape
    if rows != 1:
        return batch
    targets = batch.targets
    more, more_targets = (after - before for before, after in zip((tokens, targets), filled(tokens, targets)))
    if not more:
        return batch

    def longer(column: Tensor, end: Tensor | int) -> Tensor:
        tail = end if isinstance(end, Tensor) else torch.full((more,), end, dtype=column.dtype)
        return torch.cat([column, tail.to(column.dtype)[None]], 1)

    last, places = int(batch.segments.max()) + 1, torch.arange(more)
    labels = torch.where(places < more_targets, 0, IGNORED)
    weights = batch.weights if batch.weights is not None else (batch.labels != IGNORED).float()
    return replace(
        batch,
        input_ids=longer(batch.input_ids, 0),
        labels=longer(batch.labels, labels),
        positions=longer(batch.positions, places),
        segments=longer(batch.segments, last),
        weights=longer(weights, 0),
        parents=None if batch.parents is None else torch.cat([batch.parents, torch.tensor([-1])]),
        learns=None if batch.learns is None else _learns_more(*batch.learns, tokens, more_targets),
        states=None if batch.states is None else torch.nn.functional.pad(batch.states, (0, 0, 0, more)),
    )


MOST_SHARE = 32  # at most one token in so many is added


def even_out(batch: Batch, multiple: int) -> Batch:
    """Documents of one length, each to a multiple: [B N*L] -> [B N*(L + more)]; as it is where they are unlike."""
    flat = batch.segments.reshape(-1)
    count = int(flat[-1]) + 1
    if batch.parents is not None or count < 1 or len(flat) % count:
        return batch
    length = len(flat) // count
    more = -length % multiple
    if not more or more * MOST_SHARE > length:
        return batch
    if not torch.equal(flat.view(count, length), torch.arange(count)[:, None].expand(-1, length)):
        return batch
    rows = len(batch.segments)

    def longer(column: Tensor, end: int) -> Tensor:
        wide = column.reshape(count, length, *column.shape[2:])
        tail = wide.new_full((count, more, *wide.shape[2:]), end)
        return torch.cat([wide, tail], 1).reshape(rows, -1, *wide.shape[2:])

    return replace(
        batch,
        input_ids=longer(batch.input_ids, 0),
        labels=longer(batch.labels, IGNORED),
        positions=longer(batch.positions, length - 1),  # no position that a model might lack
        segments=torch.arange(count).repeat_interleave(length + more).view(rows, -1),
        weights=None if batch.weights is None else longer(batch.weights, 0),
        states=None if batch.states is None else longer(batch.states, 0),
    )


def _learns_more(
    places: Tensor, targets: Tensor, weights: Tensor | None, begin: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets of a tree, and some behind it that weigh nothing."""
    known = torch.ones(len(places)) if weights is None else weights
    return (
        torch.cat([places, torch.arange(begin, begin + count)]),
        torch.cat([targets, targets.new_zeros(count)]),
        torch.cat([known, known.new_zeros(count)]),
    )
