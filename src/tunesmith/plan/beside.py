"""What each tuning method adds beside a linear layer: numbers it keeps for the backward pass, and work.

    x --(W)--> y      lora   keeps x and A x        vera   keeps A x and B(..)     bottleneck  keeps y, its inner twice
                      dora   keeps x, A x and y     ia3    keeps y (or x)          oft         keeps x, turned
Counted, like all in this room, to the byte for llama-like models (tests); small vectors included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.recipe import (
    IA3,
    AdaLora,
    Adapter,
    BitFit,
    Lora,
    LoraDrop,
    LoraFA,
    LowRank,
    Oft,
    PLora,
    Prefix,
    Prompt,
    PTuning,
    PTuningV2,
    ReLora,
    Tuned,
    Vera,
)
from tunesmith.tuning.footprint import inner_size, scaled_targets
from tunesmith.tuning.targets import all_targets, targets_of

if TYPE_CHECKING:
    from tunesmith.model.facts import Linear, ModelFacts


FP32, HALF = 4, 2


@dataclass(frozen=True, slots=True)
class Beside:
    """Beside one linear layer. Numbers a token: `kept` in the compute dtype, `wide` in fp32. `fixed`: bytes.

    `input`: the layer's own input is kept, shared with its neighbours unless `own`. `_back`: only where the input
    needs a gradient. `again`: of what is fixed, the bytes that a second call makes anew (autocast remembers its casts
    of weights that train, and of no others). `mask`: bytes a token. `node`: it is computed within ours
    (kernels/lora.py, mlp.py), which keeps s A, and B where it was cast. `work`: multiply-adds a token.
    """

    linear: Linear
    input: bool = False
    own: bool = False
    kept: int = 0
    wide: int = 0
    wide_back: int = 0
    fixed: int = 0
    fixed_back: int = 0
    again: int = 0
    mask: int = 0
    node: bool = False
    work: int = 0


def beside(tuning: Tuned, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """What stands beside the linear layers of a decoder layer; `cast`: they compute in bf16, its weights are fp32."""
    rule = _RULES.get(type(tuning))
    return rule(tuning, facts, layer, cast) if rule else []


def virtual_inputs(tuning: Tuned) -> int:
    """Learnt tokens in front of each document, that run through the whole model."""
    return tuning.length if isinstance(tuning, Prompt | PTuning) else 0


def virtual_keys(tuning: Tuned) -> int:
    """Learnt keys and values in front of each document, in each layer."""
    return tuning.length if isinstance(tuning, Prefix | PTuningV2) else 0


def encoder_bytes(tuning: Tuned) -> int:
    """What the small network that makes virtual tokens keeps: its inner values, once a micro-batch.

    Of an LSTM only the layers behind it: what torch keeps of the LSTM itself is its own affair.
    """
    match tuning:
        case Prefix(reparameterise=True):
            return tuning.length * tuning.hidden * FP32
        case PTuning():
            return 2 * tuning.length * tuning.hidden * FP32
        case _:
            return 0


def frozen_numbers(tuning: Tuned, facts: ModelFacts) -> int:
    """fp32 numbers that a method holds beside what trains: random matrices, ended stages, importance scores."""
    match tuning:
        case LoraFA():
            return sum(tuning.rank * linear.inputs for linear in all_targets(tuning.targets, facts))
        case Vera():
            targets = all_targets(tuning.targets, facts)
            return tuning.rank * (max(t.inputs for t in targets) + max(t.outputs for t in targets))
        case Lora() | ReLora() | PLora():
            frozen = _parts(tuning) - 1
            return frozen * sum(
                tuning.rank * (t.inputs + t.outputs) for t in all_targets(tuning.targets, facts)
            )
        case AdaLora():  # the score, its mean and its spread
            rank, targets = tuning.first_rank, all_targets(tuning.targets, facts)
            return 3 * sum(rank * (linear.inputs + linear.outputs + 1) for linear in targets)
        case _:
            return 0


def _lora(tuning: Lora | LoraDrop, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    if _parts(tuning) > 1:
        return _joined(tuning, facts, layer, cast)
    rank, dropout = tuning.rank, isinstance(tuning, Lora) and tuning.dropout > 0
    targets = targets_of(tuning.targets, facts, layer)
    if isinstance(tuning, Lora) and tuning.variant == "dora":
        return [_dora(linear, rank, dropout, cast) for linear in targets]
    return [_in_node(linear, rank, cast, input=True, mask=linear.inputs * dropout) for linear in targets]


def _in_node(
    linear: Linear, rank: int, cast: bool, input: bool = False, mask: int = 0, joined: bool = False
) -> Beside:
    """An update computed within a node; joined: its B is laid together of several, and so kept in any case."""
    fixed = rank * linear.inputs * (HALF if cast else FP32)
    fixed += rank * linear.outputs * (HALF if cast else FP32 * joined)
    return Beside(
        linear,
        input=input,
        kept=rank,
        fixed=fixed,
        again=fixed,
        mask=mask,
        node=True,
        work=rank * (linear.inputs + linear.outputs),
    )


def _dora(linear: Linear, rank: int, dropout: bool, cast: bool) -> Beside:
    """The row lengths of W + s B A, and the output before it is scaled; in fp32 by a node, that keeps s A."""
    of_a = rank * linear.inputs * FP32 * (not cast and not dropout)
    return Beside(
        linear,
        input=True,
        own=dropout,
        kept=rank + linear.outputs,
        wide_back=linear.inputs * dropout,
        fixed=rank * linear.outputs * HALF * cast + 2 * linear.outputs * FP32 + of_a,
        fixed_back=rank * linear.inputs * HALF * cast,
        again=2 * linear.outputs * FP32 + of_a,
        work=rank * (linear.inputs + linear.outputs),
    )


def _joined(tuning: LowRank, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """Frozen updates stand beside the one that trains: one update of all their ranks, laid side by side."""
    rank = tuning.rank * _parts(tuning)
    targets = targets_of(tuning.targets, facts, layer)
    return [_in_node(linear, rank, cast, input=True, joined=True) for linear in targets]


def _parts(tuning: LowRank) -> int:
    """Updates side by side: stages (of ReLoRA's with a fixed length, whose number is not known yet, four), a twin."""
    match tuning:
        case PLora():
            return tuning.stages
        case ReLora():
            return round(1 / tuning.every) if tuning.every < 1 else 4
        case Lora(init="pissa" | "olora"):
            return 2
        case _:
            return 1


def _lora_fa(tuning: LoraFA, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """A is frozen: no input is kept."""
    return [_in_node(linear, tuning.rank, cast) for linear in targets_of(tuning.targets, facts, layer)]


def _vera(tuning: Vera, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    rank = tuning.rank
    return [
        Beside(
            linear,
            kept=rank + linear.outputs,
            fixed=rank * linear.outputs * HALF * cast,
            fixed_back=rank * linear.inputs * HALF * cast,
            again=rank * (linear.inputs + linear.outputs) * HALF * cast,
            work=rank * (linear.inputs + linear.outputs),
        )
        for linear in targets_of(tuning.targets, facts, layer)
    ]


def _adalora(tuning: AdaLora, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """The product of Q and L is kept, and the number of ranks that are left."""
    rank = tuning.first_rank
    return [
        Beside(
            linear,
            input=True,
            own=cast,
            kept=rank + linear.outputs * cast,
            fixed=rank * linear.outputs * HALF * cast + FP32,
            fixed_back=rank * linear.inputs * (HALF if cast else FP32),
            again=rank * (linear.outputs * HALF * cast + linear.inputs * (HALF if cast else FP32)) + FP32,
            work=rank * (linear.inputs + linear.outputs),
        )
        for linear in targets_of(tuning.targets, facts, layer)
    ]


def _ia3(tuning: IA3, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """Outputs, or the inputs of the feed-forward's last layer, times a learnt vector."""
    last = facts.spelling.mlp_out
    return [
        Beside(linear, wide=linear.inputs, fixed=linear.inputs * FP32, work=linear.inputs)
        if linear.name == last
        else Beside(
            linear,
            kept=linear.outputs,
            fixed_back=linear.outputs * FP32,
            again=linear.outputs * FP32,
            work=linear.outputs,
        )
        for linear in targets_of(scaled_targets(tuning, facts), facts, layer)
    ]


def _oft(tuning: Oft, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """Each block's Cayley series keeps three matrices and their places."""
    block = tuning.block
    return [
        Beside(
            linear,
            input=True,
            own=cast,
            fixed=(3 * block + 1) * linear.inputs * FP32,
            fixed_back=block * linear.inputs * HALF * cast,
            again=(3 * block + 1) * linear.inputs * FP32 + block * linear.inputs * HALF * cast,
            work=block * linear.inputs,
        )
        for linear in targets_of(tuning.targets, facts, layer)
    ]


def _adapter(tuning: Adapter, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """Behind attention and feed-forward: the bottleneck's input, and its inner values before and after act."""
    family, hidden = facts.spelling, facts.hidden_size
    inner = inner_size(tuning, hidden)
    places = (family.attention_out, family.mlp_out) if tuning.placement == "houlsby" else (family.mlp_out,)
    linears = {linear.name: linear for linear in facts.linears_of(layer)}
    weight = hidden * inner * HALF * cast
    return [
        Beside(
            linears[name], kept=hidden + 2 * inner, fixed=weight, fixed_back=weight, work=2 * hidden * inner
        )
        for name in places
        if name in linears
    ]


def _bitfit(tuning: BitFit, facts: ModelFacts, layer: int, cast: bool) -> list[Beside]:
    """An added bias keeps nothing; its gradient is a sum."""
    if not tuning.add_biases:
        return []
    return [Beside(linear) for linear in targets_of(tuning.targets, facts, layer) if not linear.bias]


_RULES: Mapping[type[Tuned], Callable[[Any, ModelFacts, int, bool], list[Beside]]] = {
    Lora: _lora, ReLora: _joined, PLora: _joined, LoraDrop: _lora, LoraFA: _lora_fa, Vera: _vera,
    AdaLora: _adalora, IA3: _ia3, Oft: _oft, Adapter: _adapter, BitFit: _bitfit,
}  # fmt: skip
