"""One cell, measured: the peak of a step's tensors, and of the process. Runs as a process of its own.

python -m tunesmith.bench.cell '{"family": "llama", ...}'  ->  {"allocated_bytes": 1234, "resident_bytes": 5678}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.bench.cells import LEARNT_SHARE, Cell
from tunesmith.data.samples import Sample
from tunesmith.engine.optim import make_optimizer, set_rate
from tunesmith.engine.step import Stepper
from tunesmith.engine.world import peak_bytes
from tunesmith.kernels import attention
from tunesmith.model.lean import lean
from tunesmith.model.load import checkpoint_layers, without_dropout
from tunesmith.model.quantised import Held, hold
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.plan.activations import layer_costs, recomputed_layers
from tunesmith.recipe import Optim, OptimizerKind
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Moments, Setting


def measure(cell: Cell, device: str) -> dict[str, int]:
    """Peaks of a second step: the first makes the optimiser's states."""
    stepper, samples, weight = prepare(cell, device)
    stepper.take(1, samples, weight, cell.tokens)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        stepper.take(2, samples, weight, cell.tokens)
        torch.cuda.synchronize()
        allocated = torch.cuda.max_memory_allocated()
    else:
        resident = peak_bytes()
        before = sum(tensor.numel() * tensor.element_size() for tensor in held(stepper))
        allocated = before + peak_of(lambda: stepper.take(2, samples, weight, cell.tokens))
        return {"allocated_bytes": allocated, "resident_bytes": resident}
    return {"allocated_bytes": allocated, "resident_bytes": peak_bytes()}


def prepare(cell: Cell, device: str) -> tuple[Stepper, list[Sample], float]:
    """The engine's own step for a cell, with rows that fill its micro-batches."""
    torch.manual_seed(0)
    ours = {"attn_implementation": attention.NAME} if cell.facts.own_forward is None else {}
    lm = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**cell.config), dtype=torch.bfloat16 if cell.bf16 else torch.float32, **ours
    ).to(device)  # fmt: skip
    lean(without_dropout(lm))
    hold(lm, Held.by(cell.method))
    method = build(cell.method)
    tuned = method.prepare(lm, Setting(steps=100))
    tuned.model.train()
    load = cell.load(device)
    if load.recomputed:
        costs = layer_costs(load.facts, load.trains, load.numbers, 1.0)
        checkpoint_layers(lm, recomputed_layers(costs, load.recomputed))
    kind = cast(OptimizerKind, load.optimizer)
    optimizer = make_optimizer(method.parameter_groups(tuned, Optim()), (0.9, 0.999), kind)
    set_rate(optimizer, 1e-4)
    given = round(cell.length * (1 - LEARNT_SHARE))
    samples = [
        _row(number, cell.length, given) for number in range(cell.tokens // cell.length * cell.micro_batches)
    ]
    stepper = Stepper(
        tuned, optimizer, method.hooks(tuned, Moments(optimizer)), summed_loss,
        packing=True, autocast=cell.bf16, grad_clip=1.0,
    )  # fmt: skip
    return stepper, samples, float((cell.length - given) * len(samples))


def _row(number: int, length: int, given: int) -> Sample:
    """A row that begins like no other: beginnings that are alike would be computed once."""
    ids = (np.arange(length, dtype=np.int32) + 7 * number) % 4000
    labels = np.where(np.arange(length) < given, -100, ids).astype(np.int32)
    return Sample(ids, labels, f"bench:{number + 1}")


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once, beside those that were before: the profiler's memory events, summed."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        work()
    results: Any = profile.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def held(stepper: Stepper) -> Iterator[Tensor]:
    """What is there before the step begins: weights, scales of those in 4 bits, the optimiser's states."""
    yield from stepper.tuned.model.parameters()
    for state in stepper.optimizer.state.values():
        yield from (value for value in state.values() if torch.is_tensor(value))
    for parameter in stepper.tuned.model.parameters():
        quantised = getattr(parameter, "quant_state", None)
        for one in (quantised, getattr(quantised, "state2", None)):
            if one is not None:
                yield from (one.absmax, one.code)


if __name__ == "__main__":
    found = measure(Cell(**json.loads(sys.argv[1])), sys.argv[2])
    print(json.dumps(found))
