"""Bytes kept for the backward pass: derived from the config alone, equal to what torch's hooks count."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

import pytest

from tunesmith.model.facts import facts_from_config
from tunesmith.plan.activations import (
    APART_FROM,
    INDEX,
    layer_costs,
    numbers,
    recomputed_layers,
    saved_bytes,
    what_trains,
)
from tunesmith.recipe import Freeze, Full, Lora, Tuning
from tunesmith.tuning.method import Setting

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SHAPE, "model_type": "llama"},
    "mistral": {**SHAPE, "model_type": "mistral", "sliding_window": None, "num_key_value_heads": 4},
    "qwen2": {**SHAPE, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**SHAPE, "model_type": "qwen3"},
    "qwen3 wide heads": {**SHAPE, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
}
TUNINGS: list[Tuning] = [
    Full(method="full"),
    Freeze(method="freeze", last_layers=1),
    Freeze(method="freeze", last_layers=2, modules=("lm_head", "model.norm")),
    Freeze(method="freeze", last_layers=0, modules=("layers.1.mlp",)),
    Lora(method="lora", rank=4),
    Lora(method="lora", rank=4, dropout=0.1),
    Lora(method="lora", rank=4, targets=("q_proj", "v_proj")),
    Lora(method="lora", rank=4, targets=("down_proj",)),
    Lora(method="lora", rank=4, targets=("layers.2.self_attn.o_proj", "gate_proj")),
]


class Kept:
    """A tensor that a node of the graph holds."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()  # or an output would hold the node that holds it


