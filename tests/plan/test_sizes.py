"""Published models by their shapes: counted, they have as many parameters as their cards say."""

from __future__ import annotations

import pytest

from tunesmith.model.facts import ModelFacts, facts_from_config
from tunesmith.plan.sizes import SERIES, _facts, members

PUBLISHED = {
    "Qwen2.5-0.5B": 494_032_768, "Qwen2.5-7B": 7_615_616_512, "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-0.6B": 596_049_920, "Qwen3-8B": 8_190_735_360, "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.1-8B": 8_030_261_248, "Llama-3.1-70B": 70_553_706_496, "Llama-2-7B": 6_738_415_616,
    "Llama-2-70B": 68_976_648_192, "SmolLM2-135M": 134_515_008, "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984, "Mistral-7B-v0.3": 7_248_023_552, "OLMo-2-7B": 7_298_617_344,
}  # fmt: skip


def counted(name: str) -> ModelFacts:
    family, shape = next((f, shapes[name]) for f, shapes in SERIES.values() if name in shapes)
    return _facts(family, name, shape)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    assert counted(name).parameters == PUBLISHED[name]


def test_a_series_grows() -> None:
    for family, shapes in SERIES.values():
        sizes = [_facts(family, name, shape).parameters for name, shape in shapes.items()]
        assert sizes == sorted(sizes)


def test_members_are_those_of_the_same_series() -> None:
    assert members(counted("Llama-3.1-8B"))[0].name == "Llama-3.2-1B"
    assert [m.name for m in members(counted("Llama-2-7B"))] == ["Llama-2-7B", "Llama-2-13B", "Llama-2-70B"]
    small = facts_from_config(
        {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
         "num_attention_heads": 4, "vocab_size": 512}
    )  # fmt: skip
    assert members(small) == ()
