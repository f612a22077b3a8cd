"""Rows that begin alike, laid as a tree: the same loss and gradients as each by itself, for fewer tokens."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.tiny import DENSE, tiny_model
from tunesmith.data.loader import collate
from tunesmith.data.samples import IGNORED, Sample
from tunesmith.data.sharing import LEAST_SHARED, shared_batches
from tunesmith.engine.step import Stepper
from tunesmith.model.forward import learnt
from tunesmith.recipe import Lora, PTuningV2
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting


def _row(ids, learnt_from, weights=None):
    ids = np.array(ids, np.int32)
    labels = np.where(np.arange(1, len(ids)) >= learnt_from, ids[1:], IGNORED).astype(np.int32)
    weighed = None if weights is None else np.where(labels >= 0, weights, 0).astype(np.float32)
    return Sample(ids[:-1], labels, "a:1", weighed)


def dialogues(weighted=False):
    """Two dialogues expanded per turn behind one system prompt, two answers to one prompt, and a stranger."""
    draw = np.random.default_rng(0)
    text = lambda n: draw.integers(3, 97, n).tolist()  # noqa: E731
    system, rows = text(20), []
    for _ in range(2):
        so_far = system
        for turn in range(3):
            so_far = so_far + text(18)
            answered = so_far + text(5)
            rows.append(_row(answered, len(so_far), 0.5 + turn if weighted else None))
            so_far = answered
    prompt = text(30)
    rows += [_row(prompt + text(n), 30) for n in (4, 9)]
    rows.append(_row(text(12), 3))
    # the same prompt again, learnt as well where the other rows do not: one token, two targets
    rows.append(_row(prompt + text(3), 20))
    return [rows[index] for index in draw.permutation(len(rows))]


def _sums(model, batches):
    model.zero_grad()
    total = sum(learnt(model, batch).summed_loss() for batch in batches)
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _equal(model, rows, close, micro_tokens=10_000):
    trees = list(shared_batches(rows, micro_tokens))
    ours, plain = _sums(model, trees), _sums(model, [collate(rows, packing=True)])
    torch.testing.assert_close(ours[0], plain[0], rtol=close, atol=0)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert (ours[1][name] - gradient).norm() <= close * gradient.norm() + 1e-12, name
    return trees


# mutation tried: positions from 0 in each branch; a branch that sees its sister; targets of one row only
@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_of_every_family_are_those_of_rows_alone(family):
    trees = _equal(tiny_model(family, dtype=torch.float64), dialogues(), 1e-5)
    rows = dialogues()
    assert sum(tree.tokens for tree in trees) < 0.6 * sum(len(row.input_ids) for row in rows)
    assert sum(tree.targets for tree in trees) == sum(int((row.labels >= 0).sum()) for row in rows)


def test_weighted_targets_keep_their_weights_in_float64():
    # transformers' norms round to fp32, here the sum of all branches' gradients once
    _equal(tiny_model("llama", dtype=torch.float64), dialogues(weighted=True), 1e-6)


@pytest.mark.parametrize("micro_tokens", [60, 90, 150])
def test_cut_into_micro_batches_they_stay_equal(micro_tokens):
    trees = _equal(tiny_model("qwen2", dtype=torch.float64), dialogues(), 1e-6, micro_tokens)
    assert len(trees) > 1
    longest = max(len(row.input_ids) for row in dialogues())
    assert all(tree.tokens <= max(micro_tokens, longest) for tree in trees)


@pytest.mark.parametrize("tuning", [Lora(method="lora", rank=2), PTuningV2(method="p_tuning_v2", length=3)])
def test_adapters_and_prefixes_have_equal_gradients(tuning):
    tuned = build(tuning).prepare(tiny_model(), Setting())
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    _equal(tuned.model, dialogues(), 1e-5)


# mutation tried: each piece a node of its own; a second answer behind one prompt laid as more of its first
def test_a_dialogue_that_never_forks_is_an_ordinary_document():
    draw = np.random.default_rng(2)
    text = draw.integers(3, 97, 120).tolist()
    chain = [_row(text[:end], start) for start, end in ((20, 40), (60, 80), (100, 120))]
    (tree,) = _equal(tiny_model(dtype=torch.float64), [*chain, chain[0]], 1e-6)
    assert tree.parents is None
    assert tree.segments.unique().tolist() == [0]
    assert tree.tokens == 119
    forked = _row([*text[:80], *draw.integers(3, 97, 20).tolist()], 80)
    (tree,) = _equal(tiny_model(dtype=torch.float64), [*chain, forked], 1e-6)
    assert tree.parents.tolist() == [-1, 0, 0]


# mutations tried: each row that shares costs copies; none does
def test_only_branches_cost_more_than_their_own_tokens_in_a_micro_batch():
    path = np.arange(1000)
    chain = [_row(path[:end], end - 20) for end in range(100, 1001, 100)]
    assert [tree.tokens for tree in shared_batches(chain, 1000)] == [999]
    branches = [_row(np.concatenate([path[:500], [2000 + n] * 100]), 550) for n in range(5)]
    assert sorted(tree.tokens for tree in shared_batches(branches, 1000)) == [599, 698, 698]


def test_where_little_is_saved_nothing_is_shared():
    draw = np.random.default_rng(1)
    rows = [_row(draw.integers(3, 97, 40).tolist(), 20) for _ in range(4)]
    assert shared_batches(rows, 1000) is None
    begin = draw.integers(3, 97, LEAST_SHARED - 1).tolist()
    assert shared_batches([_row([*begin, n, n, n], 15) for n in range(3, 9)], 1000) is None


def test_noise_that_rows_would_share_and_tokens_in_the_row_forbid_it():
    from tunesmith.recipe import Prompt

    def shares(tuning: Any, packing: bool = True) -> bool:
        tuned, none = build(tuning).prepare(tiny_model(), Setting()), cast(Any, None)
        return Stepper(tuned, none, none, none, packing, autocast=False, grad_clip=None).shares

    assert shares(Lora(method="lora", rank=2))
    assert not shares(Lora(method="lora", rank=2), packing=False)
    assert not shares(Lora(method="lora", rank=2, dropout=0.1))
    assert not shares(Prompt(method="prompt", length=2))


def test_a_row_twice_counts_twice():
    rows = [*dialogues()[:3]] * 2
    trees = _equal(tiny_model(dtype=torch.float64), rows, 1e-6)
    assert sum(tree.targets for tree in trees) == sum(int((row.labels >= 0).sum()) for row in rows)
