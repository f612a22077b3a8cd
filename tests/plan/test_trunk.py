"""Whether frozen layers are computed once: by what repeats, how many there are, and the room on the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.plan.test_forecast import CARD, CPU, SEVEN, SHAPE, SMALL, SPEED, recipe
from tunesmith.errors import DiskFullError, RecipeError
from tunesmith.plan.choice import RunShape
from tunesmith.plan.forecast import Plan, make_plan
from tunesmith.plan.memory import BACK, forecast_memory

FREEZE = {"method": "freeze", "last_layers": 1}


def plan(
    epochs: float = 3, facts: Any = SEVEN, device: Any = CARD, room: int | None = None, once: int = 1_600_000,
    held_out: int = 16_000, **values: Any,
) -> Plan:  # fmt: skip
    shape = RunShape(
        steps=round(epochs * once / 16_000), tokens=round(once * epochs), targets=round(once * epochs / 2),
        step_tokens=16_000, longest=700, once=once, held_out=held_out,
    )  # fmt: skip
    values = {"tuning": FREEZE, "budget": {"epochs": epochs}, **values}
    return make_plan(recipe(**values), facts, shape, device, speed=SPEED, cache_room=room)


def without(**values: Any) -> Plan:
    return plan(compute={"trunk_cache": "off"}, **values)


# mutation tried: filling left out of the time
def test_several_epochs_on_top_of_frozen_layers_are_worth_it_and_the_plan_says_what_it_takes() -> None:
    found = plan()
    assert found.trunk.on
    assert found.trunk.layers == 31
    assert found.trunk.disk_bytes == 1_616_000 * 4096 * 2  # a bf16 stream of every row, held out ones too
    assert found.seconds is not None
    plain = without().seconds
    assert plain is not None
    assert found.trunk.saved_seconds == pytest.approx(plain - found.seconds)
    assert found.trunk.saved_share == pytest.approx(1 - found.seconds / plain)
    assert found.trunk.saved_share is not None
    assert 0.4 < found.trunk.saved_share < 2 / 3  # of three passes through 31 layers one is left
    assert found.to_json()["trunk"]["on"] is True


def test_one_epoch_is_not_and_few_frozen_layers_are_not() -> None:
    assert not plan(epochs=1, held_out=0).trunk.on
    assert "worth" in plan(epochs=1, held_out=0).trunk.reason
    often = plan(epochs=1, held_out=1_600_000).trunk  # what is measured ten times is read ten times
    assert often.on
    few = plan(epochs=20, tuning={"method": "freeze", "last_layers": 24})
    assert not few.trunk.on
    assert "only 8 of 32 layers" in few.trunk.reason


def test_a_short_run_stays_as_it_is() -> None:
    short = plan(facts=SMALL, device=CPU, once=40_000)
    assert not short.trunk.on
    assert "less than it is worth" in short.trunk.reason


def test_a_full_disk_and_what_cannot_be_are_refused_only_where_it_is_asked_for() -> None:
    assert "GiB are free" in plan(room=1 << 32).trunk.reason
    with pytest.raises(DiskFullError):
        plan(room=1 << 32, compute={"trunk_cache": "on"})
    lora = {"method": "lora"}
    assert plan(tuning=lora).trunk.reason == "the first layer trains"
    with pytest.raises(RecipeError, match="the first layer trains"):
        plan(tuning=lora, compute={"trunk_cache": "on"})
    assert plan(epochs=1, compute={"trunk_cache": "on"}).trunk.on


def test_rows_of_a_stream_are_read_once() -> None:
    shape = replace(SHAPE, once=None)
    found = make_plan(recipe(tuning=FREEZE), SEVEN, shape, CARD, speed=SPEED)
    assert found.trunk.reason == "each row of a stream is read once"
    with pytest.raises(RecipeError, match="stream"):
        make_plan(recipe(tuning=FREEZE, compute={"trunk_cache": "on"}), SEVEN, shape, CARD, speed=SPEED)


def test_weights_of_the_trunk_are_not_held_while_it_trains_and_there_are_no_states_while_they_are() -> None:
    kept, plain = plan().memory, without().memory
    layer = SEVEN.linear_parameters + 2 * SEVEN.hidden_size
    away = 2 * (31 * layer + SEVEN.embedding_parameters)
    for phase in ("loss", "backward of a layer", "update", "evaluation between steps"):
        whole = plain.phases.get(phase, plain.phases["evaluation"])
        assert whole["weights"] - kept.phases[phase]["weights"] == away, phase
    assert kept.phases["evaluation"]["weights"] == plain.phases["evaluation"]["weights"]
    assert kept.phases["evaluation"]["optimiser states"] == 0
    assert kept.phases[BACK]["weights"] == plain.phases["loss"]["weights"]
    on_cpu = plan(device=CPU, compute={"precision": "fp32"}).load
    held, back = forecast_memory(replace(on_cpu, let_go=False)), forecast_memory(replace(on_cpu, let_go=True))
    assert back.phases[BACK]["weights"] == 3 * held.phases["loss"]["weights"] - 2 * away
    assert set(held.phases) == set(plain.phases)
    assert on_cpu.let_go == (back.peak_bytes <= held.peak_bytes)
    assert kept.peak_bytes < plain.peak_bytes
    assert set(plain.phases) == set(kept.phases) - {BACK, "evaluation between steps"}


def test_the_load_of_a_trunk_is_the_plain_one_but_for_it() -> None:
    assert plan().load.let_go
    assert replace(plan().load, trunk=0, let_go=False) == without().load
