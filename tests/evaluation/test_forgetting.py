"""Verdicts are paired, and say so when they cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evaluation.forgetting import compare, compare_heldout, compare_task, student_t95
from tunesmith.evaluation.metrics import text_overlap
from tunesmith.evaluation.scores import Evaluated, HeldOut, Measured


def measured(metric, numbers, group="general"):
    addresses = tuple(f"a.jsonl:{at + 1}" for at in range(len(numbers)))
    return Measured(metric, group, "", addresses, tuple(tuple(map(float, row)) for row in numbers))


def shares(values):
    return measured("exact_match", [(value, 1) for value in values])


def losses(values, weight=10):
    return measured("loss", [(value * weight, weight) for value in values])


# mutation tried: pairing after.numbers in file order instead of by address
def test_items_are_paired_by_address():
    before = shares([0, 1, 0, 1] * 10)
    order = np.random.default_rng(0).permutation(40)
    after = Measured(
        "exact_match",
        "general",
        "",
        tuple(before.addresses[i] for i in order),
        tuple(before.numbers[i] for i in order),
    )
    row = compare_task(before, after)
    assert row["change"] == 0
    assert row["ci95"][1] - row["ci95"][0] < 0.15


# mutation tried: lower-is-better forgotten in _verdict
@pytest.mark.parametrize(("change", "verdict"), [(-0.5, "gain"), (0.5, "loss"), (0.0001, "within_margin")])
def test_a_lower_loss_is_a_gain(change, verdict):
    before = np.random.default_rng(1).normal(3, 1, 100)
    noise = np.random.default_rng(2).normal(0, 0.01, 100)
    row = compare_task(losses(before), losses(before + change + noise))
    assert row["verdict"] == verdict
    assert row["change"] == pytest.approx(change, abs=0.01)
    assert row["ci95"][0] < change < row["ci95"][1]


def test_a_clear_gain_is_seen_in_few_items():
    row = compare_task(shares([0] * 8), shares([1] * 8))
    assert (row["verdict"], row["change"]) == ("gain", 1.0)
    assert row["ci95"][1] == 1.0


def test_two_items_tell_nothing():
    assert compare_task(shares([0, 0]), shares([1, 1]))["verdict"] == "cannot_tell"
    assert compare_task(losses([3.0]), losses([1.0])) | {"n": 1} == compare_task(losses([3.0]), losses([1.0]))
    assert compare_task(losses([3.0]), losses([1.0]))["verdict"] == "cannot_tell"
    assert compare_task(losses([3.0]), losses([1.0]))["ci95"] == []


def test_no_change_in_few_items_is_no_proof_of_no_change():
    row = compare_task(shares([1, 0] * 20), shares([1, 0] * 20))
    assert row["verdict"] == "cannot_tell"
    assert row["n_needed"] > 100
    assert compare_task(shares([1, 0] * 200), shares([1, 0] * 200))["verdict"] == "within_margin"


# mutation tried: unpaired standard errors (the interval becomes four times as wide)
def test_pairing_sees_what_two_error_bars_would_hide():
    before = np.random.default_rng(3).normal(3, 1, 50)
    row = compare_task(losses(before), losses(before + 0.2))
    assert row["verdict"] == "loss"
    assert row["ci95"][1] - row["ci95"][0] < 0.01


def test_bleu_is_compared_on_the_same_resamples():
    references = [f"the number {n} stands on line {n * 7} of the page" for n in range(40)]
    worse = [text if n % 2 else "the number is gone from the page" for n, text in enumerate(references)]
    good = measured("bleu", text_overlap("bleu", references, references)[0])
    bad = measured("bleu", text_overlap("bleu", worse, references)[0])
    row = compare_task(good, bad)
    assert row["verdict"] == "loss"
    assert row["ci95"][0] < row["change"] < row["ci95"][1] < 0
    assert compare_task(good, good)["verdict"] == "within_margin"


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        before = draw.random(60) < 0.4
        after = np.where(draw.random(60) < 0.3, draw.random(60) < 0.6, before)
        low, high = compare_task(shares(before), shares(after))["ci95"]
        hits += low <= 0.3 * (0.6 - 0.4) <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_only_tasks_measured_both_times_are_compared():
    both, one = shares([1, 0, 1]), shares([0, 0, 1])
    table = compare(Evaluated(items={"a": both, "b": both}), Evaluated(items={"b": one, "c": one}))
    assert list(table) == ["b"]
    assert set(table["b"]) >= {"before", "after", "change", "ci95", "verdict", "n", "margin"}
    assert compare(Evaluated(items={"a": both}), Evaluated(items={"a": one}), ["x"]) == {}


def test_the_held_out_loss_is_compared_alike():
    before = HeldOut(("a:1", "a:2", "a:3"), (30.0, 20.0, 40.0), (10, 10, 10), 90)
    after = HeldOut(("a:1", "a:2", "a:3"), (15.0, 9.0, 22.0), (10, 10, 10), 90)
    assert compare_heldout(before, after)["verdict"] == "gain"
    assert compare_heldout(before, None) is None


@pytest.mark.parametrize(
    ("freedom", "point"), [(1, 12.706), (5, 2.571), (11, 2.201), (30, 2.042), (10**6, 1.960)]
)
def test_student_t(freedom, point):
    assert student_t95(freedom) == pytest.approx(point, abs=0.003)
