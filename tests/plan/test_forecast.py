"""The plan: what auto becomes, whether it fits, and the contracted document; all of it without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tunesmith.errors import RecipeError
from tunesmith.model.facts import facts_from_config
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed
from tunesmith.plan.forecast import COPY, Plan, RunShape, make_plan
from tunesmith.plan.measured import COUNTED
from tunesmith.plan.slack import allocator_slack
from tunesmith.recipe import Recipe, parse

SMALL = facts_from_config(
    {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
     "num_attention_heads": 4, "vocab_size": 512}
)  # fmt: skip
SEVEN = facts_from_config(
    {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
     "num_attention_heads": 32, "vocab_size": 32000}
)  # fmt: skip
SHAPE = RunShape(steps=100, tokens=1_600_000, targets=800_000, step_tokens=16_000, longest=700)
CPU = Device("cpu", "a processor", 24 * 2**30, bf16=False)
CARD = Device("cuda", "NVIDIA H200", 140 * 2**30, bf16=True)
SPEED = Speed(flops=1e11, bytes=1e10, operator_seconds=1e-5)


def recipe(**values: Any) -> Recipe:
    return parse({"model": "some/model", "data": {"train": "rows.jsonl"}, **values})


def plan(facts: Any = SMALL, shape: RunShape | None = SHAPE, device: Device = CPU, **values: Any) -> Plan:
    return make_plan(recipe(**values), facts, shape, device, speed=SPEED)


def test_the_document_has_the_contracted_keys() -> None:
    found = plan().to_json()
    assert found == json.loads(json.dumps(found))
    assert {"fits", "device", "parameters", "memory", "run", "advice", "largest"} <= set(found)
    assert set(found["device"]) == {"kind", "name", "memory_bytes"}
    assert set(found["parameters"]) == {"total", "trainable"}
    assert {"terms", "peak_bytes", "phase", "error_share"} <= set(found["memory"])
    run = {"steps", "tokens", "targets", "seconds", "disk_bytes", "flops"}
    times = {"seconds_low", "seconds_high", "seconds_held_against", "seconds_of", "seconds_count", "busy"}
    assert run | times == set(found["run"])
    assert all(set(item) == {"rule", "reason", "source", "change"} for item in found["advice"])
    assert found["precision"] in ("fp32", "bf16")
    assert found["checkpointing"] in ("off", "full")


# mutation tried: leaving the allocator's term out of the sum
def test_the_terms_sum_to_the_peak() -> None:
    memory = plan().to_json()["memory"]
    assert sum(term["bytes"] for term in memory["terms"]) == memory["peak_bytes"]
    assert all(term["bytes"] >= 0 for term in memory["terms"])


def test_a_copy_is_held_only_where_training_goes_on_beside_it() -> None:
    # mutation tried: the copy always counts (a run of two steps: 3.9 GiB foreseen, 2.4 measured)
    assert COPY in plan(tuning={"method": "full"}).memory.terms
    assert COPY not in plan(tuning={"method": "full"}, checkpoint={"every": 100}).memory.terms
    assert COPY in plan(shape=None, tuning={"method": "full"}, checkpoint={"every": 100}).memory.terms


@pytest.mark.parametrize(("words", "counts"), [(512, True), (152_064, False)])
def test_a_head_whose_blocks_go_back_at_once_leaves_no_slack(words: int, counts: bool) -> None:
    # mutation tried: slack of any head (567 MiB foreseen at 152,000 words where 100 were)
    facts = replace(SMALL, vocab_size=words)
    load = plan(facts, tuning={"method": "full"}).load
    terms = {"saved activations": 0, "live layer": 0, "head": 2**20}
    assert (allocator_slack(load, terms) > 0) == counts


def test_parameters_are_those_of_the_base_and_of_the_method() -> None:
    found = plan(SEVEN, tuning={"method": "lora", "rank": 16}).to_json()
    assert found["parameters"] == {"total": 6_738_415_616, "trainable": 39_976_960}


def test_the_run_is_the_shape_and_without_data_it_is_unknown() -> None:
    run = plan().to_json()["run"]
    assert (run["steps"], run["tokens"], run["targets"]) == (100, 1_600_000, 800_000)
    assert run["seconds"] > 0
    unread = plan(shape=None)
    assert unread.to_json()["run"] == {
        "steps": None, "tokens": None, "targets": None, "seconds": None, "disk_bytes": unread.disk_bytes, "flops": None,
        "seconds_low": None, "seconds_high": None, "seconds_held_against": 0, "seconds_of": None, "busy": None,
        "seconds_count": COUNTED,
    }  # fmt: skip


def test_auto_takes_bf16_only_where_it_is_quicker() -> None:
    assert plan().precision == "fp32"
    assert plan(device=replace(CPU, bf16=True)).precision == "fp32"  # narrow
    assert plan(SEVEN, device=replace(CPU, bf16=True)).precision == "bf16"
    assert plan(compute={"precision": "bf16"}).precision == "bf16"
    assert plan(device=CARD, compute={"precision": "fp32"}).precision == "fp32"


# mutation tried: not raising the micro-batch to the longest sample
def test_micro_tokens_hold_the_longest_sample_and_no_more_than_a_step() -> None:
    assert plan().micro_tokens == 2048
    assert plan(shape=replace(SHAPE, longest=5000)).micro_tokens == 5000
    assert plan(shape=replace(SHAPE, step_tokens=900)).micro_tokens == 900
    assert plan(compute={"micro_tokens": 512}).micro_tokens == 512
    assert plan(device=CARD).micro_tokens == 16_000


def test_less_memory_means_smaller_micro_batches_then_checkpointing_then_refusal() -> None:
    def choice(gib: float) -> tuple[int, Any, bool]:
        found = plan(SEVEN, device=replace(CARD, memory_bytes=round(gib * 2**30)))
        return found.micro_tokens, found.checkpointing, found.fits

    assert choice(300) == (16_000, "off", True)
    micro, level, fits = choice(40)
    assert fits
    assert level == "off" or level < 8, "a few layers again, rather than many micro-batches"
    assert 700 <= micro < 16_000
    micro, level, fits = choice(17)
    assert 0 < level < 32, "as few layers as fit"
    assert fits
    least = plan(SEVEN, device=CARD, compute={"micro_tokens": 700, "checkpointing": "full"}).memory
    assert choice((least.device_bytes + 2**20) / 2**30) in ((700, "full", True), (700, 31, True))
    assert choice(10) == (700, "full", False)


def test_what_was_asked_for_is_not_changed_by_memory() -> None:
    tight = replace(CARD, memory_bytes=17 * 2**30)
    asked = plan(SEVEN, device=tight, compute={"checkpointing": "off", "micro_tokens": 16_384})
    assert (asked.checkpointing, asked.micro_tokens, asked.fits) == ("off", 16_384, False)


def test_a_plan_does_not_depend_on_how_busy_the_machine_is() -> None:
    slow = make_plan(recipe(), SMALL, SHAPE, CPU, speed=Speed(1e9, 1e8, 1e-3, busy=3.0))
    fast = plan()
    assert replace(slow, spans=None, step_seconds=None) == replace(fast, spans=None, step_seconds=None)


@pytest.mark.parametrize("device", [CPU, CARD], ids=["cpu", "cuda"])
def test_the_methods_stand_in_their_order(device: Device) -> None:
    shape = replace(SHAPE, step_tokens=1024)
    peaks = [
        plan(SEVEN, shape, device, tuning=method).peak_bytes
        for method in ({"method": "freeze", "last_layers": 1}, {"method": "lora"}, {"method": "full"})
    ]
    assert max(peaks[:2]) < peaks[2] / 2
    assert peaks[2] > 16 * SEVEN.parameters  # 16 bytes a parameter before any activation


def test_checkpointing_saves_memory_and_costs_time() -> None:
    off, full = (plan(SEVEN, device=CARD, compute={"checkpointing": level}) for level in ("off", "full"))
    assert full.peak_bytes < off.peak_bytes
    assert off.seconds is not None
    assert full.seconds is not None
    assert full.seconds > 1.2 * off.seconds


def test_time_grows_with_tokens_and_shrinks_with_frozen_layers() -> None:
    double = replace(SHAPE, tokens=2 * SHAPE.tokens, targets=2 * SHAPE.targets, steps=200)
    once, twice = plan(SEVEN).seconds, plan(SEVEN, double).seconds
    assert once is not None
    assert twice == pytest.approx(2 * once, rel=0.02)
    frozen = plan(SEVEN, tuning={"method": "freeze", "last_layers": 2}).seconds
    assert frozen is not None
    assert frozen < 0.6 * once


def test_disk_holds_the_kept_checkpoints_one_more_and_the_result() -> None:
    trainable = 4 * plan(tuning="full").parameters
    assert plan(tuning="full", checkpoint={"keep": 3}).disk_bytes == 5 * 3 * trainable + trainable


def test_the_largest_that_fits_does_fit_and_twice_as_much_does_not() -> None:
    device = replace(CARD, memory_bytes=40 * 2**30)
    found = plan(SEVEN, device=device)
    largest = found.largest
    fits = largest["methods"]
    assert [fits[name] for name in ("full", "galore", "freeze", "lora", "rslora", "qlora")] == [
        0,
        0,
        1,
        1,
        1,
        1,
    ]
    assert not fits["bitfit"], "a Llama has no biases"
    fit = largest["micro_tokens"]
    # of this shape documents are a little longer, and their attention with them
    for tokens, fits in ((int(0.99 * fit), True), (2 * fit, False)):
        shape = replace(SHAPE, step_tokens=10**6)
        compute = {"micro_tokens": tokens, "checkpointing": found.checkpointing}
        assert plan(SEVEN, shape, device, compute=compute).fits == fits


def test_the_rate_is_the_methods_own_unless_given() -> None:
    assert plan().lr == 2e-4
    assert plan(tuning="full").lr == 1e-5
    assert plan(optim={"lr": 3e-5}).lr == 3e-5


def test_a_target_the_model_lacks_is_told_before_anything_loads() -> None:
    with pytest.raises(RecipeError, match=r"tuning\.targets"):
        plan(tuning={"method": "lora", "targets": ["query"]})


def test_planning_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, tunesmith.plan.summary\n"
        "from tunesmith.model.facts import facts_from_config; from tunesmith.recipe import parse\n"
        "from tunesmith.plan.device import find_device\n"
        "from tunesmith.plan.forecast import RunShape, make_plan\n"
        "facts = facts_from_config(dict(model_type='llama', hidden_size=64, intermediate_size=160,\n"
        "    num_hidden_layers=2, num_attention_heads=4, vocab_size=512))\n"
        "recipe = parse({'model': 'm', 'data': {'train': 'x'}})\n"
        "plan = make_plan(recipe, facts, RunShape(10, 10000, 5000, 1000, 100), find_device())\n"
        "assert plan.fits and plan.seconds > 0\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
