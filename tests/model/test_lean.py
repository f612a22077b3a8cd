"""A lean model says and learns what the plain one does: every family, every method that goes through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.model.families import FAMILIES
from tunesmith.model.lean import LeanMLP, LeanNorm, lean
from tunesmith.model.load import checkpoint_layers
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Full, LayerNorms, Lora, LoraFA, Tuned
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

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
    batch = collate(list(random_samples(5)), packing=True)
    tuned = build(tuning).prepare(lm, Setting(steps=50))
    tuned.model.train()
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
        loss = summed_loss(tuned.model, batch)
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
        kinds = {type(module) for module in lean(tiny_model(family)).modules()}
        assert (LeanNorm in kinds) == (row.norm in ("rms", "offset", "scaled_wide")), family
        assert (LeanMLP in kinds) == row.gated, family


# mutation tried: 1 + weight left out, a norm's mean term left out, up's gradient without act, mask left out of dA
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_are_those_of_the_plain_model(family: str, tuning: str) -> None:
    ours = gradients(lean(tiny_model(family)), TUNINGS[tuning])
    theirs = gradients(tiny_model(family), TUNINGS[tuning])
    assert far(ours, theirs) < 1e-5
