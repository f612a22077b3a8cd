"""Shards: what is held of one that is open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.shards import _Firsts


# mutation tried: owner() with side="left"; a constant column that is summed up
@given(st.lists(st.integers(1, 4), min_size=1, max_size=20))
def test_parts_are_found_by_the_counts_of_their_owners(counts: list[int]) -> None:
    firsts = _Firsts(np.array(counts, np.uint8))
    owners = [number for number, count in enumerate(counts) for _ in range(count)]
    assert [firsts.owner(part) for part in range(len(owners))] == owners
    assert [firsts[number] for number in range(len(counts) + 1)] == [0, *np.cumsum(counts).tolist()]


@pytest.mark.parametrize("every", [1, 3])
def test_nothing_is_held_where_all_have_as_many(every: int) -> None:
    constant, plain = _Firsts(np.broadcast_to(np.array([every]), (7,))), _Firsts(np.full(7, every))
    assert constant._ends is None
    assert [constant[n] for n in range(8)] == [plain[n] for n in range(8)]
    assert [constant.owner(n) for n in range(7 * every)] == [plain.owner(n) for n in range(7 * every)]
