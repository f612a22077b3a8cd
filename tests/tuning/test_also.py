"""also_train and new_tokens_only beside any method: what moves, what is saved, what plain PEFT reads."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.tiny import tiny_model
from tests.tuning.steps import BATCH, facts_of, gradients, logits, train
from tunesmith.model.load import checkpoint_layers
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Recipe, Tuning, parse
from tunesmith.tuning.build import build
from tunesmith.tuning.footprint import footprint, trainable_parameters
from tunesmith.tuning.load import load_adapter
from tunesmith.tuning.method import Setting
from tunesmith.tuning.methods import METHODS as TABLE
from tunesmith.tuning.table import capability_problems

NEW = (6, 11, 41)
BOTH = ["embed_tokens", "lm_head"]
METHODS: list[dict[str, Any]] = [
    {"method": "lora", "rank": 3},
    {"method": "ln"},
    {"method": "adapter", "reduction": 8},
    {"method": "bitfit", "add_biases": True},
    {"method": "freeze", "last_layers": 1},
]


def tuning(method: dict[str, Any], **more: Any) -> Tuning:
    """A tuning section."""
    values = {"model": "some/model", "data": {"train": "rows.jsonl"}, "tuning": {**method, **more}}
    found: Recipe = parse(values)
    return found.tuning


def prepared(chosen: Tuning, **changes: Any) -> Any:
    return build(chosen).prepare(tiny_model(**changes), Setting(new_tokens=NEW))


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["method"])
def test_counts_are_exact_and_tied_tables_count_once(method: dict[str, Any], tied: bool, only: bool) -> None:
    chosen = tuning(method, also_train=BOTH, new_tokens_only=only)
    model = tiny_model(tie_word_embeddings=tied)
    facts = replace(facts_of(model), new_tokens=NEW)
    alone = trainable_parameters(tuning(method), facts)
    tables = 1 if tied else 2
    more = tables * (len(NEW) if only else 97) * 32
    assert trainable_parameters(chosen, facts) == alone + more
    tuned = build(chosen).prepare(model, Setting(new_tokens=NEW))
    assert tuned.trainable_count == alone + more


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["method"])
def test_named_weights_move_beside_the_method_and_nothing_else_does(
    method: dict[str, Any], tied: bool
) -> None:
    # mutation tried: requires_grad_(True) left out beside the method
    chosen = tuning(method, also_train=[*BOTH, "model.norm"])
    tuned = prepared(chosen, tie_word_embeddings=tied)
    start = {n: p.detach().clone() for n, p in tuned.model.named_parameters()}
    train(build(chosen), tuned)
    for name, parameter in tuned.model.named_parameters():
        assert torch.equal(parameter, start[name]) != (name in tuned.trainable), name
    lm: Any = tuned.model
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["method"])
def test_only_rows_of_new_tokens_move(method: dict[str, Any], tied: bool) -> None:
    # mutation tried: the table itself as rows
    chosen = tuning(method, also_train=BOTH, new_tokens_only=True)
    base = tiny_model(tie_word_embeddings=tied)
    tuned = prepared(chosen, tie_word_embeddings=tied)
    train(build(chosen), tuned)
    lm: Any = tuned.model
    others = [row for row in range(97) if row not in NEW]
    tables = (lm.get_input_embeddings(), lm.get_output_embeddings())
    for module, before in zip(tables, (base.get_input_embeddings(), base.get_output_embeddings())):
        after = module.weight
        assert torch.equal(after[others], before.weight[others])
        assert (after[list(NEW)] != before.weight[list(NEW)]).any(dim=1).all()


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma2", "gpt2", "phi", "cohere"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_get_the_gradient_that_the_whole_table_gets_there(family: str, tied: bool) -> None:
    # mutation tried: the gradient of the embedding's use left out; that of the head's; Gemma's scale left out
    names = {"gpt2": ["wte", "lm_head"]}.get(family, BOTH)
    grads = []
    for only in (False, True):
        chosen = tuning({"method": "lora", "rank": 3}, also_train=names, new_tokens_only=only)
        tuned = prepared(chosen, family=family, tie_word_embeddings=tied)
        found = gradients(tuned)
        grads.append([g for n, g in found.items() if "lora" not in n and not n.endswith("bias")])
    for whole, rows in zip(*grads):
        assert whole.shape[0] == 97
        assert rows.abs().max() > 0
        torch.testing.assert_close(rows, whole[list(NEW)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["method"])
def test_saved_and_attached_gives_the_same_function(
    method: dict[str, Any], tied: bool, only: bool, tmp_path: Path
) -> None:
    # mutation tried: attach without put_beside
    chosen = tuning(method, also_train=[*BOTH, *([] if only else ["model.norm"])], new_tokens_only=only)
    tuned = prepared(chosen, tie_word_embeddings=tied)
    train(build(chosen), tuned)
    build(chosen).save(tuned, tmp_path)
    attached: Any = build(chosen).attach(tiny_model(tie_word_embeddings=tied), tmp_path)
    torch.testing.assert_close(logits(attached), logits(tuned.model), atol=1e-6, rtol=1e-6)
    again: Any = attached.get_base_model() if hasattr(attached, "get_base_model") else attached
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied
    assert type(again.get_output_embeddings()) is torch.nn.Linear


PEFT_METHODS: list[dict[str, Any]] = [
    {"method": "lora", "rank": 3},
    {"method": "bitfit", "add_biases": True},
    {"method": "ia3"},
    {"method": "oft", "block": 8},
    {"method": "vera", "rank": 4},
]


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", PEFT_METHODS, ids=lambda m: m["method"])
def test_plain_peft_reads_it(method: dict[str, Any], tied: bool, only: bool, tmp_path: Path) -> None:
    # mutation tried: trainable_token_indices left out of the config; the tied head's tensor left out
    chosen = tuning(method, also_train=BOTH, new_tokens_only=only)
    tuned = prepared(chosen, tie_word_embeddings=tied)
    train(build(chosen), tuned)
    build(chosen).save(tuned, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(tiny_model(tie_word_embeddings=tied), str(tmp_path))
    ours: Any = tuned.model
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        for model in (plain, ours):
            getattr(model, "get_base_model", lambda model=model: model)().set_attn_implementation("sdpa")
        torch.testing.assert_close(plain(ids).logits, ours.eval()(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "method", [m for m in METHODS if m["method"] != "adapter"], ids=lambda m: m["method"]
)
def test_merging_includes_it(method: dict[str, Any], tied: bool, only: bool) -> None:
    chosen = tuning(method, also_train=BOTH, new_tokens_only=only)
    tuned = prepared(chosen, tie_word_embeddings=tied)
    train(build(chosen), tuned)
    before = logits(tuned.model)
    merged: Any = build(chosen).merge(tuned.model)
    torch.testing.assert_close(logits(merged), before, atol=2e-5, rtol=2e-5)
    assert type(merged.get_output_embeddings()) is torch.nn.Linear
    assert not any("rows" in name or "few" in name for name, _ in merged.named_parameters())


EVERY = [name for name, info in TABLE.items() if not info.can.whole]
SMALL: dict[str, dict[str, Any]] = {"vera": {"rank": 4}, "oft": {"block": 8}, "bitfit": {"add_biases": True}}


@pytest.mark.parametrize("tied", [False, True], ids=["untied, rows", "tied, whole"])
@pytest.mark.parametrize("name", EVERY)
def test_it_goes_with_every_method(name: str, tied: bool, tmp_path: Path) -> None:
    chosen = tuning({"method": name, **SMALL.get(name, {})}, also_train=BOTH, new_tokens_only=not tied)
    facts = replace(facts_of(tiny_model(tie_word_embeddings=tied)), new_tokens=NEW)
    assert capability_problems(chosen, facts) == []
    method = build(chosen)
    setting = Setting(steps=20, words=lambda text: [5, 6, 7], sample=lambda: iter([BATCH]), new_tokens=NEW)
    tuned = method.prepare(tiny_model(tie_word_embeddings=tied), setting)
    assert tuned.trainable_count == trainable_parameters(chosen, facts)
    train(method, tuned)
    method.save(tuned, tmp_path)
    attached = method.attach(tiny_model(tie_word_embeddings=tied), tmp_path)
    torch.testing.assert_close(logits(attached), logits(tuned.model), atol=1e-4, rtol=1e-4)
    loaded = load_adapter(tiny_model(tie_word_embeddings=tied), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(tuned.model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
def test_checkpointed_layers_give_the_same_gradients(only: bool) -> None:
    chosen = tuning({"method": "lora", "rank": 3}, also_train=BOTH, new_tokens_only=only)
    grads = []
    for checkpointing in (False, True):
        model = tiny_model()
        tuned = build(chosen).prepare(model, Setting(new_tokens=NEW))
        if checkpointing:
            checkpoint_layers(model)
        grads.append(gradients(tuned))
    for name, grad in grads[0].items():
        assert (grads[1][name] - grad).norm() <= 1e-6 * grad.norm() + 1e-9, name


@pytest.mark.parametrize("only", [False, True], ids=["whole", "rows"])
def test_beside_bf16_weights_masters_are_fp32(only: bool, tmp_path: Path) -> None:
    chosen = tuning({"method": "lora", "rank": 3}, also_train=BOTH, new_tokens_only=only)
    tuned = prepared(chosen, dtype=torch.bfloat16)
    assert {p.dtype for p in tuned.trainable.values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_loss(tuned.model, BATCH)
    loss.backward()
    assert all(p.grad is not None for p in tuned.trainable.values())
    train_under_autocast(chosen, tuned)
    build(chosen).save(tuned, tmp_path)
    attached = build(chosen).attach(tiny_model(dtype=torch.bfloat16), tmp_path)
    held = dict(tuned.model.named_parameters())
    assert all(
        torch.equal(p, held[name]) and p.dtype == held[name].dtype
        for name, p in attached.named_parameters()
        if name in held
    )
    with torch.autocast(
        "cpu", torch.bfloat16
    ):  # there each layer by itself, here as one node: other roundings
        torch.testing.assert_close(logits(attached), logits(tuned.model), atol=0.15, rtol=0)


def train_under_autocast(chosen: Tuning, tuned: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        train(build(chosen), tuned, steps=2)


def test_tables_and_rows_do_not_decay_and_learn_no_faster_than_weights_may() -> None:
    # mutation tried: also_scale = 1; rows of the head decaying
    from tunesmith.recipe import Optim

    for only in (False, True):
        also = BOTH if only else ["embed_tokens", "model.norm"]
        chosen = tuning({"method": "ia3"}, also_train=also, new_tokens_only=only)
        tuned = prepared(chosen)
        groups = build(chosen).parameter_groups(tuned, Optim(weight_decay=0.1))
        beside = {id(p) for p in tuned.beside.values()}
        assert {g.weight_decay for g in groups for p in g.parameters if id(p) in beside} == {0.0}
        assert {g.lr_scale for g in groups for p in g.parameters if id(p) in beside} == {2e-4 / 5e-3}
        assert {g.lr_scale for g in groups for p in g.parameters if id(p) not in beside} == {1.0}


@pytest.mark.parametrize("method", ["full", "galore"])
def test_where_every_weight_trains_it_changes_nothing(method: str) -> None:
    facts = facts_of(tiny_model())
    chosen = tuning({"method": method}, also_train=BOTH)
    assert capability_problems(chosen, facts) == []
    assert footprint(chosen, facts) == footprint(tuning({"method": method}), facts)


@pytest.mark.parametrize(
    ("method", "more", "where"),
    [
        ({"method": "full"}, {"also_train": BOTH, "new_tokens_only": True}, "tuning.new_tokens_only"),
        ({"method": "lisa"}, {"also_train": ["layers.0"]}, "tuning.also_train"),
        ({"method": "lora"}, {"also_train": ["mlp.down_proj"]}, "tuning.also_train"),
        ({"method": "adapter"}, {"also_train": ["layers.1"]}, "tuning.also_train"),
        ({"method": "ln", "base": "nf4"}, {"also_train": ["q_proj"]}, "tuning.also_train"),
    ],
    ids=lambda value: str(value.get("method", "")) if isinstance(value, dict) else "",
)
def test_what_cannot_train_beside_is_refused_from_the_config(
    method: dict[str, Any], more: dict[str, Any], where: str
) -> None:
    [problem] = capability_problems(tuning(method, **more), facts_of(tiny_model(num_hidden_layers=3)))
    assert problem.where == where
    assert problem.fix
