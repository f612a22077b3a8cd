"""The order of an epoch: a bijection, another each pass, a block at a time, and the same from wherever it is read."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.order import Order, shuffled

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=15)


@given(SIZES, st.integers(0, 5), st.integers(0, 3))
def test_each_pass_is_a_bijection_and_keeps_blocks_together(sizes: list[int], seed: int, turn: int) -> None:
    order, total = Order(np.array(sizes), (seed, 0)), sum(sizes)
    found = order.stretch(turn * total, (turn + 1) * total)
    assert sorted(found.tolist()) == list(range(total))
    block_of = np.repeat(np.arange(len(sizes)), sizes)[found]
    assert int((np.diff(block_of) != 0).sum()) == len(sizes) - 1


@given(SIZES, st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_a_stretch_is_the_same_however_it_is_read(
    sizes: list[int], start: int, first: int, second: int
) -> None:
    order = Order(np.array(sizes), (3, 1))
    whole = order.stretch(start, start + first + second)
    parts = [order.stretch(start, start + first), order.stretch(start + first, start + first + second)]
    assert whole.tolist() == np.concatenate(parts).tolist()
    assert whole.tolist() == Order(np.array(sizes), (3, 1)).stretch(start, start + first + second).tolist()


def test_passes_differ() -> None:
    order = Order(np.array([20, 30]), (0, 0))
    first, second = order.stretch(0, 50).tolist(), order.stretch(50, 100).tolist()
    assert first != second
    assert Order(np.array([20, 30]), (1, 0)).stretch(0, 50).tolist() != first


# mutation tried: the rows of a window shuffled one by one
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(0, 3)
)
def test_samples_of_a_dialogue_stay_together(dialogues: list[list[int]], seed: int) -> None:
    sizes = np.array([sum(block) for block in dialogues])
    of = np.concatenate(
        [np.repeat(np.arange(len(block)), block) + 100 * n for n, block in enumerate(dialogues)]
    )
    order = Order(sizes, (seed, 0), np.diff(of, prepend=-1) == 0)
    found = order.stretch(0, int(sizes.sum()))
    again, _ = shuffled(found, order.follows(found), np.random.default_rng(seed))
    for rows in (found, again):
        assert sorted(rows.tolist()) == list(range(len(of)))
        assert int((np.diff(of[rows]) != 0).sum()) == len(set(of.tolist())) - 1
        assert all(b == a + 1 for a, b in itertools.pairwise(rows.tolist()) if of[a] == of[b])
