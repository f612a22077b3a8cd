"""Inputs kept in the main memory: what leaves the card, what appears on the host, its cost, where it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.test_forecast import CPU, SEVEN
from tests.plan.test_ladder import GIB, setting
from tests.tiny import random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.errors import RecipeError
from tunesmith.model.facts import facts_from_config
from tunesmith.model.load import checkpoint_layers
from tunesmith.model.offload import Offload
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.plan.duration import BUS, Work, card_speed
from tunesmith.plan.ladder import climb_down, nearest
from tunesmith.plan.memory import Load, forecast_memory
from tunesmith.recipe import Lora
from tunesmith.suited import require_suited_model, require_suited_parts

LAYERS = 6


def load_of(checkpointing, offload, device="cuda"):
    lm = tiny_model(num_hidden_layers=LAYERS)
    return Load(
        facts_from_config(lm.config.to_dict()), Lora(method="lora", rank=3), device, bf16=False, frozen_bytes=4,
        checkpointing=checkpointing, tokens=64, targets=64, accumulates=False, offload=offload,
    )  # fmt: skip


def saved(load, phase):
    return forecast_memory(load).phases[phase]["saved activations"]


@pytest.mark.parametrize("checkpointing", ["full", 4])
def test_all_but_two_inputs_leave_the_card_as_they_do_in_a_step(checkpointing, monkeypatch):
    # mutation tried: three on their way
    count = LAYERS if checkpointing == "full" else checkpointing
    kept, moved = (load_of(checkpointing, offload) for offload in (False, True))
    one = 64 * 32 * 4
    assert saved(kept, "loss") - saved(moved, "loss") == (count - 2) * one
    assert forecast_memory(moved).host_bytes == count * one
    assert forecast_memory(kept).host_bytes == 0

    away, put = [], Offload.put_away
    monkeypatch.setattr(Offload, "put_away", lambda self, x: away.append(put(self, x)) or away[-1])
    lm = tiny_model(num_hidden_layers=LAYERS)
    checkpoint_layers(lm, range(count), offload=True)
    lm.train()
    batch = collate(list(random_samples(6)), packing=True)
    summed_loss(lm, batch)
    tokens = batch.input_ids.numel()
    here = sum(one.here.nbytes for one in away if one.here is not None)
    assert (here * 64, sum(one.host.nbytes for one in away) * 64) == (2 * one * tokens, count * one * tokens)


def test_pinned_blocks_are_powers_of_two():
    odd = replace(load_of("full", True), tokens=65)
    assert forecast_memory(odd).host_bytes == LAYERS * 2 * 64 * 32 * 4


def test_time_is_lost_only_where_the_bus_is_slower_than_the_layers():
    speed = card_speed("NVIDIA H200")
    busy = Work(flops=speed.flops)  # a second
    assert replace(busy, away=0.2 * BUS).seconds(speed) == pytest.approx(1.0)
    assert replace(busy, away=0.5 * BUS).seconds(speed) == pytest.approx(1.25)
    assert replace(busy, away=1.0 * BUS).seconds(speed) == pytest.approx(2.0)


def test_the_ladder_offers_it_on_a_card_and_takes_it_where_nothing_before_it_fits():
    long = setting(
        9.2, tuning={"method": "qlora"}, data={"train": "d.jsonl", "max_length": 16_384},
        compute={"micro_tokens": 16_384}, optim={"batch_tokens": 16_384},
    )  # fmt: skip
    long = replace(long, shape=replace(long.shape, longest=16_384, step_tokens=16_384))
    rungs = {rung.name: rung for rung in climb_down(long)}
    assert rungs["offloaded checkpoints"].peak_bytes < rungs["as asked"].peak_bytes - GIB
    near = nearest(list(rungs.values()))
    assert near is not None
    assert near.change == {
        "compute.offload": "checkpoints", "compute.micro_tokens": "auto",
    }  # fmt: skip
    assert not any("offload" in rung.name for rung in climb_down(replace(long, device=CPU)))


def test_it_is_refused_where_there_is_nowhere_to_move_to():
    asked = setting(24, compute={"offload": "checkpoints"})
    require_suited_model(asked.recipe, SEVEN, asked.device)
    with pytest.raises(RecipeError, match="main memory already"):
        require_suited_model(asked.recipe, SEVEN, CPU)
    with pytest.raises(RecipeError, match="no layer is recomputed"):
        require_suited_parts(setting(24, compute={"offload": "checkpoints", "checkpointing": "off"}).recipe)
