"""Rows of a step that begin alike are laid as a tree: what they share is computed once.

    rows      [s s s a a]  [s s s b]          two branches of one trunk
    flat      [s s s a a b]                   segments [0 0 0 1 1 2]   parents [-1 0 0]   positions [0 1 2 3 4 3]
    learnt    (place, target, weight) of every row's own targets: a shared token may have several
    rows      [s s s]  [s s s a]  [s s s a b]        no fork: [s s s a b] is an ordinary document, parents None
A dialogue expanded per assistant turn, or a long common system prompt, costs its tokens once. Exact: each token
has its own position and sees its own path alone (kernels/documents.py). Not done where less than a tenth is saved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy import ndarray

from tunesmith.data.loader import Batch, as_numbers
from tunesmith.data.packing import pack
from tunesmith.data.samples import IGNORED, Sample, weights_of

LEAST_SAVING = 0.1  # of a step's tokens
LEAST_SHARED = 16  # tokens: a shorter common piece is not worth a branch
COPY_COST = 0.25  # memory of a shared key seen by one more branch, against a token of one's own


def shared_batches(samples: Sequence[Sample], micro_tokens: int) -> Iterator[Batch] | None:
    """The samples as trees of at most `micro_tokens` (one sample may be longer); None where little would be saved."""
    order = sorted(range(len(samples)), key=lambda index: samples[index].input_ids.astype(">i4").tobytes())
    rows = [samples[index] for index in order]
    common = [0, *(_common(a.input_ids, b.input_ids) for a, b in itertools.pairwise(rows))]
    common = [count if count >= LEAST_SHARED else 0 for count in common]
    total = sum(len(row.input_ids) for row in rows)
    if sum(common) < LEAST_SAVING * total:
        return None
    return _lay(_families(rows, common, micro_tokens), micro_tokens)


def _common(a: ndarray, b: ndarray) -> int:
    """How many tokens two rows begin with alike."""
    width = min(len(a), len(b))
    differs = a[:width] != b[:width]
    return int(differs.argmax()) if differs.any() else width


def _families(
    rows: Sequence[Sample], common: Sequence[int], micro_tokens: int
) -> list[tuple[int, list[Sample]]]:
    """Neighbours that share, with their cost in tokens; cut where a family would not fit a micro-batch."""
    found: list[tuple[float, list[Sample]]] = []
    for row, shared in zip(rows, common):
        length = len(row.input_ids)
        # a row that holds all of the one before copies no key: it is laid as more of the same document
        forks = bool(found) and shared < len(found[-1][1][-1].input_ids)
        more = length - shared + COPY_COST * shared * forks
        if shared and found[-1][0] + more <= micro_tokens:
            found[-1] = (found[-1][0] + more, [*found[-1][1], row])
        else:
            found.append((length, [row]))
    return [(int(np.ceil(cost)), members) for cost, members in found]


def _lay(families: Sequence[tuple[int, list[Sample]]], micro_tokens: int) -> Iterator[Batch]:
    costs = np.array([cost for cost, _ in families], np.int64)
    for chosen in pack(costs, micro_tokens):
        yield plant([families[index][1] for index in chosen])


def plant(families: Sequence[Sequence[Sample]]) -> Batch:
    """One batch of trees; each family's rows in lexical order."""
    tree = _Tree()
    for rows in families:
        tree.grow(rows, 0, -1, np.zeros(0, np.int64))
    return tree.batch()


class _Tree:
    """Nodes in the order they are laid: a parent before its children."""

    def __init__(self) -> None:
        self.ids: list[ndarray] = []
        self.positions: list[ndarray] = []
        self.nodes: list[int] = []  # of each piece laid
        self.parents: list[int] = []  # of each node
        self.places: list[ndarray] = []
        self.targets: list[ndarray] = []
        self.weights: list[ndarray] = []
        self.states: list[ndarray] = []
        self.weighted = False
        self.size = 0

    def grow(
        self, rows: Sequence[Sample], depth: int, parent: int, path: ndarray, alone: bool = False
    ) -> None:
        """Lay what these rows hold from `depth` on; `path`: flat places of what stands before, alike in all.

        `alone`: nothing else goes on from the end of `parent`, so that this is more of the same node.
        """
        first, last = rows[0].input_ids, rows[-1].input_ids
        end = len(first) if len(rows) == 1 else _common(first, last)
        laid = end > depth and (len(rows) == 1 or end - depth >= LEAST_SHARED)
        if laid:
            path = np.concatenate([path, self.size + np.arange(end - depth)])
            parent = self._lay(rows[0], depth, end, parent, alone)
            depth = end
        while rows and len(rows[0].input_ids) == depth:  # those that end here stand first
            self._learn(rows[0], path)
            rows = rows[1:]
        forks = [at for at in range(1, len(rows)) if not _go_on_alike(rows[at - 1], rows[at], depth)]
        for begin, at in itertools.pairwise([0, *forks, len(rows)] if rows else []):
            self.grow(rows[begin:at], depth, parent, path, alone=laid and not forks)

    def _lay(self, row: Sample, depth: int, end: int, parent: int, alone: bool) -> int:
        """Tokens [depth, end) of a row; the number of the node that they belong to."""
        self.ids.append(row.input_ids[depth:end])
        if row.states is not None:
            self.states.append(row.states[depth:end])
        self.positions.append(np.arange(depth, end))
        self.size += end - depth
        if not alone:
            self.parents.append(parent)
        self.nodes.append(parent if alone else len(self.parents) - 1)
        return self.nodes[-1]

    def _learn(self, row: Sample, path: ndarray) -> None:
        learnt = np.flatnonzero(row.labels != IGNORED)
        self.places.append(path[learnt])
        self.targets.append(row.labels[learnt].astype(np.int64))
        self.weights.append(weights_of(row)[learnt])
        self.weighted |= row.weights is not None

    def batch(self) -> Batch:
        """The flat row. `labels` hold one target of each learnt token, `learns` all of them."""
        places, targets, weights = (np.concatenate(x) for x in (self.places, self.targets, self.weights))
        order = np.argsort(places, kind="stable")
        labels = np.full(self.size, IGNORED, np.int64)
        labels[places] = targets
        segments = np.repeat(self.nodes, [len(ids) for ids in self.ids])
        ids, positions = (np.concatenate(x).astype(np.int64) for x in (self.ids, self.positions))
        ids_T, labels_T, positions_T, segments_T = (
            torch.from_numpy(x)[None] for x in (ids, labels, positions, segments)
        )
        learns = [torch.from_numpy(x[order]) for x in (places, targets)]
        weighed = torch.from_numpy(weights[order]) if self.weighted else None
        parents = torch.tensor(self.parents) if max(self.parents) >= 0 else None
        states = as_numbers(torch.from_numpy(np.concatenate(self.states))[None]) if self.states else None
        return Batch(
            ids_T, labels_T, positions_T, segments_T, parents=parents,
            learns=(learns[0], learns[1], weighed), states=states,
        )  # fmt: skip


def _go_on_alike(a: Sample, b: Sample, depth: int) -> bool:
    """Whether two rows, both longer than `depth`, share enough from there on to be laid together."""
    return _common(a.input_ids, b.input_ids) - depth >= LEAST_SHARED
