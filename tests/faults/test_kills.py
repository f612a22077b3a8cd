"""kill -9 at random moments of a whole run (rows 1 to 4): four and a hundred, in all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import VARIANTS, make, try_all, try_each, undisturbed


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    met, wrong = try_all(100, 0, tmp_path)
    assert wrong == []
    assert sum(met.values()) == 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_kills_of_other_methods_objectives_streams_and_stages_lose_nothing(
    variant: str, tmp_path: Path
) -> None:
    kills = 50 if variant == "streaming" else 20
    met, wrong = try_all(kills, 11, tmp_path, variant=variant)
    assert wrong == []
    assert sum(met.values()) == kills


# Between stages; in a stage before its first checkpoint; while it is handed over; in the next one
# before its first checkpoint; at its end; in the report of all. Each counts visits anew.
EVERYWHERE = (
    "stage:1", "tuned:1", "step:2", "trained:1", "stage:1", "hand_over:1",
    "before:1", "tuned:1", "step:2", "report:1", "stage:2", "whole:1",
)  # fmt: skip


@pytest.mark.parametrize(
    "points",
    [("stage:1", "tuned:1", "whole:1"), pytest.param(EVERYWHERE, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_a_run_in_stages_that_is_killed_in_each_of_its_parts_ends_the_same(
    points: tuple[str, ...], tmp_path: Path
) -> None:
    whole = make(tmp_path / "whole", "stages")
    plans = [f"{point}:kill" for point in points]
    assert try_each([plans], whole, undisturbed(whole), tmp_path) == []


@pytest.mark.slow
def test_four_kills_of_another_seed_lose_nothing(tmp_path: Path) -> None:
    _, wrong = try_all(4, 7, tmp_path)
    assert wrong == []
