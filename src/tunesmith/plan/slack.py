"""What is held beside the tensors of a phase: libraries, freed blocks of no more use, pieces of a product."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tunesmith.kernels.processor import LEAST, PIECE, onednn_is_quicker
from tunesmith.plan.activations import FP32
from tunesmith.plan.head import held_bytes, in_blocks

if TYPE_CHECKING:
    from tunesmith.plan.memory import Load

# Python, torch, transformers, peft and the tokenizer in memory; on CUDA cuBLAS workspaces and the like. A whole run
# has more in memory than its steps: what reads, evaluates, generates and writes (measured, docs/plan.md). Triton is
# imported by torch wherever it is installed.
FRAMEWORK_BYTES: Mapping[str, int] = {"cpu": 365 * 2**20, "cuda": 96 * 2**20}
RUN_BYTES: Mapping[str, int] = {"cpu": 48 * 2**20, "cuda": 0}
TRITON_BYTES = 75 * 2**20

# What the allocator holds beyond the tensors. On CUDA: freed blocks that do not fit the next request (0.2% to
# 4.8% of five runs on an H200, with segments that grow). On a
# processor, as a share of what comes and goes in a step (measured, docs/plan.md): glibc reuses freed aligned
# blocks badly; those of 32 MiB and more go back to the system at once.
CUDA_SLACK = 0.02
CPU_SLACK: Mapping[str, float] = {"alone": 0.2, "accumulating": 0.5, "checkpointing": 1.2}
CPU_SLACK_LORA: Mapping[str, float] = {"alone": 0.3, "accumulating": 0.7, "checkpointing": 1.5}
RETURNED_BLOCK = 32 * 2**20


def framework_bytes(device: str, whole_run: bool) -> int:
    """What is imported, or what a card's libraries take."""
    triton = device == "cpu" and find_spec("triton") is not None
    return FRAMEWORK_BYTES[device] + TRITON_BYTES * triton + RUN_BYTES[device] * whole_run


def allocator_slack(load: Load, terms: Mapping[str, int]) -> float:
    """What the allocator holds beside the tensors of a phase."""
    if load.device == "cuda":
        return sum(terms.values()) * CUDA_SLACK
    rates = CPU_SLACK_LORA if load.trains.beside(0, False) else CPU_SLACK
    share = load.recomputed / load.facts.layers
    stored = rates["accumulating" if load.accumulates else "alone"]
    rate = share * rates["checkpointing"] + (1 - share) * stored
    moving = (terms["saved activations"] + terms["live layer"]) * _share_of_small_blocks(load)
    return rate * (moving + terms["head"] * _head_is_small(load))


def _head_is_small(load: Load) -> bool:
    """Whether a chunk of logits is a block that is not given back at once."""
    if in_blocks(load):
        return True
    return held_bytes(load, 2 if load.bf16 else FP32) < RETURNED_BLOCK


def _share_of_small_blocks(load: Load) -> float:
    """Share of the activations in blocks that are not given back at once, by the size of the two kinds."""
    facts, width = load.facts, 2 if load.bf16 else FP32
    kinds = ((4, facts.intermediate_size), (8, facts.hidden_size))  # so many blocks a layer, so wide
    small = sum(n * size for n, size in kinds if load.tokens * size * width < RETURNED_BLOCK)
    return small / sum(n * size for n, size in kinds)


def piece_bytes(load: Load, phase: str) -> int:
    """What a product by oneDNN makes beside its result (kernels/product.py), in the phases that have such products."""
    facts = load.facts
    if load.device != "cpu" or load.bf16 or not onednn_is_quicker():
        return 0
    stream = load.computed * facts.hidden_size
    if "backward" not in phase or stream * facts.intermediate_size < LEAST:
        return 0
    # where weights train a gradient as wide is copied; wider ones are when less is alive
    return FP32 * round(stream if _weights_train(load) else min(PIECE, stream))


def _weights_train(load: Load) -> bool:
    """Whether linear layers of the decoder train themselves, told by the last."""
    last = load.facts.layers - 1
    weights = {f"{load.facts.layer(last)}.{linear.name}.weight" for linear in load.facts.linears_of(last)}
    return not weights.isdisjoint(load.trains.names)
