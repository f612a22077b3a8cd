"""Peak memory by term: exact where it is arithmetic, near what torch really allocates over a whole step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.model.facts import facts_from_config
from tunesmith.plan.activations import layer_costs, numbers, recomputed_layers
from tunesmith.plan.memory import Load, forecast_memory
from tunesmith.recipe import (
    IA3,
    AdaLora,
    Adapter,
    BitFit,
    Freeze,
    Full,
    GaLore,
    LayerNorms,
    Lisa,
    Lora,
    LoraDrop,
    LoraFA,
    Oft,
    PLora,
    Prefix,
    Prompt,
    PTuning,
    PTuningV2,
    ReLora,
    Tuning,
    Vera,
)  # fmt: skip
from tunesmith.tuning.method import Moments, Setting

pytestmark = pytest.mark.usefixtures("mkl_multiplies")
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 352,
        "num_hidden_layers": 4, "num_attention_heads": 4,
    },
    "qwen2": {
        "model_type": "qwen2", "vocab_size": 6000, "hidden_size": 96, "intermediate_size": 320,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "qwen3": {
        "model_type": "qwen3", "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    },
}  # fmt: skip
TUNINGS: dict[str, Tuning] = {
    "full": Full(method="full"),
    "freeze": Freeze(method="freeze", last_layers=2),
    "lora": Lora(method="lora"),
}
OTHERS: list[Tuning] = [
    Lora(method="lora", variant="dora"),
    Lora(method="lora", dropout=0.1),
    Lora(method="lora", init="pissa"),
    Lora(method="lora", base="nf4"),
    Lora(method="lora", base="fp4", double_quant=False),
    LoraFA(method="lora_fa"),
    Vera(method="vera", rank=64),
    AdaLora(method="adalora"),
    ReLora(method="relora"),
    PLora(method="plora"),
    LoraDrop(method="lora_drop"),
    IA3(method="ia3"),
    Oft(method="oft"),
    Adapter(method="adapter"),
    BitFit(method="bitfit", add_biases=True),
    LayerNorms(method="ln"),
    Lisa(method="lisa", layers=1),
    GaLore(method="galore", rank=16),
    Prefix(method="prefix"),
    PTuningV2(method="p_tuning_v2"),
    Prompt(method="prompt"),
    PTuning(method="p_tuning"),
]
BASE = Load(
    facts=facts_from_config(CONFIGS["llama"]), tuning=TUNINGS["lora"], device="cpu", bf16=False, frozen_bytes=4,
    checkpointing="off", tokens=1024, targets=512, accumulates=False, slack=1.0,
)  # fmt: skip


def allocated(load: Load) -> int:
    """The forecast of tensors alone."""
    return forecast_memory(load).allocated_bytes


def allocated_in_a_step(load: Load) -> int:
    """The same, evaluation left out."""
    return forecast_memory(load, whole_run=False).allocated_bytes


def measure_step(config: dict[str, Any], load: Load, micro_batches: int) -> int:
    """Peak of allocated tensors over a second step, from the profiler's memory events."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.data.samples import Sample
    from tunesmith.engine.optim import make_optimizer, set_rate
    from tunesmith.engine.step import Stepper
    from tunesmith.kernels import attention
    from tunesmith.model.lean import lean
    from tunesmith.model.load import checkpoint_layers
    from tunesmith.model.quantised import Held, hold
    from tunesmith.objectives.language_modelling import summed_loss
    from tunesmith.recipe import Optim
    from tunesmith.tuning.build import build

    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation=attention.NAME
    )
    lean(model)
    hold(model, Held.by(load.tuning))
    method = build(load.tuning)
    tuned = method.prepare(model, Setting(steps=100))
    tuned.model.train()
    if load.recomputed:
        trains = load.trains
        costs = layer_costs(load.facts, trains, numbers(trains, load.bf16), 1.0)
        checkpoint_layers(model, recomputed_layers(costs, load.recomputed))
    optimizer = make_optimizer(method.parameter_groups(tuned, Optim()), (0.9, 0.999))
    set_rate(optimizer, 1e-4)
    ids = np.arange(128, dtype=np.int32)
    labels = np.where(ids < 64, -100, ids).astype(np.int32)
    count = load.tokens // 128 * micro_batches
    # each begins like no other: beginnings that are alike would be computed once
    samples = [Sample((ids + 7 * n) % 1000, labels, f"a:{n}") for n in range(count)]

    stepper = Stepper(
        tuned,
        optimizer,
        method.hooks(tuned, Moments(optimizer)),
        summed_loss,
        packing=True,
        autocast=False,
        grad_clip=1.0,
    )
    stepper.take(1, samples, 64 * len(samples), load.tokens)
    states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    kept = [*tuned.model.parameters(), *states, *_scales(model)]
    held = sum(t.numel() * t.element_size() for t in kept)
    return held + peak_of(lambda: stepper.take(2, samples, 64 * len(samples), load.tokens))


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once, beside those that were before."""
    import torch

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _scales(model: Any) -> Iterator[Any]:
    """Tensors that belong to weights in 4 bits."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        for one in (state, getattr(state, "state2", None)):
            if one is not None:
                yield from (one.absmax, one.code)


