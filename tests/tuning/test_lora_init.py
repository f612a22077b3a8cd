"""Where A and B begin: singular parts of W, its QR, the directions of a layer's inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import random_samples, tiny_model
from tests.tuning.test_lora_family import TUNINGS, prepared
from tunesmith.data.loader import collate
from tunesmith.model.forward import learnt
from tunesmith.recipe import Lora
from tunesmith.tuning import lora_init
from tunesmith.tuning.build import build
from tunesmith.tuning.lora_init import PrincipalDirections
from tunesmith.tuning.lora_layers import lora_layers
from tunesmith.tuning.method import Setting


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: layer.get_base_layer().weight.detach() for name, layer in lora_layers(model)}


def test_pissa_begins_with_the_largest_singular_parts() -> None:
    tuned = prepared("pissa")
    for name, layer in lora_layers(tuned.model):
        weight = weights(tuned.model)[name]
        u, s, vt = torch.linalg.svd(weight)
        best = u[:, :3] * s[:3] @ vt[:3]
        product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(product, best, atol=1e-5, rtol=1e-4)


def test_olora_begins_with_orthonormal_columns_that_carry_the_first_rows_of_r() -> None:
    tuned = prepared("olora")
    for name, layer in lora_layers(tuned.model):
        b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        torch.testing.assert_close(b.t() @ b, torch.eye(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(a, b.t() @ weights(tuned.model)[name], atol=1e-5, rtol=1e-4)


def test_random_projections_find_the_same_singular_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        0.7 ** torch.arange(24)
    )
    exact = lora_init.principal_parts(weight, 4, 0.5)
    monkeypatch.setattr(lora_init, "WHOLE_SVD", 0)
    a, b = lora_init.principal_parts(weight, 4, 0.5)
    torch.testing.assert_close(b @ a, exact[1] @ exact[0], atol=1e-4, rtol=1e-4)


def test_principal_directions_of_a_stream_are_those_of_the_whole() -> None:
    # mutation tried: the row of moved means left out
    x = torch.randn(90, 8, generator=torch.Generator().manual_seed(1)) * 0.5 ** torch.arange(8) + 3.0
    seen = PrincipalDirections(8)
    for part in x.split(30):
        seen.see(part)
    _, _, vt = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    cosines = (seen.directions()[:5] * vt[:5]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_eva_follows_the_inputs_of_each_layer_and_no_padding() -> None:
    # mutation tried: padding seen too
    base, wide = tiny_model(), collate(list(random_samples(3, longest=9)), packing=False)
    inputs: list[torch.Tensor] = []
    handle = base.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0].detach())
    )
    hidden_states = learnt(base, wide, everywhere=True)
    assert len(hidden_states.targets)
    handle.remove()
    real = inputs[0].reshape(-1, 48)[wide.segments.reshape(-1) >= 0]
    assert len(real) < inputs[0].numel() // 48  # there is padding
    tuned = build(TUNINGS["eva"]).prepare(base, Setting(sample=lambda: iter([wide])))
    layers = dict(lora_layers(tuned.model))
    a = next(layer for name, layer in layers.items() if name.endswith("layers.1.mlp.down_proj")).lora_A
    _, _, vt = torch.linalg.svd((real - real.mean(0)).double(), full_matrices=False)
    cosines = (a["default"].weight.double() * vt[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)


def test_eva_without_rows_keeps_its_random_draw() -> None:
    empty = build(TUNINGS["eva"]).prepare(tiny_model(), Setting())
    default = build(Lora(method="lora", rank=3)).prepare(tiny_model(), Setting())
    assert all(torch.equal(p, default.trainable[key]) for key, p in empty.trainable.items())
