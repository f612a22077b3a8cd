"""The worst micro-batch is found before the run: none that the run cuts holds more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import random_samples
from tunesmith.data.loader import batches, plan_steps
from tunesmith.kernels import documents
from tunesmith.plan.worst import SHORTEST_IN_GROUP, _slots, worst_of
from tunesmith.recipe import Epochs


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("size", [24, 60, 200])
def test_no_micro_batch_of_the_run_holds_more(packing: bool, size: int) -> None:
    rows = random_samples(300, seed=3)
    steps = plan_steps([rows], [None], Epochs(epochs=2), 200, seed=1)
    worst = worst_of(steps.rows, steps.cuts, rows.lengths, rows.targets, packing)(size)
    cut = [b for k in range(len(steps)) for b in batches(steps.samples([rows], k), size, packing)]
    tokens = [batch.input_ids.numel() for batch in cut]
    assert worst.tokens == max(tokens)
    assert max(batch.targets for batch in cut) - worst.targets <= 2, "not all steps are looked at"
    assert worst.documents >= 1


def test_all_steps_of_a_short_run_are_looked_at() -> None:
    rows = random_samples(60, seed=5)
    steps = plan_steps([rows], [None], Epochs(epochs=1), 100, seed=1)
    worst = worst_of(steps.rows, steps.cuts, rows.lengths, rows.targets, True)(50)
    cut = [b for k in range(len(steps)) for b in batches(steps.samples([rows], k), 50, True)]
    assert worst.targets == max(batch.targets for batch in cut)


# mutation tried: computed tokens as those of the data; one micro-batch where the last one is nearly empty
@pytest.mark.parametrize("packing", [True, False])
def test_padding_and_micro_batches_are_those_of_the_steps(packing: bool) -> None:
    rows = random_samples(60, seed=5)
    steps = plan_steps([rows], [None], Epochs(epochs=1), 100, seed=1)
    worst = worst_of(steps.rows, steps.cuts, rows.lengths, rows.targets, packing)(50)
    cut = [b for k in range(len(steps)) for b in batches(steps.samples([rows], k), 50, packing)]
    computed, own = sum(batch.input_ids.numel() for batch in cut), sum(batch.tokens for batch in cut)
    assert worst.computed == pytest.approx(computed / own)
    assert worst.share * own == pytest.approx(len(cut))
    assert packing == (computed == own)


def test_slots_are_those_that_attention_makes() -> None:
    assert documents.SHORTEST_IN_GROUP == SHORTEST_IN_GROUP
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.integers(1, 40, rng.integers(1, 12))
        segments = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))[None]
        found = documents.group_documents(segments).groups
        made = sum(group.documents * group.length for group in found)
        assert _slots(lengths) == made