# mutation tried: no gradient of the head, one chunk of logits, gradients of a first micro-batch forgotten
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("checkpointing", ["off", 2, "full"])
@pytest.mark.parametrize("method", TUNINGS)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_forecast_is_near_what_a_step_allocates(
    family: str, method: str, checkpointing: Any, micro_batches: int
) -> None:
    load = replace(
        BASE, facts=facts_from_config(CONFIGS[family]), tuning=TUNINGS[method], checkpointing=checkpointing,
        accumulates=micro_batches > 1,
    )  # fmt: skip
    measured = measure_step(CONFIGS[family], load, micro_batches)
    assert allocated_in_a_step(load) == pytest.approx(measured, rel=0.05)


SHAPES: list[dict[str, Any]] = [
    {}, {"num_key_value_heads": 2}, {"intermediate_size": 900}, {"vocab_size": 9000},
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_forecast_of_evaluation_is_what_it_allocates(shape: dict[str, Any]) -> None:
    import numpy as np
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.data.samples import Sample, collect
    from tunesmith.evaluation.heldout import held_out_loss
    from tunesmith.kernels import attention
    from tunesmith.model import load as _registers_packed_attention
    from tunesmith.model.lean import lean
    from tunesmith.plan.memory import _phases

    assert _registers_packed_attention

    config = {**CONFIGS["llama"], "vocab_size": 64, **shape}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), attn_implementation=attention.NAME
    )
    lean(model)
    ids = np.arange(128, dtype=np.int32) % 60
    labels = np.where(np.arange(128) < 64, -100, ids).astype(np.int32)
    rows = collect([Sample(ids, labels, "a:1")] * 8)
    measured = peak_of(lambda: held_out_loss(model, rows, 1024))
    load = replace(BASE, facts=facts_from_config(config))
    assert sum(_phases(load)["evaluation"].values()) == pytest.approx(measured, rel=0.01)


def test_in_bf16_on_a_processor_what_fills_up_is_counted() -> None:
    # mutation tried: the tokens of the text alone
    narrow = replace(BASE, bf16=True, tokens=1987, targets=803)
    assert (narrow.computed, narrow.asked) == (2048, 832)
    for other in (replace(narrow, bf16=False), replace(narrow, packed=False), replace(narrow, device="cuda")):
        assert (other.computed, other.asked) == (1987, 803)


