"""Time: arithmetic over a measured rate; what is frozen, recomputed or on another device shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.model.facts import facts_from_config
from tunesmith.plan import duration
from tunesmith.plan.activations import Numbers, what_trains
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed, Stretch, Work, find_speed, forward_work, train_work
from tunesmith.plan.memory import Load
from tunesmith.recipe import Freeze, Full, Lora, Tuning

FACTS = facts_from_config(
    {"model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
     "num_attention_heads": 4, "vocab_size": 4000}
)  # fmt: skip
SIZE = Numbers(4, 4)
STRETCH = Stretch(tokens=4096, targets=2048, length=200, micro_batches=2)


def work(tuning: Tuning, stretch: Stretch = STRETCH, checkpointing: str = "off") -> Work:
    load = Load(FACTS, tuning, "cpu", False, 4, checkpointing, 2048, 1024, True)  # type: ignore[arg-type]
    return train_work(load, what_trains(tuning, FACTS), SIZE, stretch)


# mutation tried: backward as dear as forward; the head computed for every token
def test_full_tuning_costs_six_flops_a_parameter_and_token() -> None:
    linear = FACTS.layers * FACTS.linear_parameters
    head = FACTS.embedding_parameters / 2  # half the tokens are learnt
    short = Stretch(4096, 2048, length=0, micro_batches=1)
    assert work(Full(method="full"), short).flops == pytest.approx(4096 * 6 * (linear + head))


def test_lora_saves_the_gradients_of_the_weights() -> None:
    lora, full = work(Lora(method="lora", rank=1)).flops, work(Full(method="full")).flops
    assert 0.6 * full < lora < 0.75 * full


def test_frozen_layers_cost_their_forward_alone() -> None:
    two = work(Freeze(method="freeze", last_layers=2))
    assert forward_work(FACTS, SIZE, STRETCH).flops < two.flops < 0.65 * work(Full(method="full")).flops


def test_checkpointing_computes_the_forward_again() -> None:
    once, again = (work(Full(method="full"), checkpointing=level) for level in ("off", "full"))
    layers = STRETCH.tokens * FACTS.layers * (2 * FACTS.linear_parameters + 2 * FACTS.attention_size * 200)
    assert again.flops - once.flops == pytest.approx(layers)
    assert again.operators > once.operators


def test_work_adds_up_and_takes_time() -> None:
    total = Work(1e9, 1e8, 100, 1e6) + Work(1e9, 1e8, 100, 1e6)
    assert total == Work(2e9, 2e8, 200, 2e6)
    assert total.seconds(Speed(1e9, 1e8, 0.01, 1e-6)) == pytest.approx(2 + 2 + 2 + 2)


def test_a_processor_is_measured_and_a_card_is_looked_up() -> None:
    measured = find_speed(Device("cpu", "any", 2**30, bf16=False), FACTS, bf16=False)
    assert 1e8 < measured.flops < 1e14
    assert 1e7 < measured.bytes < 1e13
    assert measured.score_seconds > 0
    card = find_speed(Device("cuda", "NVIDIA H200", 2**37, bf16=True), FACTS, bf16=True)
    assert card.flops == pytest.approx(0.9 * 790e12)
    unknown = find_speed(Device("cuda", "Card of tomorrow", 2**37, bf16=True), FACTS, bf16=True)
    assert 0 < unknown.flops < card.flops


def test_threads_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert duration.threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert duration.threads() >= 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert duration.threads() >= 1


def test_other_work_on_the_machine_is_told_from_a_slow_machine() -> None:
    # mutation tried: the quickest turn by the clock
    assert duration.busy((1.0, 0.98), (0.5, 0.49)) == 1.0
    assert duration.busy((4.0, 1.0), (1.0, 1.0)) == pytest.approx(2.5)
    calm, beside = Speed(1e9, 1e8, 0.01), Speed(1e9, 1e8, 0.01, busy=3.0)
    assert Work(1e9, 1e8, 1).seconds(beside) == pytest.approx(3 * Work(1e9, 1e8, 1).seconds(calm))


def test_many_short_documents_cost_more_attention_than_their_scores() -> None:
    # mutation tried: FLOOR = 0
    def scores(length: float) -> float:
        return work(Lora(method="lora"), Stretch(4096, 2048, length, 2)).scores

    assert scores(20) > scores(80)
    assert scores(512) > 3 * scores(80)


def test_bf16_on_a_processor_compiles_for_every_number_of_rows() -> None:
    # mutation tried: COMPILED = 0
    def operators(bf16: bool, device: str, pieces: float, targets: int = 2048) -> float:
        load = Load(FACTS, Lora(method="lora"), device, bf16, 2, "off", 2048, 1024, True)  # type: ignore[arg-type]
        stretch = Stretch(4096, targets, 200, pieces)
        return train_work(load, what_trains(load.tuning, FACTS), Numbers(2, 2), stretch).operators

    # all tokens, and those that the last layer is asked for
    assert operators(True, "cpu", 2) - operators(False, "cpu", 2) == pytest.approx(2 * 2 * duration.COMPILED)
    assert duration.COMPILED > 10 * duration.OPERATORS_PER_ADAPTER
    assert operators(True, "cpu", 2, 4096) - operators(False, "cpu", 2, 4096) == pytest.approx(
        2 * duration.COMPILED
    )
    assert operators(True, "cuda", 2) == operators(False, "cuda", 2)
    load = Load(FACTS, Lora(method="lora"), "cpu", True, 2, "off", 2048, 1024, True)
    packed, padded = (
        train_work(one, what_trains(one.tuning, FACTS), Numbers(2, 2), Stretch(4096, 2048, 200, 2)).operators
        for one in (load, replace(load, packed=False))
    )
    more = duration.COMPILED_ANEW - duration.COMPILED  # padded rows are not filled up
    assert padded - packed == pytest.approx(2 * 2 * more)


def test_work_that_is_made_again_and_not_kept_takes_its_time_all_the_same() -> None:
    lora, full = work(Lora(method="lora")), work(Full(method="full"))
    update = duration.UPDATE_TRAFFIC + 2 * duration.ACCUMULATE_TRAFFIC
    assert lora.bytes > full.bytes - update * FACTS.parameters


RATES = duration.Rates(flops=1e11, bytes=1e10, addition=2e-7, busy=1.0)


def test_rates_are_measured_here() -> None:
    found = duration._measure(64, 128)
    assert 1e8 < found.flops < 1e14
    assert 1e-8 < found.addition < 1e-4


def test_an_operator_costs_what_this_machine_takes_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: a number of seconds for every processor (one of twice the speed: +57% for small steps)
    device = Device("cpu", "any", 2**30, bf16=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for addition in (2e-7, 4e-7):
        monkeypatch.setattr(duration, "_measure", lambda *_, a=addition: replace(RATES, addition=a))
        found.append(find_speed(device, FACTS, False).operator_seconds)
    assert found[1] == pytest.approx(2 * found[0])


def test_a_second_core_is_worth_half_a_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: threads cost nothing to wake
    device = Device("cpu", "any", 2**30, bf16=False)
    monkeypatch.setattr(duration, "_measure", lambda *_: RATES)
    speeds = []
    for count in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        speeds.append(find_speed(device, FACTS, False))
    one, two = speeds
    assert two.bytes == pytest.approx(1.5 * one.bytes)
    assert two.flops == pytest.approx(0.75 * one.flops)  # of what both make when they are measured
    assert two.operator_seconds > one.operator_seconds


# mutation tried: bf16 made quicker by it, too
def test_products_by_onednn_are_foreseen_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cpu", "any", 2**30, bf16=True)
    monkeypatch.setattr(duration, "_measure", lambda *_: RATES)

    def flops(told: str, bf16: bool) -> float:
        monkeypatch.setenv("TUNESMITH_ONEDNN", told)
        return find_speed(device, FACTS, bf16).flops

    assert flops("1", False) == pytest.approx(duration.ONEDNN_OVER_OPENBLAS * flops("0", False))
    assert flops("1", True) == flops("0", True)
