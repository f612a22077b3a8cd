"""Layers below the first that learns, computed once: equal in loss and gradients to computing them every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from tests.tiny import DENSE, random_samples, tiny_config, tiny_model
from tunesmith.data.loader import collate
from tunesmith.data.sharing import shared_batches
from tunesmith.model.facts import facts_from_config
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import causal_lm, learnt
from tunesmith.model.load import checkpoint_layers, without_dropout
from tunesmith.model.trunk import DEPTH, Trunk, digest, entering, find_trunk, let_go, take_back
from tunesmith.plan.memory import Load
from tunesmith.plan.trunk import trunk_layers
from tunesmith.recipe import Tuning
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

LAYERS = 4


def upper_lora(family: str, layers: tuple[int, ...] = (2, 3)) -> dict[str, object]:
    row = FAMILIES[family]
    return {"method": "lora", "rank": 2, "targets": [f"{row.layers}.{n}.{row.mlp_out}" for n in layers]}


def prepared(family: str, section: dict[str, object], dtype=torch.float32, **changes):
    values: dict[str, object] = {"num_hidden_layers": LAYERS, **changes}
    if "layer_types" in DENSE[family]:
        values["layer_types"] = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
    tuning = TypeAdapter(Tuning).validate_python(section)
    model = without_dropout(tiny_model(family, dtype=dtype, **values))
    tuned = build(tuning).prepare(model, Setting(steps=10))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return tuned


def with_states(model, samples, depth):
    """Each sample with its states, computed alone."""
    setattr(causal_lm(model), DEPTH, depth)
    return [
        replace(s, states=stored(entering(causal_lm(model), collate([s], True), depth)[0])) for s in samples
    ]


def stored(states):
    return (states.view(torch.int16) if states.dtype == torch.bfloat16 else states).numpy()


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = learnt(model, batch).summed_loss()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(ours, plain, close=1e-5):
    torch.testing.assert_close(ours[0], plain[0], rtol=close, atol=0)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert (ours[1][name] - gradient).norm() <= close * gradient.norm() + 1e-12, name


# mutation tried: one layer less stands aside
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("method", ["freeze", "lora"])
@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_of_every_family_are_those_of_the_whole_model(family, method, packing):
    tuned = prepared(family, {"method": "freeze"} if method == "freeze" else upper_lora(family))
    samples = list(random_samples(6, seed=1, learnt_share=0.4))
    plain = loss_and_gradients(tuned.model, collate(samples, packing))
    found = find_trunk(tuned.model, causal_lm(tuned.model))
    assert found.layers == 2
    ours = loss_and_gradients(tuned.model, collate(with_states(tuned.model, samples, found.layers), packing))
    same(ours, plain)


def test_rows_that_share_a_beginning_are_laid_as_a_tree_with_their_states():
    tuned = prepared("llama", upper_lora("llama"))
    first, *others = random_samples(4, seed=3, longest=60, learnt_share=0.3)
    beginning = first.input_ids[:20]
    rows = [
        replace(s, input_ids=np.concatenate([beginning, s.input_ids]),
                labels=np.concatenate([np.full(20, -100, np.int32), s.labels]))
        for s in (first, *others)
    ]  # fmt: skip
    (plain,) = shared_batches(rows, 400)
    (ours,) = shared_batches(with_states(tuned.model, rows, 2), 400)
    assert ours.states.shape[1] == len(ours.input_ids[0]) < sum(len(row.input_ids) for row in rows)
    same(loss_and_gradients(tuned.model, ours), loss_and_gradients(tuned.model, plain))


def test_layers_that_are_recomputed_in_the_backward_pass_begin_with_the_states_again():
    tuned = prepared("llama", {"method": "freeze"})
    samples = list(random_samples(6, seed=1, learnt_share=0.4))
    plain = loss_and_gradients(tuned.model, collate(samples, True))
    bringing = collate(with_states(tuned.model, samples, 2), True)
    checkpoint_layers(causal_lm(tuned.model), range(2, 4))
    same(loss_and_gradients(tuned.model.train(), bringing), plain)


def test_in_bf16_it_is_no_farther_from_float64_than_the_plain_way():
    """What is stored are the stream's own bits; rows that stand beside others are rounded in another order."""
    tuned, samples = (
        prepared("llama", {"method": "freeze"}, dtype=torch.bfloat16),
        list(random_samples(12, seed=1)),
    )
    exact = prepared("llama", {"method": "freeze"}, dtype=torch.float64).model.double()
    exact.load_state_dict({name: weight.double() for name, weight in tuned.model.state_dict().items()})
    reference = loss_and_gradients(exact, collate(samples, True))
    with torch.autocast("cpu", torch.bfloat16):
        plain = loss_and_gradients(tuned.model, collate(samples, True))
        bringing = with_states(tuned.model, samples, 2)
        assert bringing[0].states.dtype == np.int16
        ours = loss_and_gradients(tuned.model, collate(bringing, True))

    def error(found):
        return (
            sum(float((found[1][name].double() - g).norm() ** 2) for name, g in reference[1].items()) ** 0.5
        )

    assert 0 < error(ours) <= 1.1 * error(plain)
    assert abs(ours[0] - reference[0]) <= abs(plain[0] - reference[0]) + 1e-3 * reference[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_weights_that_were_let_go_of_come_back_and_meanwhile_nobody_computes_with_them(family):
    tuned = prepared(family, {"method": "freeze"})
    lm, samples = causal_lm(tuned.model), list(random_samples(4, seed=1))
    plain = loss_and_gradients(tuned.model, collate(samples, True))
    bringing, before = with_states(tuned.model, samples, 2), digest(lm, 2)
    gone = let_go(lm, 2)
    assert any(".1." in name for name in gone)
    assert all(name in dict(lm.named_parameters()) for name in gone)
    held = sum(p.untyped_storage().nbytes() for name, p in lm.named_parameters() if name in gone)
    assert held == 4 * len(gone)
    same(loss_and_gradients(tuned.model, collate(bringing, True)), plain)
    with pytest.raises(AssertionError, match="no weights"):
        learnt(tuned.model, collate(samples, True))
    take_back(lm, prepared(family, {"method": "freeze"}).model, 2)
    assert digest(lm, 2) == before
    same(loss_and_gradients(tuned.model, collate(samples, True)), plain)


def test_the_digest_changes_with_any_weight_of_the_trunk_and_with_none_above():
    lm = tiny_model(num_hidden_layers=LAYERS)
    digests = [digest(lm, 2), digest(lm, 3)]
    for name in ("model.layers.3.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.embed_tokens"):
        with torch.no_grad():
            lm.get_submodule(name).weight[3, 5] += 1e-6
        digests.append(digest(lm, 2))
    assert digests[2] == digests[0]
    assert len({*digests}) == 4


TUNINGS = [
    {"method": "freeze"}, {"method": "freeze", "first_layers": 1}, {"method": "freeze", "modules": ["lm_head"]},
    {"method": "freeze", "last_layers": 1, "modules": ["model.norm"]},
    {"method": "oft", "block": 16}, {"method": "lora"}, upper_lora("llama"),
    {"method": "lora", "targets": ["layers.3.mlp.up_proj"], "also_train": ["embed_tokens"]},
    {"method": "lora", "targets": ["layers.3.mlp.up_proj"], "also_train": ["lm_head"]},
    *({"method": name} for name in (
        "adalora", "vera", "ia3", "adapter", "prefix", "p_tuning_v2", "prompt", "p_tuning", "ln", "lora_fa",
        "lora_drop", "plora", "lisa", "galore", "full",
    )),
]  # fmt: skip


@pytest.mark.parametrize("section", TUNINGS, ids=lambda section: " ".join(map(str, section.values())))
def test_the_trunk_that_is_planned_is_the_one_found_in_the_model(section):
    config = tiny_config(num_hidden_layers=LAYERS).to_dict()
    tuning = TypeAdapter(Tuning).validate_python(section)
    load = Load(facts_from_config(config), tuning, "cpu", False, 4, "off", 100, 50, False)
    tuned = prepared("llama", section)
    found = find_trunk(tuned.model, causal_lm(tuned.model))
    assert found.layers == trunk_layers(load)[0]
    assert bool(found.layers) == (not found.reason)


def test_noise_and_onlookers_end_the_trunk():
    lm = prepared("llama", {"method": "freeze"}).model
    assert find_trunk(lm, lm).layers == 2
    handle = lm.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert find_trunk(lm, lm) == Trunk(1, "layer 1 is looked at by a hook")
    handle.remove()
    lm.model.layers[0].mlp.drop = torch.nn.Dropout(0.1)
    assert find_trunk(lm, lm).reason == "layer 0 has dropout"


def kept_bytes(model, batch):
    """Bytes that autograd keeps for the backward pass, weights apart."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = learnt(model, batch).summed_loss()
    return sum(found.values()), loss


@pytest.mark.parametrize("method", ["freeze", "lora"])
def test_no_more_is_kept_for_the_backward_pass_than_the_forecast_of_the_plain_way_counts(method):
    tuned = prepared("llama", {"method": "freeze"} if method == "freeze" else upper_lora("llama"))
    samples = list(random_samples(6, seed=1, learnt_share=0.4))
    plain, _ = kept_bytes(tuned.model, collate(samples, True))
    batch = collate(with_states(tuned.model, samples, 2), True)
    ours, _ = kept_bytes(tuned.model, batch)
    assert plain * 0.9 <= ours <= plain