# mutation tried: copies of the queries alone; counted in fp32, too; a piece's gradients kept beside the next copies
@pytest.mark.parametrize("documents", [4, 9])
def test_what_attention_goes_back_in_fp32_where_it_computes_in_bf16_is_counted(documents: int) -> None:
    import torch

    from tunesmith.kernels import wide_backward
    from tunesmith.plan.backward import _widened

    facts = replace(BASE.facts, heads=4, head_dim=32)
    load = replace(
        BASE, facts=facts, bf16=True, tokens=documents * 128, targets=documents * 128, length=128.0
    )
    query, key, value = (torch.randn(documents, 4, 128, 32).bfloat16().requires_grad_() for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = wide_backward.attend(query, key, value, None, None)
    slope = torch.randn_like(out)
    measured = peak_of(lambda: torch.autograd.grad(out, (query, key, value), slope)) - 3 * query.nbytes
    # beside them stand the kernel's own sums, and the slope laid straight
    assert _widened(load, 2, float(load.computed)) == pytest.approx(measured, rel=0.15)
    assert _widened(load, 4, float(load.computed)) == 0
    assert _widened(replace(load, length=300.0), 2, float(load.computed)) == 0


# mutation tried: two tables in the backward of the head; an embedding's beside all gradients where it is not tied
@pytest.mark.parametrize("layers", [2, 6])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_a_large_table_is_held_as_often_as_is_forecast(tied: bool, micro_batches: int, layers: int) -> None:
    shape = {"vocab_size": 20_000, "hidden_size": 512, "num_hidden_layers": layers}
    config = {**CONFIGS["llama"], **shape, "tie_word_embeddings": tied}
    facts = facts_from_config(config)
    load = replace(BASE, facts=facts, tuning=TUNINGS["full"], accumulates=micro_batches > 1)
    assert allocated_in_a_step(load) == pytest.approx(measure_step(config, load, micro_batches), rel=0.02)


# mutation tried: no ended stages, no importance scores, no copies of y for DoRA
@pytest.mark.parametrize("tuning", OTHERS, ids=str)
def test_the_forecast_of_every_method_is_near_what_a_step_allocates(tuning: Tuning) -> None:
    load = replace(BASE, tuning=tuning, length=128.0)
    measured = measure_step(CONFIGS["llama"], load, 1)
    assert allocated_in_a_step(load) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("method", TUNINGS)
def test_weights_gradients_and_states_are_arithmetic(method: str) -> None:
    from tunesmith.tuning.footprint import trainable_parameters

    load = replace(BASE, tuning=TUNINGS[method], accumulates=True, frozen_bytes=2)
    terms = forecast_memory(load).terms
    trainable = trainable_parameters(load.tuning, load.facts)
    own = 0 if method == "lora" else trainable
    assert terms["weights"] == 2 * (load.facts.parameters - own) + 4 * own
    assert terms["adapters"] == (4 * trainable if method == "lora" else 0)
    assert terms["optimiser states"] == 8 * trainable
    assert terms["gradients"] == 4 * trainable


@pytest.mark.parametrize("kind", ["adamw", "adamw_bf16", "adamw_8bit"])
def test_the_states_of_each_optimiser_are_as_many_bytes_as_it_holds(kind: Any) -> None:
    import torch

    from tunesmith.engine.optim import make_optimizer
    from tunesmith.plan.memory import STATE_BYTES
    from tunesmith.tuning.method import ParameterGroup

    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((256, 64), (64, 128))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = make_optimizer([ParameterGroup(tuple(weights), 0.0)], (0.9, 0.999), kind)
    optimizer.step()
    held = sum(v.nbytes for state in optimizer.state.values() for name, v in state.items() if name != "step")
    assert held == STATE_BYTES[kind] * sum(weight.numel() for weight in weights)


@given(
    tokens=st.integers(1, 20_000),
    share=st.floats(0, 1),
    method=st.sampled_from(sorted(TUNINGS)),
    device=st.sampled_from(["cpu", "cuda"]),
    level=st.sampled_from(["off", "full"]),
    bf16=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_terms_are_never_negative_and_more_tokens_never_need_less(
    tokens: int, share: float, method: str, device: Any, level: Any, bf16: bool
) -> None:
    load = replace(
        BASE, tuning=TUNINGS[method], device=device, checkpointing=level, bf16=bf16, tokens=tokens,
        targets=max(1, int(tokens * share)),
    )  # fmt: skip
    memory = forecast_memory(load)
    assert all(count >= 0 for count in memory.terms.values())
    assert sum(memory.terms.values()) == memory.peak_bytes <= memory.device_bytes
    more = replace(load, tokens=2 * tokens, targets=2 * load.targets)
    assert allocated(more) >= allocated(load)


def test_blocks_that_are_given_back_at_once_cost_nothing_extra() -> None:
    wide = facts_from_config({**CONFIGS["llama"], "hidden_size": 8192, "intermediate_size": 16384})
    load = replace(BASE, facts=wide, tokens=4096)
    assert forecast_memory(load).terms["allocator"] == 0
    assert forecast_memory(BASE).terms["allocator"] > 0


def test_logits_on_a_card_are_made_by_bytes_and_never_take_much_of_it() -> None:
    llama = facts_from_config({**CONFIGS["llama"], "vocab_size": 128_256})
    load = replace(
        BASE, facts=llama, device="cuda", bf16=True, frozen_bytes=2, tuning=TUNINGS["lora"], tokens=16_384
    )
    load = replace(load, targets=16_384)

    def logits(card: int) -> int:
        hidden = load.targets * llama.hidden_size * 2
        return forecast_memory(replace(load, card_bytes=card)).phases["loss"]["head"] - hidden

    big, small = logits(80 * 2**30), logits(8 * 2**30)
    tile = 128 * 128_256 * 2  # of a product: whole ones only
    assert 512 * 2**20 - tile < big <= 512 * 2**20
    assert 256 * 2**20 - tile < small <= 256 * 2**20
    assert big > 2000 * 128_256 * 2  # rows enough for a product to fill the card


# mutation tried: exponentials beside the gradient whatever its width, in the kernel; in the forecast
@pytest.mark.parametrize("targets", [60, 600])
@pytest.mark.parametrize(("trains", "size"), [(False, 32), (True, 32), (True, 128), (True, 640)])
def test_the_head_holds_one_chunk_of_logits_and_never_a_second(targets: int, trains: bool, size: int) -> None:
    import torch

    from tunesmith.kernels import head
    from tunesmith.plan.head import chunk_bytes

    vocabulary = 50_000
    hidden = torch.randn(targets, size, requires_grad=True)
    weight = torch.randn(vocabulary, size, requires_grad=trains)
    most = peak_of(lambda: head.summed_loss(hidden, weight, torch.zeros(targets, dtype=torch.long)))
    facts = replace(BASE.facts, vocab_size=vocabulary, hidden_size=size)
    tuning = TUNINGS["full" if trains else "lora"]
    forecast = chunk_bytes(replace(BASE, facts=facts, targets=targets, frozen_bytes=4, tuning=tuning), 4)
    # beside it stand a dozen numbers a row, for a block's four thousand bytes
    assert most - trains * vocabulary * size * 4 == pytest.approx(forecast, rel=1.5e-2)


# mutation tried: saved_bytes told of no documents attended where they stand
def test_documents_that_stand_end_to_end_on_a_processor_need_less() -> None:
    packed = replace(BASE, length=64.0, slack=1.0)
    for other in (replace(packed, packed=False), replace(packed, length=20.0)):
        assert allocated(packed) < allocated(other)
        assert not other.apart


# mutation tried: the piece in every phase
def test_what_products_by_onednn_make_beside_is_in_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(name: str, phase: str) -> int:
        found = forecast_memory(replace(BASE, tuning=TUNINGS[name], tokens=4096)).phases[phase]
        return found["products"]

    hidden = BASE.facts.hidden_size
    assert products("lora", "backward of a layer") == products("full", "loss") == 0  # MKL multiplies
    monkeypatch.setenv("TUNESMITH_ONEDNN", "1")
    assert products("lora", "backward of a layer") == 4 * min(2**19, 4096 * hidden)
    assert products("full", "backward of a layer") == 4 * 4096 * hidden
    assert products("lora", "loss") == products("full", "loss") == products("full", "update") == 0
