"""VeRA, IA3 and OFT through PEFT: what is shared, what is scaled, what is turned; and combinations that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.folders import make_model
from tests.tiny import tiny_config, tiny_model
from tests.tuning.test_lora_family import SETTING, TUNINGS, prepared, train
from tunesmith.errors import RecipeError
from tunesmith.model.facts import facts_from_config, read_facts
from tunesmith.recipe import IA3, Lora, Model, Oft, Optim, Tuning
from tunesmith.tuning.build import build
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.method import Setting
from tunesmith.tuning.table import capability_problems


def test_vera_shares_one_random_pair_in_the_model_and_in_the_file(tmp_path: Path) -> None:
    tuned = prepared("vera")
    layers = [module for module in tuned.model.modules() if hasattr(module, "vera_lambda_d")]
    assert len(layers) == 14
    assert len({id(layer.vera_A["default"]) for layer in layers}) == 1
    assert tuple(layers[0].vera_A["default"].shape) == (
        6,
        48,
    )  # as wide as the widest: q is 32, k 16, down 48
    build(TUNINGS["vera"]).save(tuned, tmp_path)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(key for key in kept if "vera_A" in key or "vera_B" in key) == [
        "base_model.vera_A",
        "base_model.vera_B",
    ]
    assert all(float(p[0]) == pytest.approx(0.1) for key, p in tuned.trainable.items() if "lambda_d" in key)
    other = build(TUNINGS["vera"]).prepare(tiny_model(), Setting(seed=1))
    assert not torch.equal(other.model.base_model.vera_A["default"], layers[0].vera_A["default"])


def test_vera_begins_at_d_initial_beside_bf16_weights() -> None:
    # mutation tried: left as PEFT rounds it
    tuned = prepared("vera", tiny_model(dtype=torch.bfloat16))
    assert all(
        torch.equal(p, torch.full((6,), 0.1)) for key, p in tuned.trainable.items() if "lambda_d" in key
    )


@pytest.mark.parametrize(
    ("family", "targets", "outputs", "inputs"),
    [
        ("llama", "auto", {"k_proj", "v_proj"}, {"down_proj"}),
        ("qwen2", "auto", {"k_proj", "v_proj"}, {"down_proj"}),
        ("gpt2", "auto", {"c_attn"}, {"c_proj"}),
        ("gpt2", ("c_proj",), {"c_proj"}, {"c_proj"}),
        ("llama", ("o_proj", "layers.1.mlp.down_proj"), {"o_proj"}, {"down_proj"}),
        ("llama", ("up_proj",), {"up_proj"}, set()),
    ],
)
def test_ia3_scales_outputs_and_the_feed_forward_at_its_inner_values(
    family: str, targets: Any, outputs: set[str], inputs: set[str]
) -> None:
    # mutation tried: PEFT's own targets, which are queries and values on Qwen2; factors that decay
    tuning = IA3(method="ia3", targets=targets)
    tuned = build(tuning).prepare(tiny_model(family), SETTING)
    found = {
        (name.rpartition(".")[2], "mlp" in name, module.is_feedforward)
        for name, module in tuned.model.named_modules()
        if hasattr(module, "ia3_l")
    }
    assert {name for name, _, inner in found if not inner} == outputs
    assert {name for name, _, inner in found if inner} == inputs
    assert all(mlp for _, mlp, inner in found if inner)
    assert tuned.trainable_count == trainable_parameters(
        tuning, facts_from_config(tiny_config(family).to_dict())  # type: ignore[attr-defined]
    )  # fmt: skip
    groups = build(tuning).parameter_groups(tuned, Optim(weight_decay=0.1))
    assert {group.weight_decay for group in groups} == {0.0}


def test_oft_turns_weights_without_changing_lengths_or_angles() -> None:
    # mutation tried: PEFT's default, the five-term series
    method, tuned = build(TUNINGS["oft"]), prepared("oft")
    train(tuned, TUNINGS["oft"], steps=8)
    merged = dict(method.merge(tuned.model).named_parameters())
    for name, weight in tiny_model().named_parameters():
        if "proj" in name:
            assert not torch.allclose(merged[name], weight, atol=1e-3)
            torch.testing.assert_close(
                functional.linear(merged[name], merged[name]), weight @ weight.t(), atol=1e-4, rtol=1e-4
            )


# --- what cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "family", "where"),
    [
        (Lora(method="lora", init="pissa", base="nf4"), "llama", "tuning.init"),
        (Lora(method="lora", init="olora", base="fp4"), "llama", "tuning.init"),
        (Lora(method="lora", init="pissa", variant="dora", dropout=0.1, rank=2), "llama", "tuning.dropout"),
        (Lora(method="lora", init="olora", rank=17), "llama", "tuning.rank"),
        (Oft(method="oft", block=8), "gpt2", "tuning.method"),
    ],
    ids=str,
)
def test_combinations_that_cannot_be_are_refused_from_the_config(
    tuning: Tuning, family: str, where: str
) -> None:
    facts = facts_from_config(tiny_config(family).to_dict())  # type: ignore[attr-defined]
    problems = capability_problems(tuning, facts)
    assert [problem.where for problem in problems] == [where]
    assert problems[0].fix


@pytest.mark.parametrize("name", ["eva", "dora", "lora_fa", "vera", "ia3", "oft"])
def test_everything_else_may_stand_on_four_bits(name: str) -> None:
    tuning = TUNINGS[name].model_copy(update={"base": "nf4"})
    facts = facts_from_config(tiny_config().to_dict())  # type: ignore[attr-defined]
    assert capability_problems(tuning, facts) == []


# mutations tried: 8 named whatever the layers are; the largest divisor whatever was asked for
@pytest.mark.parametrize(
    ("inner", "asked", "fix"),
    [(44, 32, "set tuning.block: 4,"), (48, 5, "set tuning.block: 4,"), (45, 32, "leave such")],
)
def test_a_block_that_does_not_divide_is_answered_with_one_that_does(
    inner: int, asked: int, fix: str
) -> None:
    config = tiny_config(intermediate_size=inner).to_dict()  # type: ignore[attr-defined]
    with pytest.raises(RecipeError) as told:
        trainable_parameters(Oft(method="oft", block=asked), facts_from_config(config))
    assert told.value.problems[0].fix.startswith(fix)


def test_ia3_asks_for_names_where_a_family_does_not_tell_them(tmp_path: Path) -> None:
    facts = read_facts(Model(path=str(make_model(tmp_path / "opt", "opt"))))
    with pytest.raises(RecipeError, match=r"name them, among k_proj, v_proj, q_proj, out_proj, fc1, fc2"):
        trainable_parameters(IA3(method="ia3"), facts)
    named = IA3(method="ia3", targets=("k_proj", "fc2"))
    assert trainable_parameters(named, facts) == 2 * (32 + 32)
