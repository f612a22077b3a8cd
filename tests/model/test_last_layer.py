"""The last layer at learnt positions alone: equal, in loss and gradients, to computing it everywhere."""

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.kernels import documents
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import causal_lm, learnt
from tunesmith.recipe import Tuning
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

METHODS = [
    {"method": "lora"}, {"method": "lora", "dropout": 0.1}, {"method": "lora", "variant": "dora"},
    {"method": "bitfit", "add_biases": True},
    *({"method": name} for name in (
        "adalora", "vera", "ia3", "oft", "adapter", "prefix", "p_tuning_v2", "prompt", "p_tuning", "ln", "freeze",
        "lora_fa", "lora_drop", "plora", "lisa", "galore", "full",
    )),
]  # fmt: skip


def _samples(share, seed=0):
    return list(random_samples(6, seed=seed, longest=24, learnt_share=share))


def _gradients(model, batch, everywhere):
    model.zero_grad()
    loss = learnt(model, batch, everywhere=everywhere).summed_loss()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _same(model, batch, close):
    """Loss and gradients of the two ways; says whether the last layer was cut at all."""
    layers = FAMILIES[causal_lm(model).config.model_type].layers
    layer, seen = causal_lm(model).get_submodule(layers)[-1], []
    handle = layer.register_forward_hook(lambda _, __, out: seen.append(out.shape[-2] * out.shape[0]))
    ours, plain = (_gradients(model, batch, everywhere) for everywhere in (False, True))
    handle.remove()
    torch.testing.assert_close(ours[0], plain[0], rtol=close, atol=0)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert (ours[1][name] - gradient).norm() <= close * gradient.norm() + 1e-12, name
    return seen[0] < seen[1]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.6])
@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_of_every_family_are_those_of_all_positions(family, share, packing):
    # mutation tried: resting keys left out; positions of the asking tokens not moved; `at` one too far
    model = tiny_model(family, dtype=torch.float64)
    batch = collate(_samples(share), packing)
    # transformers computes norms and the softmax of some families in fp32 even then
    assert _same(model, batch, 1e-5) == (not FAMILIES[family].keeps_width)


@pytest.mark.parametrize("section", METHODS, ids=lambda section: " ".join(map(str, section.values())))
def test_every_tuning_method_has_the_loss_and_gradients_of_all_positions(section):
    tuning = TypeAdapter(Tuning).validate_python(section)
    tuned = build(tuning).prepare(tiny_model("llama"), Setting(steps=10))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    tuned.model.eval()
    assert _same(tuned.model, collate(_samples(0.1), True), 1e-5)


def test_where_nearly_all_is_learnt_nothing_is_cut():
    batch = collate(_samples(1.0), True)
    places = torch.nonzero(batch.labels.reshape(-1) >= 0)[:, 0]
    assert documents.ask_only(batch.segments, places) is None


def test_a_document_without_a_target_takes_no_gradient_and_gives_none():
    model = tiny_model(dtype=torch.float64)
    batch = collate(_samples(0.3), True)
    labels = torch.where(batch.segments == 2, -100, batch.labels)
    assert _same(model, replace(batch, labels=labels), 1e-10)
