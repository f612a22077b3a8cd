"""The LoRA family and PEFT's other methods: counts, beginnings, gradients, files that plain PEFT loads, merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.tiny import random_samples, tiny_config, tiny_model
from tests.tuning.test_table import LLAMA_7B, MISTRAL_7B
from tunesmith.data.loader import collate
from tunesmith.model.facts import facts_from_config
from tunesmith.model.forward import causal_lm, learnt
from tunesmith.model.generate import generate
from tunesmith.model.load import checkpoint_layers
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import IA3, Lora, LoraFA, Oft, Optim, Tuning, Vera
from tunesmith.tuning.build import build
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.lora import conditioner
from tunesmith.tuning.lora_layers import lora_layers
from tunesmith.tuning.method import Moments, Setting, TunedModel
from tunesmith.tuning.table import capability_problems

BATCH = collate(list(random_samples(5)), packing=True)
SETTING = Setting(sample=lambda: iter([BATCH]))
TUNINGS: dict[str, Tuning] = {
    "dora": Lora(method="lora", rank=3, variant="dora"),
    "rslora": Lora(method="lora", rank=3, scaling="rslora"),
    "pissa": Lora(method="lora", rank=3, init="pissa"),
    "olora": Lora(method="lora", rank=3, init="olora", targets=("q_proj", "mlp.down_proj")),
    "eva": Lora(method="lora", rank=3, init="eva"),
    "everything": Lora(method="lora", rank=2, variant="dora", init="pissa", scaling="rslora", lr_ratio=4),
    "lora_plus": Lora(method="lora", rank=3, lr_ratio=16),
    "lora_fa": LoraFA(method="lora_fa", rank=3),
    "vera": Vera(method="vera", rank=6),
    "ia3": IA3(method="ia3"),
    "oft": Oft(method="oft", block=8),
}
everywhere = pytest.mark.parametrize("name", TUNINGS)


def hidden(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return learnt(model.eval(), BATCH).hidden


def prepared(name: str, model: Any = None) -> TunedModel:
    return build(TUNINGS[name]).prepare(model if model is not None else tiny_model(), SETTING)


def train(tuned: TunedModel, tuning: Tuning, steps: int = 3, bf16: bool = False) -> None:
    """As the engine does: groups, rates and hooks of the method."""
    method = build(tuning)
    groups = method.parameter_groups(tuned, Optim())
    assert sum(len(group.parameters) for group in groups) == len(tuned.trainable)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(g.parameters), "weight_decay": g.weight_decay, "lr": 1e-2 * g.lr_scale}
            for g in groups
        ]
    )
    hooks = method.hooks(tuned, Moments(optimizer))
    for step in range(1, steps + 1):
        with torch.autocast("cpu", enabled=bf16):
            loss = summed_loss(tuned.model, BATCH)
        loss.backward()
        hooks.before_step(step)
        optimizer.step()
        optimizer.zero_grad()


# --- counts -------------------------------------------------------------------------------------------------


# mutation tried: magnitudes of the inputs' size; A counted in LoRA-FA; IA3's last factor at the outputs
@pytest.mark.parametrize(
    ("tuning", "llama", "mistral"),
    [
        (Lora(method="lora", rank=16, variant="dora"), 41_336_832, 43_319_296),
        (Lora(method="lora", rank=16, scaling="rslora", init="pissa", lr_ratio=16), 39_976_960, 41_943_040),
        (LoraFA(method="lora_fa", rank=16), 21_757_952, 22_020_096),
        (Vera(method="vera", targets=("q_proj", "v_proj")), 278_528, 180_224),
        (Vera(method="vera"), 1_417_216, 1_433_600),
        (IA3(method="ia3"), 614_400, 524_288),
        (Oft(method="oft"), 17_649_664, 19_300_352),
    ],
    ids=lambda value: getattr(value, "method", ""),
)  # fmt: skip
def test_the_worked_counts_of_7b_models(tuning: Tuning, llama: int, mistral: int) -> None:
    assert trainable_parameters(tuning, LLAMA_7B) == llama
    assert trainable_parameters(tuning, MISTRAL_7B) == mistral


# mutation tried: the twin of pissa left trainable; A of lora_fa left trainable
@everywhere
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "phi3"])
def test_counts_equal_those_of_the_prepared_model(name: str, family: str) -> None:
    tuning = TUNINGS[name]
    facts = facts_from_config(tiny_config(family).to_dict())  # type: ignore[attr-defined]
    if name == "olora" and family != "llama":
        tuning = tuning.model_copy(update={"targets": "all_linear"})
    if capability_problems(tuning, facts):
        assert (name, family) == ("oft", "gpt2")
        return
    tuned = build(tuning).prepare(tiny_model(family), SETTING)
    assert tuned.trainable_count == trainable_parameters(tuning, facts)


# --- what trains, what does not -----------------------------------------------------------------------------


@everywhere
def test_only_what_trains_moves_and_all_of_it(name: str) -> None:
    base = tiny_model()
    own = {id(p): p.detach().clone() for p in base.parameters()}
    tuned = prepared(name, base)
    held = {id(p): p.detach().clone() for p in tuned.model.parameters() if not p.requires_grad}
    buffers = {key: b.clone() for key, b in tuned.model.named_buffers()}
    start = {key: p.detach().clone() for key, p in tuned.trainable.items()}
    train(tuned, TUNINGS[name])
    still = {id(p): p for p in tuned.model.parameters() if not p.requires_grad}
    assert own.keys() <= still.keys()
    assert all(torch.equal(p, held[key]) for key, p in still.items())
    assert all(torch.equal(b, buffers[key]) for key, b in tuned.model.named_buffers())
    assert all(not torch.equal(p, start[key]) for key, p in tuned.trainable.items())


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_nothing_changes_at_the_start(name: str, dtype: torch.dtype) -> None:
    # mutation tried: DoRA's lengths left as PEFT rounds them beside bf16 weights; the twin's sign turned
    base = tiny_model(dtype=dtype)
    with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
        before = hidden(base)
        after = hidden(prepared(name, base).model)
    if name in (
        "pissa",
        "olora",
        "everything",
    ):  # W x + s (B A - B0 A0) x, the bracket not always 0 to the last bit
        torch.testing.assert_close(after, before, atol=2e-5 if dtype == torch.float32 else 0.05, rtol=1e-5)
    else:
        assert torch.equal(after, before)


@everywhere
def test_a_method_is_a_function_of_the_seed(name: str) -> None:
    one, other = prepared(name), prepared(name)
    state = one.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.model.state_dict().items())


@everywhere
def test_the_base_is_there_again_without_the_adapter(name: str) -> None:
    before = hidden(tiny_model())
    tuned = prepared(name)
    train(tuned, TUNINGS[name])
    model: Any = tuned.model
    assert not torch.allclose(hidden(model), before, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(hidden(model), before)


@everywhere
def test_recomputed_layers_give_the_same_gradients(name: str) -> None:
    grads = []
    for checkpointing in (False, True):
        tuned = prepared(name, base := tiny_model())
        if checkpointing:
            checkpoint_layers(base)
        tuned.model.train()
        summed_loss(tuned.model, BATCH).backward()
        grads.append({key: p.grad for key, p in tuned.trainable.items()})
    for key, grad in grads[0].items():
        assert (grads[1][key] - grad).norm() <= 1e-6 * grad.norm() + 1e-9, key


@everywhere
def test_steps_in_bf16_are_near_those_in_fp32(name: str) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        tuned = prepared(name, tiny_model(dtype=dtype))
        assert {p.dtype for p in tuned.trainable.values()} == {torch.float32}
        train(tuned, TUNINGS[name], bf16=dtype == torch.bfloat16)
        with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
            losses.append(float(summed_loss(tuned.model, BATCH)))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# --- files and merges ---------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_plain_peft_loads_what_is_saved_and_a_merge_answers_alike(
    name: str, family: str, tmp_path: Path
) -> None:
    # mutation tried: the twin left out of the file; alpha of the joined file its rank's root
    tuning = TUNINGS[name]
    if name == "olora" and family != "llama":
        tuning = tuning.model_copy(update={"targets": "all_linear"})
    if (name, family) == ("oft", "gpt2"):
        return
    method = build(tuning)
    tuned = method.prepare(tiny_model(family), SETTING)
    train(tuned, tuning)
    expected = hidden(tuned.model)
    method.save(tuned, tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {"README.md"}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    plain = PeftModel.from_pretrained(tiny_model(family), tmp_path)
    torch.testing.assert_close(hidden(plain), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        hidden(method.attach(tiny_model(family), tmp_path)), expected, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(hidden(method.merge(plain)), expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(hidden(method.merge(tuned.model)), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["dora", "everything", "vera", "ia3", "oft"])
def test_answers_do_not_depend_on_cache_or_padding(name: str) -> None:
    tuned = prepared(name)
    train(tuned, TUNINGS[name])
    prompts = [[5, 6, 7, 8, 9], [11, 12]]
    together = generate(tuned.model, prompts, 6, stop_ids=[2], pad_id=0)
    assert together == [generate(tuned.model, [prompt], 6, stop_ids=[2], pad_id=0)[0] for prompt in prompts]
    causal_lm(tuned.model).set_attn_implementation("sdpa")
    ids = list(prompts[0])
    with torch.inference_mode():
        for token in together[0]:
            assert int(tuned.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


# --- DoRA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_dora_equals_pefts_in_value_and_gradient(family: str) -> None:
    # mutation tried: gradient through the lengths; bias inside the scaled part
    ours = build(TUNINGS["dora"]).prepare(tiny_model(family), SETTING).model
    config = LoraConfig(
        r=3, lora_alpha=6, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = get_peft_model(tiny_model(family), config)
    others = dict(theirs.named_parameters())
    with torch.no_grad():
        for key, mine in ours.named_parameters():
            if mine.requires_grad:
                noise = torch.randn(mine.shape, generator=torch.Generator().manual_seed(mine.numel()))
                others[key].copy_(mine.add_(0.1 * noise))
    losses = [summed_loss(model, BATCH) for model in (ours, theirs)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for key, mine in ours.named_parameters():
        if mine.requires_grad:
            assert (mine.grad - others[key].grad).norm() <= 1e-4 * others[key].grad.norm(), key


def test_dora_lengths_neither_decay_nor_learn_at_the_ratio_of_lora_plus() -> None:
    # mutation tried: every tensor but A into the fast group, as PEFT's optimiser does
    tuned = prepared("everything")
    groups = build(TUNINGS["everything"]).parameter_groups(tuned, Optim(weight_decay=0.1))
    kinds = {id(p): key for key, p in tuned.trainable.items()}
    found = {
        next(kind for kind in ("lora_A", "lora_B", "magnitude") if kind in kinds[id(p)]): (g.weight_decay, g.lr_scale)
        for g in groups
        for p in g.parameters
    }  # fmt: skip
    assert found == {"lora_A": (0.1, 1.0), "lora_B": (0.1, 4.0), "magnitude": (0.0, 1.0)}


# --- LoRA+ and LoRA-FA --------------------------------------------------------------------------------------


def test_lora_plus_with_ratio_one_is_lora_to_the_bit() -> None:
    results = []
    for ratio in (None, 1):
        tuning = Lora(method="lora", rank=3, lr_ratio=ratio)
        tuned = build(tuning).prepare(tiny_model(), SETTING)
        train(tuned, tuning)
        results.append(hidden(tuned.model))
    assert torch.equal(*results)


def test_lora_fa_steps_along_the_gradient_of_w_within_the_rows_of_a() -> None:
    # mutation tried: 1 / s instead of 1 / s^2; A^T A instead of A A^T
    a = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    full, scaling = torch.randn(10, 24, generator=torch.Generator().manual_seed(1)), 0.5
    grad_b = scaling * full @ a.t()  # what backward gives B
    step = scaling * (grad_b @ conditioner(a, scaling)) @ a
    rows = torch.linalg.svd(a, full_matrices=False)[2]
    torch.testing.assert_close(step, full @ rows.t() @ rows, atol=1e-5, rtol=1e-4)


def test_lora_fa_keeps_updates_in_the_rows_of_a() -> None:
    tuned = prepared("lora_fa")
    train(tuned, TUNINGS["lora_fa"])
    for _, layer in lora_layers(tuned.model):
        delta, a = layer.get_delta_weight("default"), layer.lora_A["default"].weight
        rows = torch.linalg.svd(a, full_matrices=False)[2]
        torch.testing.assert_close(delta @ rows.t() @ rows, delta, atol=1e-6, rtol=1e-4)


def saved_bytes(tuned: TunedModel, autocast: bool) -> int:
    """Bytes kept for backward, each storage once; weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in tuned.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tuned.model.train()
    with torch.autocast("cpu", enabled=autocast), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = summed_loss(tuned.model, BATCH)
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_lora_fa_keeps_no_inputs_for_the_gradient_of_a(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: the kernel saves x whether or not A needs a gradient
    monkeypatch.setattr(
        "tunesmith.kernels.documents.PRUNE_BELOW", 0
    )  # the last layer keeps as much as the others
    size, dtype = (2, torch.bfloat16) if autocast else (4, torch.float32)
    lora, fa = (
        saved_bytes(build(tuning).prepare(tiny_model(dtype=dtype), SETTING), autocast)
        for tuning in (Lora(method="lora", rank=3), TUNINGS["lora_fa"])
    )
    tokens, layers, d, a, f = BATCH.input_ids.numel(), 2, 32, 32, 48
    # inputs of q k v, of o (which this attention does not keep by itself), of gate and up, and of down
    assert (lora - fa) / (tokens * layers) == pytest.approx(size * (2 * d + a + f), rel=0.02)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_dora_keeps_far_less_for_backward_than_pefts(autocast: bool) -> None:
    # mutation tried: DoRA left to PEFT
    wide = {"hidden_size": 64, "intermediate_size": 192, "head_dim": 16}
    dtype = torch.bfloat16 if autocast else torch.float32
    ours = build(TUNINGS["dora"]).prepare(tiny_model(dtype=dtype, **wide), SETTING)
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = TunedModel(get_peft_model(tiny_model(dtype=dtype, **wide), config), {})
    assert saved_bytes(ours, autocast) < 0.7 * saved_bytes(theirs, autocast)


def test_the_joined_file_says_plain_lora_of_twice_the_rank(tmp_path: Path) -> None:
    tuned = prepared("pissa")
    build(TUNINGS["pissa"]).save(tuned, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (6, 6, True)
    assert (config["use_rslora"], config["use_dora"], config["peft_type"]) == (False, False, "LORA")
