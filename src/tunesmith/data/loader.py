"""How the rows of a step become batches.

plan_steps (steps.py) --> the samples of a step --pack--> micro-batches
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from tunesmith.data.packing import pack
from tunesmith.data.samples import IGNORED, Sample, weights_of
from tunesmith.data.steps import StepPlan, plan_steps
from tunesmith.data.streaming.plan import StreamPlan

__all__ = ["Batch", "RunSteps", "StepPlan", "batches", "collate", "plan_steps"]

RunSteps = StepPlan | StreamPlan
"""Which rows each step takes: known beforehand, or laid out while streams are read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch. positions restart with each document; segments == -1 is padding; labels are already shifted."""

    input_ids: Tensor  # Int64[Tensor, "B T"]
    labels: Tensor  # Int64[Tensor, "B T"], -100 where nothing is learnt
    positions: Tensor  # Int64[Tensor, "B T"]
    segments: Tensor  # Int64[Tensor, "B T"]
    weights: Tensor | None = None  # Float32[Tensor, "B T"] of the labels; None: each target weighs 1
    # A tree (sharing.py): the segment each segment goes on from, or -1; and place, target and weight of all targets.
    parents: Tensor | None = None  # Int64[Tensor, "segments"]
    learns: tuple[Tensor, Tensor, Tensor | None] | None = None  # places (rising), targets, weights; [n] each
    # Float[Tensor, "B T d"] that the frozen layers give, where they are kept on disk
    states: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int((self.segments >= 0).sum())

    @property
    def targets(self) -> int:
        """Learnt tokens."""
        return int((self.labels != IGNORED).sum()) if self.learns is None else len(self.learns[1])


def batches(samples: Sequence[Sample], micro_tokens: int, packing: bool) -> Iterator[Batch]:
    """Cut samples into micro-batches of at most `micro_tokens` computed tokens (one sample may be longer).

    packing: documents end to end in one row; else one document a row, padded at the right.
    """
    lengths = np.array([len(sample.input_ids) for sample in samples], np.int64)
    for members in pack(lengths, micro_tokens, padded=not packing):
        yield collate([samples[index] for index in members], packing)


def collate(samples: Sequence[Sample], packing: bool) -> Batch:
    """Lay samples into one batch, in the order given."""
    width = max(len(sample.input_ids) for sample in samples)

    def lay(column: Sequence[ndarray], fill: int) -> Tensor:
        if packing:
            return torch.from_numpy(np.concatenate(column))[None]
        rows = np.full((len(column), width, *column[0].shape[1:]), fill, column[0].dtype)
        for row, values in zip(rows, column):
            row[: len(values)] = values
        return torch.from_numpy(rows)

    positions = [np.arange(len(sample.input_ids)) for sample in samples]
    weighted = any(sample.weights is not None for sample in samples)
    states = states_of(samples)
    return Batch(
        lay([sample.input_ids.astype(np.int64) for sample in samples], 0),
        lay([sample.labels.astype(np.int64) for sample in samples], IGNORED),
        lay(positions if packing else [np.arange(width)] * len(samples), 0),
        lay([np.full_like(places, number) for number, places in enumerate(positions)], -1),
        lay([weights_of(sample) for sample in samples], 0) if weighted else None,
        states=None if states is None else as_numbers(lay(states, 0)),
    )


def states_of(samples: Sequence[Sample]) -> list[ndarray] | None:
    """What the frozen layers make of each, where that is kept: of all, or of none."""
    found = [sample.states for sample in samples if sample.states is not None]
    assert len(found) in (0, len(samples))
    return found or None


def as_numbers(stored: Tensor) -> Tensor:
    """States as they were computed: bf16 is stored as the int16 of the same bits."""
    return stored.view(torch.bfloat16) if stored.dtype == torch.int16 else stored
