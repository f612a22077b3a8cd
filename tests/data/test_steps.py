"""The order of rows: a pure function of lengths, weights, budget and seed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import random_samples
from tunesmith.data.samples import SampleSet
from tunesmith.data.steps import plan_steps
from tunesmith.recipe import BatchGrowth, Epochs, Mix, Steps, Tokens


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


# mutation tried: LEAST_FILLED at 2 (dialogues parted wherever); at 0.01 (a step of one row before a long dialogue)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.integers(20, 200),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_border_parts_a_dialogue_only_where_less_than_half_a_step_would_be_left(talks, most, seed, grows):
    owner = np.repeat(np.arange(len(talks)), talks)
    source = random_samples(len(owner), seed)
    source.joined = np.diff(owner, prepend=-1) == 0
    growth = BatchGrowth(start_tokens=20, over=0.5) if grows else None
    plan = plan_steps((source,), (None,), Epochs(epochs=1), most, seed, growth=growth)
    assert sorted(plan.rows.tolist()) == list(range(len(owner)))
    lengths = source.lengths
    for step in range(len(plan) - 1):
        rows, after = plan.rows_of(step), plan.rows_of(step + 1)
        cut_before = plan.step_tokens[step]
        assert cut_before <= most or len(rows) == 1
        if owner[rows[-1]] == owner[after[0]]:  # parted
            mine = owner[rows] == owner[after[0]]
            left = lengths[rows[~mine]].sum()
            assert left < 0.5 * cut_before
        elif not grows and cut_before + lengths[after[0]] <= most:  # closed early, for the sake of a dialogue
            talk = lengths[owner == owner[after[0]]].cumsum()
            room = cut_before + talk
            assert room[-1] > most
            assert cut_before >= 0.5 * room[room <= most][-1]


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


def in_blocks(count, blocks, seed=0):
    """The same samples, said to lie in several blocks, as shards have them."""
    held = random_samples(count, seed)
    sizes = [len(part) for part in np.array_split(np.arange(count), blocks)]
    firsts = np.concatenate([np.arange(size) for size in sizes])
    return SampleSet([None] * blocks, sizes, firsts.astype(np.uint32), held._lengths, held._targets)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 50), st.floats(0.5, 3))
def test_an_epoch_of_many_blocks_takes_every_row_once(count, blocks, batch_tokens, epochs):
    sources = (in_blocks(count, min(blocks, count)), in_blocks(50, 3, seed=1))
    plan = plan_steps(sources, (None, None), Epochs(epochs=epochs), batch_tokens, 0)
    total = count + 50
    rows = plan.rows
    for start in range(0, len(rows) - total + 1, total):
        assert sorted(rows[start : start + total].tolist()) == list(range(total))
    assert plan.step_tokens.sum() <= epochs * plan.epoch_tokens or plan.row_count == 1
    assert [len(plan.rows_of(step)) for step in range(len(plan))] == np.diff(plan.cuts).tolist()
    flat = np.concatenate([plan.rows_of(step) for step in range(len(plan))])
    assert flat.tolist() == rows.tolist()


def test_rows_of_one_block_cannot_fill_a_batch():
    source = in_blocks(4000, 40)
    plan = plan_steps((source,), (None,), Epochs(epochs=1), 1500, 0)
    for step in range(len(plan) - 1):
        blocks = np.bincount(plan.rows_of(step) // 100, minlength=40)
        assert (blocks > 0).sum() >= 8
        assert blocks.max() <= 0.35 * blocks.sum()


def test_a_step_is_looked_up_alike_from_anywhere_and_by_any_number_of_ranks():
    sources = (in_blocks(600, 20), in_blocks(100, 2, seed=4))
    plan, again = (plan_steps(sources, (1.0, 2.0), Epochs(epochs=3), 200, 5) for _ in range(2))
    backwards = [again.rows_of(step).tolist() for step in reversed(range(len(again)))]
    assert [plan.rows_of(step).tolist() for step in range(len(plan))] == backwards[::-1]
    for ranks in (2, 3):
        shares = [[plan.rows_of(step)[rank::ranks] for step in range(len(plan))] for rank in range(ranks)]
        seen = sorted(int(row) for share in shares for rows in share for row in rows)
        assert seen == sorted(plan.rows.tolist())


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 5), st.integers(1, 6), st.integers(20, 200))
def test_shares_of_tokens_come_out_as_asked(weight, epochs, batch_tokens):
    sources = (in_blocks(300, 12), in_blocks(200, 5, seed=1), in_blocks(9, 1, seed=2))
    plan = plan_steps(sources, (1.0, weight, None), Epochs(epochs=epochs), batch_tokens, 0)
    asked = np.array([1.0, weight, 1.0]) / (2 + weight)
    assert plan.requested == pytest.approx(asked)
    assert plan.realised == pytest.approx(asked, abs=60 / plan.step_tokens.sum())
    assert sum(plan.realised) == pytest.approx(1)


# mutation tried: windows that end at whole ones only (0.70 of 0.75 after a fifth of an epoch)
@given(st.floats(0.05, 0.95), st.integers(400, 4000), st.integers(0, 5))
def test_shares_are_met_where_a_run_ends_within_an_epoch(share, tokens, seed):
    sources = (random_samples(300, seed), random_samples(200, seed + 1))
    plan = plan_steps(sources, (share, 1 - share), Tokens(tokens=tokens), 100, seed)
    longest = max(int(source.lengths.max()) for source in sources)
    assert plan.realised[0] == pytest.approx(share, abs=(100 + 2 * longest) / int(plan.step_tokens.sum()))


def test_the_general_group_gets_its_ratio_of_tokens():
    sources = tuple(in_blocks(n, 3, seed=n) for n in (100, 50, 400, 300))
    groups = ("domain", "domain", "general", "general")
    plan = plan_steps(sources, (None,) * 4, Epochs(epochs=2), 300, 0, mix=Mix(general_ratio=5), groups=groups)
    assert sum(plan.realised[2:]) / sum(plan.realised[:2]) == pytest.approx(5, rel=0.02)
    sizes = [source.token_count for source in sources]
    assert plan.realised[0] / plan.realised[1] == pytest.approx(sizes[0] / sizes[1], rel=0.05)


def test_temperature_draws_shares_towards_each_other():
    sources = (in_blocks(900, 9), in_blocks(100, 1, seed=1))
    sizes = np.array([source.token_count for source in sources])
    for temperature in (1, 2, 1e9):
        mix = Mix(temperature=temperature)
        plan = plan_steps(sources, (None, None), Epochs(epochs=2), 300, 0, mix=mix)
        asked = sizes ** (1 / temperature) / (sizes ** (1 / temperature)).sum()
        assert plan.realised == pytest.approx(asked, abs=0.01)


def test_no_source_is_repeated_more_than_it_may_be():
    sources = (in_blocks(400, 9), in_blocks(40, 1, seed=1))
    asked = {"budget": Epochs(epochs=4), "batch_tokens": 300, "seed": 0}
    free = plan_steps(sources, (1.0, 1.0), **asked)
    capped = plan_steps(sources, (1.0, 1.0), mix=Mix(max_repeats=2), **asked)
    assert free.passes[1] > 10
    assert capped.passes[1] == pytest.approx(2)
    assert np.bincount(capped.rows)[400:].max() == 2
    # each may be read twice: there are not the tokens of four epochs
    assert capped.passes == pytest.approx((2, 2))
    roomy = plan_steps(sources, (1.0, 1.0), Epochs(epochs=1), 300, 0, mix=Mix(max_repeats=2))
    assert roomy.passes[1] == pytest.approx(2, abs=0.1)
    assert roomy.step_tokens.sum() == pytest.approx(roomy.epoch_tokens, rel=0.02)
    early, late = capped.rows[: capped.row_count // 2], capped.rows[capped.row_count // 2 :]
    assert (
        0.5 < (early >= 400).sum() / max(1, (late >= 400).sum()) < 2
    )  # all along the run, not at its beginning


def test_growing_steps_are_cut_alike_in_windows():
    """Against the plain loop over all rows, one by one."""
    sources = (in_blocks(500, 30), in_blocks(60, 2, seed=1))
    growth = BatchGrowth(start_tokens=40, over=0.6)
    for budget in (Epochs(epochs=1.5), Steps(steps=25), Tokens(tokens=3000)):
        plan = plan_steps(sources, (None, 2.0), budget, 250, 0, growth)
        lengths = np.concatenate([source.lengths for source in sources])[plan.rows]
        most = budget.steps if isinstance(budget, Steps) else None
        total = most or {Epochs: 1.5 * plan.epoch_tokens, Tokens: 3000}[type(budget)]
        cuts, open_tokens, consumed = [0], 0, 0
        for row, length in enumerate(lengths):
            done = (len(cuts) - 1) / total if most else consumed / total
            limit = 40 + (250 - 40) * min(1.0, done / 0.6)
            if open_tokens and open_tokens + length > limit:
                cuts.append(row)
                open_tokens = 0
            open_tokens += length
            consumed += length
        assert plan.cuts.tolist() == [*cuts, len(lengths)]
    assert list(itertools.pairwise(plan.cuts))
