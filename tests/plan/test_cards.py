"""--memory: a size or a card, or a plain word on what there is."""

from __future__ import annotations

import pytest

from tunesmith.errors import UserError
from tunesmith.plan.cards import CARDS, card_of, device_with
from tunesmith.plan.device import Device

CPU = Device("cpu", "a processor", 2**34, bf16=False)
H200 = Device("cuda", "NVIDIA H200", 143771 * 2**20, bf16=True)


@pytest.mark.parametrize(
    ("words", "kind", "gib"),
    [
        ("24GB", "cuda", 24), ("24 GiB", "cuda", 24), ("7.5g", "cuda", 7.5), ("cpu:64GB", "cpu", 64),
        ("CPU:16", "cpu", 16), ("24576MB", "cuda", 24), ("4090", "cuda", 24), ("RTX 4090", "cuda", 24),
        ("a100-80", "cuda", 80), ("A100-80GB", "cuda", 80), ("A100-40", "cuda", 40), ("H200", "cuda", 140.4),
        ("NVIDIA H200", "cuda", 140.4),
    ],
)  # fmt: skip
def test_a_size_or_a_card_is_understood(words: str, kind: str, gib: float) -> None:
    found = device_with(words, CPU)
    assert (found.kind, found.memory_bytes / 2**30) == (kind, pytest.approx(gib))


def test_a_size_means_the_card_that_is_here() -> None:
    assert device_with("40GB", H200) == Device("cuda", "NVIDIA H200", 40 * 2**30, bf16=True)


def test_a_size_is_as_fast_as_the_slowest_card_sold_with_it() -> None:
    assert "3090" in device_with("24GB", CPU).name
    assert card_of(device_with("24GB", CPU).name) == CARDS["3090"]


def test_an_old_card_has_no_bf16() -> None:
    assert not device_with("V100", CPU).bf16


@pytest.mark.parametrize("words", ["409", "lots", "", "-3GB", "1MB", "0GB", "H2000"])
def test_anything_else_is_told_with_what_there_is(words: str) -> None:
    with pytest.raises(UserError) as caught:
        device_with(words, CPU)
    assert caught.value.problems[0].where == "--memory"
    assert "24GB" in caught.value.problems[0].fix


def test_no_card_is_taken_for_another() -> None:
    for card in CARDS.values():
        assert card_of(card.name).flops == card.flops, card.name
    assert card_of("NVIDIA A100-SXM4-40GB").gibibytes in (40, 80)
    assert card_of("something new").flops == 50e12
