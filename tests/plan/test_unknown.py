"""Families without a row: what is kept for the backward pass is traced on one layer, equal to torch's own hooks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.plan.test_activations import count_saved
from tests.plan.test_advice import Situation
from tests.tiny import tiny_config
from tunesmith.model.facts import Asked, ModelFacts, read_facts
from tunesmith.model.known import place_of
from tunesmith.model.traced import Traced
from tunesmith.plan.activations import numbers, saved_bytes, uncertainty, what_trains
from tunesmith.plan.advice import own_forward
from tunesmith.recipe import Freeze, Full, Lora, Model, Tuning

SHAPES = {
    "opt": {"num_hidden_layers": 3, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 3},  # no attention interface, alibi: all scores are kept
    "mpt": {"n_layers": 3},
    "stablelm": {"num_hidden_layers": 3},
    "persimmon": {"num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 16},
}
TUNINGS: dict[str, Tuning] = {
    "full": Full(method="full"),
    "freeze": Freeze(method="freeze", last_layers=2),
    "lora": Lora(method="lora", rank=4),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], ModelFacts]]:
    found = {}
    for family, shape in SHAPES.items():
        folder = tmp_path_factory.mktemp(family)
        config: Any = tiny_config(family, **shape)
        config.save_pretrained(folder)
        found[family] = config.to_dict(), read_facts(Model(path=str(folder)))
    return found


def forecast(facts: ModelFacts, tuning: Tuning, tokens: int, targets: int, length: int, bf16: bool) -> float:
    trains = what_trains(tuning, facts)
    return saved_bytes(facts, trains, numbers(trains, bf16), tokens, targets, length=length).total


# mutation tried: without _unpacked (a mask is made, keys are repeated), nothing kept alive behind the layer
@pytest.mark.parametrize(("bf16", "near"), [(False, 0.005), (True, 0.01)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", SHAPES)
def test_traced_bytes_are_those_that_torch_keeps(
    family: str, tuning: str, bf16: bool, near: float, models: dict[str, tuple[dict[str, Any], ModelFacts]]
) -> None:
    config, facts = models[family]
    if bf16 and family == "persimmon":
        near = 0.02  # fake layer norms keep bf16 statistics, real ones fp32: a good part of small heads
    documents = [90, 90, 90]  # neither a length nor a number that was traced
    measured, targets = count_saved(config, TUNINGS[tuning], documents, bf16=bf16, own=True)
    found = forecast(facts, TUNINGS[tuning], 270, targets, 90, bf16)
    assert found == pytest.approx(measured, rel=near)


# mutation tried: known._read always empty
def test_what_was_traced_once_is_read_by_the_next_process_and_never_of_code_that_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    config, asked = tiny_config("opt", **SHAPES["opt"]), Asked(reached=True, leaves=True)
    file = place_of(config.to_dict())  # type: ignore[attr-defined]
    found = Traced(config, False, file)(asked)
    monkeypatch.setattr(Traced, "_trace", lambda *_: pytest.fail("traced again"))
    assert found is not None
    assert Traced(config, False, file)(asked) == found
    assert Traced(config, True).answers == {}
    assert file is not None
    assert list((tmp_path / "traced").iterdir()) == [file]
    file.write_text("[[")
    assert Traced(config, False, file).answers == {}  # a file that was spoilt is begun anew


def test_a_plan_says_whether_layers_were_traced_or_estimated(
    models: dict[str, tuple[dict[str, Any], ModelFacts]],
) -> None:
    _, facts = models["opt"]
    assert facts.skeleton is not None
    # a model whose code does not run under fake tensors
    blind = replace(facts, skeleton=replace(facts.skeleton, trace=lambda _: None))
    assert (uncertainty(facts), uncertainty(blind)) == (0.1, 0.3)
    assert forecast(blind, TUNINGS["lora"], 270, 90, 90, False) > 0
    for found, said in ((facts, "traced on one layer"), (blind, "could not be traced")):
        advice = own_forward(Situation(facts=replace(found, own_forward="no row")).case())
        assert advice is not None
        assert said in advice.reason


def test_what_cannot_be_traced_is_answered_with_none() -> None:
    assert Traced(SimpleNamespace(), remote_code=False)(Asked(reached=True)) is None
