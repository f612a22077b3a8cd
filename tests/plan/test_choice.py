"""What auto becomes: the quickest that fits, recomputing as few layers as it must, the same on every machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.test_forecast import CARD, CPU, SEVEN, SHAPE, plan, recipe
from tunesmith.plan.choice import HEADROOM, Setting, choose, fewest_recomputed, level
from tunesmith.plan.memory import forecast_memory

GIB = 2**30


def setting(gib: float, **values: object) -> Setting:
    return Setting(recipe(**values), SEVEN, SHAPE, replace(CARD, memory_bytes=round(gib * GIB)))


def test_a_large_card_recomputes_nothing() -> None:
    load = choose(setting(140))
    assert (load.room, load.recomputed) == (16_000, 0)


@pytest.mark.parametrize("gib", [24, 26, 30])
def test_no_layer_more_is_recomputed_than_memory_asks_for(gib: float) -> None:
    asked = setting(gib, compute={"micro_tokens": 16_384})
    load = choose(asked)
    assert 0 < load.recomputed < SEVEN.layers
    assert asked.fits(load, HEADROOM)
    assert not asked.fits(replace(load, checkpointing=load.recomputed - 1), HEADROOM)


def test_fewer_recomputed_layers_never_need_less_and_are_never_slower() -> None:
    base = setting(140).load(4096, "off")
    loads = [replace(base, checkpointing=count) for count in range(0, SEVEN.layers + 1, 4)]
    peaks = [forecast_memory(load).peak_bytes for load in loads]
    seconds = [setting(140).seconds(load) for load in loads]
    assert peaks == sorted(peaks, reverse=True)
    assert seconds == sorted(seconds)


def test_nothing_fits_where_not_even_all_layers_recomputed_do() -> None:
    assert fewest_recomputed(setting(10).load(700, "off"), setting(10).fits) is None
    assert choose(setting(10)).checkpointing == "full"


def test_auto_leaves_room_where_it_can_and_uses_it_where_it_must() -> None:
    load = choose(setting(40))
    assert forecast_memory(load).device_bytes <= (1 - HEADROOM) * 40 * GIB
    least = forecast_memory(setting(40).load(700, "full")).device_bytes
    tight = replace(setting(40), device=replace(CARD, memory_bytes=least))
    assert tight.fits(choose(tight))


def test_a_number_or_a_share_of_layers_is_taken_as_asked() -> None:
    assert plan(SEVEN, device=CARD, compute={"checkpointing": 5}).checkpointing == 5
    assert plan(SEVEN, device=CARD, compute={"checkpointing": 5}).recomputed == range(5)
    assert plan(SEVEN, device=CARD, compute={"checkpointing": 0.25}).checkpointing == 8
    assert plan(SEVEN, device=CARD, compute={"checkpointing": 99}).checkpointing == "full"
    assert [level(asked, SEVEN) for asked in ("off", 0.01, 32)] == ["off", 1, "full"]


def test_frozen_layers_below_are_not_recomputed() -> None:
    found = plan(
        SEVEN, device=CARD, tuning={"method": "freeze", "last_layers": 6}, compute={"checkpointing": 2}
    )
    assert found.recomputed == range(26, 28)
    full = plan(SEVEN, device=CARD, tuning={"method": "freeze"}, compute={"checkpointing": "full"})
    assert full.recomputed == range(30, 32)


def test_a_processor_takes_small_micro_batches() -> None:
    assert choose(Setting(recipe(), SEVEN, SHAPE, replace(CPU, memory_bytes=10**12))).room == 2048


@pytest.mark.parametrize(
    ("rank", "optimizer", "memory_bytes", "fits"),
    [
        (16, "adamw", 8 * 10**9, True), (16, "paged_adamw_8bit", 8 * 10**9, True),
        (32, "adamw", 8 * 10**9, True), (64, "adamw", 8 * 10**9, False),
        (64, "adamw_bf16", 8 * GIB, True), (64, "paged_adamw_8bit", 8 * GIB, True),
    ],
)  # fmt: skip
def test_seven_billion_in_four_bits_train_at_4096_tokens_within_8_gb(
    rank: int, optimizer: str, memory_bytes: int, fits: bool
) -> None:
    """The table of docs/four-bit.md: most layers recomputed, one sample at a time."""
    asked = Setting(
        recipe(
            tuning={"method": "qlora", "rank": rank},
            optim={"optimizer": optimizer},
            data={"train": "rows.jsonl", "max_length": 4096},
        ),
        SEVEN,
        replace(SHAPE, longest=4096),
        replace(CARD, memory_bytes=memory_bytes),
    )
    load = choose(asked)
    assert asked.fits(load) == fits
    assert load.tokens == 4096
    assert load.recomputed >= SEVEN.layers - 8