def count_saved(
    config: dict[str, Any],
    tuning: Tuning,
    documents: list[int],
    *,
    bf16: bool,
    recomputed: Collection[int] = (),
    unlearnt: int = 5,
    own: bool = False,
) -> tuple[int, int]:
    """Bytes of all storages that autograd keeps, parameters apart, and the number of targets."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.data.loader import collate
    from tunesmith.data.samples import Sample
    from tunesmith.kernels import attention
    from tunesmith.model.lean import lean
    from tunesmith.model.load import checkpoint_layers, without_dropout
    from tunesmith.objectives.language_modelling import summed_loss
    from tunesmith.tuning.build import build

    dtype = torch.bfloat16 if bf16 else torch.float32
    ours = {} if own else {"attn_implementation": attention.NAME}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=dtype, **ours)
    if not own:
        lean(without_dropout(model))
    tuned = build(tuning).prepare(without_dropout(model), Setting(steps=50))
    tuned.model.train()
    if recomputed:
        checkpoint_layers(model, recomputed)
    ids = [np.arange(n, dtype=np.int32) for n in documents]
    batch = collate([Sample(i, np.where(i < unlearnt, -100, i), "a:1") for i in ids], packing=True)
    held = [*tuned.model.parameters(), *tuned.model.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in held}
    kept: weakref.WeakSet[Kept] = (
        weakref.WeakSet()
    )  # what goes with its node before the loss is there does not count

    def keep(tensor: Any) -> Kept:
        found = Kept(tensor)
        kept.add(found)
        return found

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = summed_loss(tuned.model, batch)
        assert loss.requires_grad
        storages = [found.tensor.untyped_storage() for found in kept]
        sizes = {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in known}
        return sum(sizes.values()), batch.targets


def predicted(
    config: dict[str, Any], tuning: Tuning, tokens: int, targets: int, *, bf16: bool, slack: float = 1.0
) -> int:
    facts = facts_from_config(config)
    trains = what_trains(tuning, facts)
    return round(saved_bytes(facts, trains, numbers(trains, bf16), tokens, targets, slack, length=16).total)


# What makes a family differ from llama, set so that it matters; the rest of tests/tiny.py's names.
OTHERS: dict[str, dict[str, Any]] = {
    **{family: {} for family in ("gemma", "gemma3_text", "gpt_neox", "phi", "phi3", "glm", "glm4", "olmo", "olmo2",
                                 "olmo3", "granite", "smollm3", "starcoder2", "cohere", "cohere2", "seed_oss")},
    "gemma2": {"attn_logit_softcapping": 2.0},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 56, "n_positions": 256},
}  # fmt: skip
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256}


def test_every_family_is_here() -> None:
    from tunesmith.model.families import FAMILIES as ALL

    assert {*FAMILIES, *OTHERS} >= set(ALL)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tuning", [TUNINGS[0], TUNINGS[1], TUNINGS[4]], ids=["full", "freeze", "lora"])
@pytest.mark.parametrize("family", OTHERS)
def test_saved_bytes_of_every_family_are_exact(family: str, tuning: Tuning, bf16: bool) -> None:
    config = {**SHAPE, "model_type": family, **TOKENS, **OTHERS[family]}
    measured, targets = count_saved(config, tuning, [16, 16], bf16=bf16)
    # Gemma and Cohere: a norm's weight, or a mean, that the last layer keeps twice
    near = 0.002 * ("gemma" in family or "cohere" in family)
    assert predicted(config, tuning, 32, targets, bf16=bf16) == pytest.approx(measured, rel=near)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("tuning", [TUNINGS[0], TUNINGS[4]], ids=["full", "lora"])
def test_a_card_keeps_less_of_what_trains(family: str, tuning: Tuning) -> None:
    # no second copy of weights, and no act(gate) * up; but for GPT-2, whose layers are not linear ones to mixed.py
    facts = facts_from_config({**SHAPE, "model_type": family, **TOKENS, **OTHERS.get(family, {})})
    trains = what_trains(tuning, facts)
    there, here = (
        saved_bytes(facts, trains, numbers(trains, True, device), 64, 32).total for device in ("cuda", "cpu")
    )
    weights = sum(
        one.inputs * one.outputs for layer in range(facts.layers) for one in facts.linears_of(layer)
    )
    learnt = tuning.method == "full" and family == "llama"
    inner = facts.intermediate_size * (64 * (facts.layers - 1) + 32)
    assert here - there == 2 * (weights + inner) * learnt


# mutation tried: h counted all the same
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_what_a_card_keeps_of_full_tuning_is_exact(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def on_card(x: Any, weight: Any) -> bool:
        return weight.requires_grad and weight.dtype == torch.float32 and torch.is_autocast_enabled("cpu")

    monkeypatch.setenv("TUNESMITH_ONEDNN", "1")  # or its layers would not ask kernels/product.py
    monkeypatch.setattr("tunesmith.kernels.product.is_mixed", on_card)
    config = {**SHAPE, "model_type": family, **TOKENS}
    measured, targets = count_saved(config, TUNINGS[0], [16, 16], bf16=True)
    facts = facts_from_config(config)
    trains = what_trains(TUNINGS[0], facts)
    found = saved_bytes(facts, trains, numbers(trains, True, "cuda"), 32, targets, length=16)
    assert round(found.total) == measured


# mutation tried: apart=None (16 bytes a token too many); one mask for all documents
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma2"])
@pytest.mark.parametrize("documents", [[40, 40], [33, 48, 39]], ids=["alike", "unlike"])
def test_documents_attended_where_they_stand_keep_no_places(family: str, documents: list[int]) -> None:
    from tunesmith.kernels.documents import APART_FROM as FROM

    assert FROM == APART_FROM
    config = {**SHAPE, "model_type": family, **TOKENS, **OTHERS.get(family, {})}
    facts, tokens = facts_from_config(config), sum(documents)
    trains, length = what_trains(TUNINGS[4], facts), sum(n * n for n in documents) / sum(documents)
    # all is learnt: the last layer, which gathers those that ask, does not differ
    measured, targets = count_saved(config, TUNINGS[4], documents, bf16=False, unlearnt=1)
    found = saved_bytes(facts, trains, numbers(trains, False), tokens, targets, length=length, apart=1.0)
    assert round(found.total) == measured


# mutation tried: leaving out silu's copy, keeping a frozen layer's input, k and v not repeated
@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_bytes_are_exact_in_fp32(family: str, tuning: Tuning) -> None:
    measured, targets = count_saved(FAMILIES[family], tuning, [16, 16], bf16=False)
    assert predicted(FAMILIES[family], tuning, 32, targets, bf16=False) == measured


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_bytes_are_exact_in_bf16(family: str, tuning: Tuning) -> None:
    measured, targets = count_saved(FAMILIES[family], tuning, [16, 16], bf16=True)
    assert predicted(FAMILIES[family], tuning, 32, targets, bf16=True) == measured


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
def test_a_last_layer_of_few_targets_is_exact(tuning: Tuning) -> None:
    for family in ("llama", "qwen3"):
        measured, targets = count_saved(FAMILIES[family], tuning, [16, 16], bf16=False, unlearnt=12)
        mask = targets * 16 * 4  # what each query sees
        off = measured - predicted(FAMILIES[family], tuning, 32, targets, bf16=False)
        assert targets == 8
        assert off in (0, mask), family


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("tuning", [TUNINGS[0], TUNINGS[1], TUNINGS[4]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_bytes_are_exact(family: str, tuning: Tuning, count: int) -> None:
    config = FAMILIES[family]
    facts = facts_from_config(config)
    trains = what_trains(tuning, facts)
    size = numbers(trains, False)
    again = recomputed_layers(layer_costs(facts, trains, size, 1.0), count)
    measured, targets = count_saved(config, tuning, [16] * 8, bf16=False, recomputed=again)
    assert round(saved_bytes(facts, trains, size, 128, targets, recomputed=count).total) == measured


def test_documents_that_stay_where_they_stand_keep_no_slots() -> None:
    measured, targets = count_saved(FAMILIES["llama"], TUNINGS[0], [64, 64], bf16=False)
    assert predicted(FAMILIES["llama"], TUNINGS[0], 128, targets, bf16=False) == measured + 128 * 2 * INDEX


# mutation tried: without disable_input_require_grads every layer goes through backward
def test_checkpointing_leaves_frozen_layers_out_of_the_backward() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.model.load import checkpoint_layers
    from tunesmith.tuning.build import build

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**FAMILIES["llama"]))
    build(Freeze(method="freeze", last_layers=1)).prepare(model, Setting()).model.train()
    checkpoint_layers(model)
    needs: list[bool] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _, inputs, __: needs.append(inputs[0].requires_grad))
    model(torch.arange(8)[None]).logits.sum().backward()
    assert needs[:3] == [False, False, True]
