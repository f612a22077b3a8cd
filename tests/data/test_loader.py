"""The order of rows: a pure function of lengths, weights, budget and seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import random_samples
from tunesmith.data.loader import plan_steps
from tunesmith.recipe import BatchGrowth, Epochs, Steps, Tokens


def total(sources):
    return sum(int(source.lengths.sum()) for source in sources)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 200), st.integers(0, 4))
def test_an_epoch_takes_every_row_of_unweighted_sources_once(first, second, batch_tokens, seed):
    # mutation tried: owed > 0.5 to owed > 50; the permutation of an epoch left out
    sources = (random_samples(first, seed), random_samples(second, seed + 1))
    plan = plan_steps(sources, (None, None), Epochs(epochs=1), batch_tokens, seed)
    assert sorted(plan.rows.tolist()) == list(range(first + second))
    assert plan.step_tokens.sum() == total(sources) == plan.epoch_tokens
    assert plan.passes == (1.0, 1.0)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 4))
def test_a_step_holds_as_many_rows_as_fit_and_at_least_one(count, batch_tokens, seed):
    sources = (random_samples(count, seed),)
    plan = plan_steps(sources, (None,), Epochs(epochs=2), batch_tokens, seed)
    lengths = sources[0].lengths
    for step in range(len(plan)):
        rows = plan.rows[plan.cuts[step] : plan.cuts[step + 1]]
        assert len(rows) >= 1
        assert plan.step_tokens[step] == lengths[rows].sum()
        assert plan.step_targets[step] == sources[0].targets[rows].sum()
        assert plan.step_tokens[step] <= batch_tokens or len(rows) == 1
        if step + 1 < len(plan):
            assert plan.step_tokens[step] + lengths[plan.rows[plan.cuts[step + 1]]] > batch_tokens


def test_weights_are_shares_of_tokens_and_repeats_are_told():
    sources = (random_samples(100, 1), random_samples(20, 2))
    plan = plan_steps(sources, (1.0, 3.0), Epochs(epochs=4), 500, seed=0)
    first = sum(int(sources[0].lengths[row]) for row in plan.rows if row < 100)
    second = sum(int(sources[1].lengths[row - 100]) for row in plan.rows if row >= 100)
    assert second / first == pytest.approx(3, rel=0.02)
    assert plan.passes[1] == pytest.approx(second / sources[1].lengths.sum())


def test_the_order_differs_by_epoch_and_by_seed_only():
    sources = (random_samples(50, 1),)
    plan = plan_steps(sources, (None,), Epochs(epochs=2), 10**9, seed=0)
    first, second = plan.rows[:50].tolist(), plan.rows[50:].tolist()
    assert sorted(first) == sorted(second)
    assert first != second
    assert plan_steps(sources, (None,), Epochs(epochs=2), 10**9, seed=0).rows.tolist() == plan.rows.tolist()
    assert plan_steps(sources, (None,), Epochs(epochs=2), 10**9, seed=1).rows.tolist() != plan.rows.tolist()


def test_a_budget_of_steps_is_met_exactly_and_goes_on_over_epochs():
    sources = (random_samples(5, 1),)
    plan = plan_steps(sources, (None,), Steps(steps=30), 40, seed=0)
    assert len(plan) == 30
    assert plan.passes[0] > 2


def test_a_budget_of_tokens_is_not_exceeded():
    plan = plan_steps((random_samples(50, 1),), (None,), Tokens(tokens=300), 64, seed=0)
    assert 250 < plan.step_tokens.sum() <= 300


def test_steps_grow_over_the_first_part_of_the_run():
    sources = (random_samples(200, 1),)
    growth = BatchGrowth(start_tokens=30, over=0.5)
    plan = plan_steps(sources, (None,), Epochs(epochs=2), 300, seed=0, growth=growth)
    assert plan.step_tokens[:3].max() <= 60
    assert np.median(plan.step_tokens[len(plan) // 2 :]) > 250


def test_samples_of_a_step_come_from_the_right_source():
    sources = (random_samples(5, 1), random_samples(5, 2))
    plan = plan_steps(sources, (None, None), Epochs(epochs=1), 10**9, seed=0)
    for row, sample in zip(plan.rows, plan.samples(sources, 0)):
        expected = sources[0][int(row)] if row < 5 else sources[1][int(row) - 5]
        assert sample.input_ids.tolist() == expected.input_ids.tolist()
