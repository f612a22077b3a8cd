"""kill -9 at random moments of a whole run (rows 1 to 4): four and a hundred, in all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import VARIANTS, try_all


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    met, wrong = try_all(100, 0, tmp_path)
    assert wrong == []
    assert sum(met.values()) == 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_fifty_kills_within_a_stream_lose_nothing(tmp_path: Path) -> None:
    met, wrong = try_all(50, 3, tmp_path, streaming=True)
    assert wrong == []
    assert sum(met.values()) == 50


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_kills_of_other_methods_objectives_and_stages_lose_nothing(
    variant: str, tmp_path: Path
) -> None:
    met, wrong = try_all(20, 11, tmp_path, variant=variant)
    assert wrong == []
    assert sum(met.values()) == 20


@pytest.mark.slow
def test_four_kills_of_another_seed_lose_nothing(tmp_path: Path) -> None:
    _, wrong = try_all(4, 7, tmp_path)
    assert wrong == []
