"""A lean model says and learns what the plain one does: every family, every method that goes through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import packed_hidden
from tunesmith.model.last_layer import WATCHED
from tunesmith.model.lean import LeanMLP, LeanNorm, lean
from tunesmith.model.load import checkpoint_layers, without_dropout
from tunesmith.model.quantised import Held, hold
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import AdaLora, Full, LayerNorms, Lora, LoraFA, Tuned, Vera
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

BATCH = collate(list(random_samples(5)), packing=True)
TUNINGS: dict[str, Tuned] = {
    "full": Full(method="full"),
    "norms": LayerNorms(method="ln"),
    "lora": Lora(method="lora", rank=3),
    "dropout": Lora(method="lora", rank=3, dropout=0.3),
    "lora_fa": LoraFA(method="lora_fa", rank=3),
    "dora": Lora(method="lora", rank=3, variant="dora"),
}


def gradients(
    lm: Any, tuning: Tuned, bf16: bool = False, checkpointing: bool = False
) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step, by name; what trains begins at numbers of its name and size alone."""
    tuned = build(tuning).prepare(lm, Setting(steps=50))
    tuned.model.train()
    # a lean last layer draws no noise for queries that are not asked
    setattr(lm, WATCHED, getattr(tuning, "dropout", 0.0) > 0)
    if checkpointing:
        checkpoint_layers(lm)
    with torch.no_grad():
        for name, parameter in tuned.trainable.items():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(
                    0, 0.1, generator=torch.Generator().manual_seed(len(name) + parameter.numel())
                )
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = summed_loss(tuned.model, BATCH)
    loss.backward()
    found = {name: p.grad for name, p in tuned.trainable.items() if p.grad is not None}
    assert found
    return {"loss": loss.detach(), **found}


def far(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest ||difference|| / ||theirs|| of a tensor that is not next to nothing."""
    assert ours.keys() == theirs.keys()
    most = max(float(t.double().norm()) for name, t in theirs.items() if name != "loss")
    return max(
        float((ours[name].double() - t.double()).norm() / max(float(t.double().norm()), 1e-4 * most))
        for name, t in theirs.items()
    )


def test_what_can_be_swapped_is() -> None:
    for family, row in FAMILIES.items():
        kinds = {type(module) for module in lean(without_dropout(tiny_model(family))).modules()}
        assert (LeanNorm in kinds) == (row.norm in ("rms", "offset", "scaled_wide")), family
        assert (LeanMLP in kinds) == row.gated, family


# mutation tried: 1 + weight left out, a norm's mean term left out, the rotation turned back the wrong way
@pytest.mark.parametrize(
    ("family", "tuning"),
    # OLMo's norms have no weights to train
    [(f, t) for f in DENSE for t in TUNINGS if (f, t) != ("olmo", "norms")],
)
def test_loss_and_gradients_are_those_of_the_plain_model(family: str, tuning: str) -> None:
    plain, swapped = (without_dropout(tiny_model(family)) for _ in range(2))
    ours, theirs = gradients(lean(swapped), TUNINGS[tuning]), gradients(plain, TUNINGS[tuning])
    assert far(ours, theirs) < 1e-5


@pytest.mark.parametrize("tuning", ["lora", "norms", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "olmo2"])
def test_in_bf16_gradients_are_no_further_from_the_truth(family: str, tuning: str) -> None:
    far_off = {}
    for kind, dtype in (("truth", torch.float64), ("plain", torch.bfloat16), ("lean", torch.bfloat16)):
        lm = tiny_model(family, hidden_size=64, intermediate_size=160).bfloat16().to(dtype)
        found = gradients(lean(lm) if kind == "lean" else lm, TUNINGS[tuning], bf16=kind != "truth")
        if kind == "truth":
            truth = found
            continue
        away = sum(
            float((found[name].double() - t.double()).norm() / t.double().norm()) for name, t in truth.items()
        )
        far_off[kind] = away / len(truth)
    assert far_off["lean"] <= 1.05 * far_off["plain"]


# mutation tried: part_of without its look at base_layer (a wrapper shows the weight below it as its own)
@pytest.mark.parametrize(
    "tuning",
    [
        Lora(method="lora", rank=3, base="nf4"),
        Lora(method="lora", rank=3, base="fp4"),
        Lora(method="lora", rank=3, base="nf4", variant="dora"),
        AdaLora(method="adalora", rank=3, base="nf4"),
        Vera(method="vera", rank=3, base="nf4"),
    ],
    ids=["lora nf4", "lora fp4", "dora", "adalora", "vera"],
)
def test_over_a_base_in_four_bits_gradients_are_the_plain_ones(tuning: Any) -> None:
    held = [
        hold(tiny_model("llama", hidden_size=64, intermediate_size=128), Held(tuning.base)) for _ in range(2)
    ]
    assert far(gradients(lean(held[0]), tuning), gradients(held[1], tuning)) < 1e-5


@pytest.mark.parametrize("tuning", ["lora", "dropout", "full"])
def test_layers_that_are_computed_again_give_the_same_gradients(tuning: str) -> None:
    ours, theirs = (
        gradients(model, TUNINGS[tuning], checkpointing=True)
        for model in (lean(tiny_model("qwen2")), tiny_model("qwen2"))
    )
    assert far(ours, theirs) < 1e-5


def test_who_listens_to_a_layer_is_told() -> None:
    lm = lean(tiny_model("llama"))
    build(TUNINGS["lora"]).prepare(lm, Setting())
    heard: list[torch.Size] = []
    for name in ("gate_proj", "down_proj"):
        layer = lm.model.layers[0].mlp.get_submodule(name)
        layer.register_forward_hook(lambda _, inputs, __: heard.append(inputs[0].shape))
    packed_hidden(lm, BATCH)
    tokens = BATCH.input_ids.shape[1]
    assert heard == [(1, tokens, 32), (1, tokens, 48)]


def test_names_and_parameters_stay_as_they_were() -> None:
    for family in DENSE:
        plain, swapped = tiny_model(family), lean(tiny_model(family))
        assert list(plain.state_dict()) == list(swapped.state_dict())
        assert torch.equal(packed_hidden(plain, BATCH), packed_hidden(swapped, BATCH)), family
