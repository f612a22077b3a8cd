"""The learning-rate range test: what it reads off a curve, and that it leaves nothing behind."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.folders import make_model
from tests.test_run import recipe
from tunesmith import run
from tunesmith.engine import faults
from tunesmith.errors import RecipeError
from tunesmith.events import Silent, Stepped
from tunesmith.folder import RunFolder
from tunesmith.search import rates
from tunesmith.search.rates import Point, find_rate, read_off


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def curve(lowest: float, noise: float = 0.0, depth: float = 1.0) -> list[Point]:
    """A dip whose lowest point is at that rate; each step draws rows of another difficulty."""
    rng = random.Random(0)
    points = []
    for step in range(61):
        lr = 1e-6 * 10 ** (step / 10)
        distance = math.log10(lr / lowest)
        gain = -depth * math.exp(-(distance**2)) + (2 * distance if distance > 1 else 0)
        hard = rng.uniform(1, 5)
        points.append(Point(step + 1, lr, hard + gain + rng.gauss(0, noise), hard))
    return points


# mutation tried: LEAST_BELOW = 1
@pytest.mark.parametrize("lowest", [1e-4, 1e-3, 3e-2])
def test_a_third_of_the_lowest_is_suggested(lowest: float) -> None:
    reading = read_off(curve(lowest))
    assert reading.suggestion == pytest.approx(lowest / 3, rel=0.3)
    assert reading.steepest_at is not None
    assert reading.steepest_at < lowest


# mutation tried: gain = loss_nats alone
def test_rows_of_unequal_difficulty_do_not_matter() -> None:
    quiet, drawn = read_off(curve(1e-3)), read_off(curve(1e-3, noise=0.02))
    assert drawn.suggestion == pytest.approx(quiet.suggestion, rel=0.6)


# mutation tried: np.std in place of the median
def test_a_loss_that_goes_up_and_away_at_the_end_hides_no_dip() -> None:
    points = [point for point in curve(3e-2) if point.lr <= 1.3e-1][::2]
    away = [replace(point, loss_nats=point.untouched_nats + 8.0) for point in points[-2:]]
    reading = read_off([*points[:-2], *away])
    assert reading.suggestion is not None
    assert reading.suggestion == pytest.approx(1e-2, rel=0.7)


def test_where_nothing_is_learnt_nothing_is_suggested() -> None:
    reading = read_off(curve(1e-3, noise=0.5, depth=0.0))
    assert reading.suggestion is None
    assert "--steps" in reading.reason


def test_a_curve_that_still_falls_says_so() -> None:
    assert "--to" in read_off(curve(10.0)).reason


def bits(folder: str) -> dict[str, torch.Tensor]:
    return load_file(RunFolder(Path(folder)).adapter / "adapter_model.safetensors")


def test_a_run_afterwards_has_the_same_bits_and_no_folder_was_made(model: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in model.iterdir()}
    plain = recipe(model, tmp_path, rows=12, output=str(tmp_path / "plain"))
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = find_rate(plain, steps=20)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert not Path(plain.output).exists()
    assert {path: path.read_bytes() for path in model.iterdir()} == before
    assert not Path("nowhere").exists()
    run.train(plain)
    find_rate(plain, steps=20)
    again = run.train(recipe(model, tmp_path, rows=12, output=str(tmp_path / "again")))
    first, second = bits(plain.output), bits(again.run)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert found["points"][0]["lr"] == pytest.approx(2e-6)


def test_the_first_steps_gain_nothing_and_the_rates_rise_in_equal_factors(
    model: Path, tmp_path: Path
) -> None:
    found = find_rate(recipe(model, tmp_path, rows=12), steps=20, low=1e-9, high=1e-1)
    lrs = [point["lr"] for point in found["points"]]
    assert lrs[0] == pytest.approx(1e-9)
    ratios = [later / earlier for earlier, later in pairwise(lrs)]
    assert ratios == pytest.approx([10 ** (8 / 19)] * len(ratios))
    assert abs(found["points"][0]["gain"]) < 1e-5  # nothing has been learnt yet: both losses are of one model


# mutation tried: WORSE_BY = 50
def test_stopped_on_request_it_suggests_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Half a course was read like a whole one, with exit code 0."""
    # mutation tried: the status not looked at; `saves` always
    faults.forget_visits()
    monkeypatch.setenv("TUNESMITH_FAULT", "step:3:term")
    with pytest.raises(KeyboardInterrupt):
        find_rate(recipe(model, tmp_path), steps=20)
    assert "saved" not in capfd.readouterr().err


def test_it_stops_when_the_loss_stands_far_above_where_it_began() -> None:
    course = rates._Course([1.0] * 10, Silent())
    for step in range(1, 4):
        stepped = Stepped(step=step, loss_nats=1.0 + 0.3 * step, grad_norm=1.0, lr=1.0, targets=1, tokens=1,
                          seconds=0.1, peak_bytes=1, finite=True)  # fmt: skip
        course.event(stepped)
        assert not course.enough(stepped)
    for step in range(4, 7):
        stepped = Stepped(step=step, loss_nats=9.0, grad_norm=1.0, lr=1.0, targets=1, tokens=1,
                          seconds=0.1, peak_bytes=1, finite=True)  # fmt: skip
        course.event(stepped)
    assert course.enough(stepped)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, "draw no curve"),
        ({"low": 1e-3, "high": 2e-3}, "no range"),
        ({"low": 1.0, "high": 0.1}, "no range"),
    ],
)
def test_a_test_that_cannot_be_is_refused_before_anything_loads(
    changes: dict[str, float], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        find_rate(recipe(tmp_path / "no-model", tmp_path), **changes)
