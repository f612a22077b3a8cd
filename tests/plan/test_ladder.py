"""The ladder: rungs that need less, in order of what they cost, and the nearest recipe that fits does fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.test_forecast import CARD, CPU, SEVEN, SHAPE, SPEED, plan, recipe
from tunesmith.plan.choice import Setting
from tunesmith.plan.forecast import make_plan
from tunesmith.plan.ladder import climb_down, nearest, with_change

GIB = 2**30


def setting(gib: float, **values: object) -> Setting:
    return Setting(recipe(**values), SEVEN, SHAPE, replace(CARD, memory_bytes=round(gib * GIB)))


def names(found: Setting) -> list[str]:
    return [rung.name for rung in climb_down(found)]


def test_the_rungs_stand_in_order_of_what_they_cost() -> None:
    assert names(setting(24, tuning="full"))[:9] == [
        "as asked", "smaller micro-batches", "recomputed activations", "bf16 optimiser", "8-bit optimiser",
        "paged 8-bit optimiser", "LoRA", "QLoRA", "QLoRA, paged 8-bit optimiser",
    ]  # fmt: skip
    assert "LoRA" not in names(setting(24))
    assert "paged 8-bit optimiser" not in names(replace(setting(24), device=CPU))


@pytest.mark.parametrize("gib", [8, 16, 24, 80])
@pytest.mark.parametrize("method", ["full", "lora", "adapter", {"method": "freeze", "last_layers": 16}])
def test_the_nearest_recipe_fits_as_a_plan_of_its_own(gib: float, method: object) -> None:
    asked = setting(gib, tuning=method, compute={"checkpointing": "off", "micro_tokens": 16_384})
    rung = nearest(climb_down(asked))
    assert rung is not None
    changed = with_change(asked, rung.change)
    assert changed is not None
    found = make_plan(changed.recipe, SEVEN, changed.shape, asked.device, speed=SPEED)
    assert found.fits
    assert found.peak_bytes <= asked.device.memory_bytes


def test_embedding_and_head_in_few_bits_are_rungs_where_they_do_not_train() -> None:
    # mutation tried: the rungs left out
    few = ["embedding and head in 8 bits", "embedding and head in 4 bits"]
    found = {rung.name: rung for rung in climb_down(setting(24, optim={"optimizer": "paged_adamw_8bit"}))}
    assert [name for name in found if name in few] == few
    eight, four = (found[name] for name in few)
    assert four.least_bytes < eight.least_bytes < found["QLoRA"].least_bytes
    assert found["QLoRA"].slowdown < eight.slowdown
    assert eight.change == {"tuning.base": "nf4", "tuning.tables": 8}
    assert not set(few) & set(names(setting(24, tuning={"method": "lora", "also_train": ["embed_tokens"]})))


def test_what_fits_as_asked_is_its_own_nearest() -> None:
    rung = nearest(climb_down(setting(140)))
    assert rung is not None
    assert (rung.name, dict(rung.change), rung.slowdown) == ("as asked", {}, pytest.approx(1.0))


# mutation tried: what a whole run has beside its steps added to the plan alone, not to its rungs
def test_the_first_rung_needs_what_the_plan_says() -> None:
    found = plan(
        SEVEN, device=replace(CPU, bf16=True), tuning={"method": "full"}, compute={"precision": "bf16"}
    )
    first = found.largest["ladder"][0]
    assert (first["name"], found.fits) == ("as asked", False)
    assert first["peak_bytes"] == found.memory.peak_bytes


def test_where_nothing_fits_there_is_no_nearest() -> None:
    assert nearest(climb_down(setting(1))) is None
    found = plan(SEVEN, device=replace(CARD, memory_bytes=GIB))
    assert found.to_json()["nearest"] is None
    assert "smaller model" in found.way_out


def test_recomputing_costs_time_and_says_how_much() -> None:
    rungs = {rung.name: rung for rung in climb_down(setting(20, compute={"micro_tokens": 16_384}))}
    assert rungs["as asked"].checkpointing != "off"
    assert 1.1 < rungs["as asked"].slowdown < 1.6


def test_the_refusal_names_the_change() -> None:
    found = plan(SEVEN, device=replace(CARD, memory_bytes=24 * GIB), tuning="full")
    assert not found.fits
    assert "NVIDIA H200 has 24.0" in found.shortage
    assert found.way_out.startswith("add tuning.method=lora (LoRA")
