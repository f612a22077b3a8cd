"""Embedding and head in few bits: bytes as the tensors have them, what fits then, and where it is refused."""

from __future__ import annotations

import pytest

from tests.plan.test_ladder import GIB
from tests.tiny import tiny_model
from tunesmith.model.facts import facts_from_config
from tunesmith.model.quantised import Held, hold
from tunesmith.plan.choice import RunShape
from tunesmith.plan.device import Device
from tunesmith.plan.forecast import make_plan
from tunesmith.plan.head import chunk_bytes
from tunesmith.plan.memory import Load, forecast_memory, held_tables
from tunesmith.recipe import Lora, parse
from tunesmith.tuning.combinations import table_problems

pytestmark = pytest.mark.usefixtures("mkl_multiplies")
LLAMA_8B = facts_from_config({
    "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
})  # fmt: skip
CARD = Device("cuda", "NVIDIA GeForce RTX 4060", 8 * GIB, True)


def plan_8b(length, tuning, **compute):
    recipe = parse({
        "model": "m", "data": {"train": "x.jsonl", "max_length": length}, "tuning": {"method": "qlora", **tuning},
        "optim": {"batch_tokens": length}, "compute": compute,
    })  # fmt: skip
    return make_plan(recipe, LLAMA_8B, RunShape(100, 100 * length, 100 * length, length, length, 100), CARD)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bytes_are_those_of_codes_and_scales(family, bits):
    # mutation tried: a tied table counted twice
    lm = hold(tiny_model(family, hidden_size=64, head_dim=16), Held(None, tables=bits))
    tables = {id(m.table): m.table for m in (lm.get_input_embeddings(), lm.get_output_embeddings())}
    real = sum(table.codes.nbytes + table.scales.nbytes for table in tables.values())
    facts = facts_from_config(lm.config.to_dict())
    count, each = held_tables(Lora(method="lora", tables=bits), facts)
    assert count * each == real
    wide, held = (
        forecast_memory(
            Load(facts, Lora(method="lora", tables=b), "cpu", bf16=False, frozen_bytes=4, checkpointing="off",
                 tokens=64, targets=64, accumulates=False)
        ).terms["weights"]
        for b in (16, bits)
    )  # fmt: skip
    assert wide - held == count * 4 - real


@pytest.mark.parametrize("bits", [8, 4])
def test_the_head_holds_a_piece_of_the_vocabulary_at_once(bits, monkeypatch):
    import torch

    from tests.plan.test_memory import BASE, peak_of, replace
    from tunesmith.kernels import head
    from tunesmith.kernels.tables import Table

    for module in ("tunesmith.kernels.tables", "tunesmith.plan.head"):
        monkeypatch.setattr(f"{module}.PIECE_ELEMENTS", 2**18)
    vocabulary, size, targets = 20_000, 64, 600
    table = Table.of(torch.randn(vocabulary, size), bits)
    hidden = torch.randn(targets, size, requires_grad=True)
    most = peak_of(lambda: head.summed_loss(hidden, table, torch.zeros(targets, dtype=torch.long)))
    facts = replace(BASE.facts, vocab_size=vocabulary, hidden_size=size)
    tuning = Lora(method="lora", tables=bits)
    forecast = chunk_bytes(replace(BASE, facts=facts, targets=targets, frozen_bytes=4, tuning=tuning), 4)
    assert most == pytest.approx(forecast, rel=0.02)


def test_eight_billion_parameters_train_on_eight_gigabytes_at_4096_tokens():
    """performance.md's bar is 7.4 GiB reserved."""
    assert not plan_8b(4096, {}).fits
    for tuning, compute in (({"tables": 4}, {}), ({"tables": 8}, {"offload": "checkpoints"})):
        found = plan_8b(4096, tuning, **compute)
        assert found.fits
        assert found.peak_bytes <= 7.4 * GIB
    assert plan_8b(8192, {"tables": 4}, offload="checkpoints").fits


@pytest.mark.parametrize(
    ("tuning", "why"),
    [
        ({"method": "full"}, "trains"),
        ({"method": "lora", "also_train": ["lm_head"]}, "trains"),
        ({"method": "lora", "also_train": ["embed_tokens"]}, "trains"),
        ({"method": "lora", "also_train": ["embed_tokens", "lm_head"], "new_tokens_only": True}, "trains"),
        ({"method": "prompt"}, "rows of the embedding"),
    ],
    ids=str,
)
def test_it_is_refused_where_a_table_is_written_to(tuning, why):
    def section(tables):
        return parse({"model": "m", "data": {"train": "x"}, "tuning": {**tuning, "tables": tables}}).tuning

    (problem,) = table_problems(section(8), LLAMA_8B)
    assert problem.where == "tuning.tables"
    assert why in problem.what
    assert table_problems(section(16), LLAMA_8B) == []


def test_every_method_that_leaves_the_tables_alone_may_have_them_in_few_bits():
    for method in ("lora", "qlora", "lora_fa", "vera", "adapter", "prefix", "ia3", "freeze"):
        tuning = parse(
            {"model": "m", "data": {"train": "x"}, "tuning": {"method": method, "tables": 4}}
        ).tuning
        assert table_problems(tuning, LLAMA_8B) == [], method
