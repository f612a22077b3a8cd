"""What a family without a row keeps for its backward pass: traced on one layer, else estimated.

what trains in a layer -> Asked -> facts.trace (runs it once under fake tensors) -> bytes + what the method adds beside
Its own forward makes all logits: their logarithms at the targets are kept as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.model.facts import Asked, Bytes
from tunesmith.plan.beside import FP32, Beside
from tunesmith.plan.walk import LayerCost

if TYPE_CHECKING:
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.activations import Numbers, Trains

INDEX = 8


def unknown_layer_cost(
    facts: ModelFacts, trains: Trains, layer: int, flows: bool, size: Numbers, length: float
) -> LayerCost:
    """Saved bytes of a decoder layer; `flows` says whether its input needs a gradient."""
    added = trains.beside(layer, size.compute < FP32)
    asked = _asked(facts, trains, layer, flows, size, added)
    if not (flows or added or asked.trains):
        return LayerCost(0.0, 0.0, 0, False)
    beside = sum(
        one.kept * size.compute
        + (one.wide + one.wide_back * flows) * FP32
        + one.linear.inputs * size.compute * one.own
        for one in added
    )
    fixed = sum(one.fixed + one.fixed_back * flows for one in added)
    kept = facts.trace(asked)
    found = kept.layer if kept else _estimated(facts, layer, added, size)
    saved = found.token + length * found.pair + beside
    return LayerCost(saved, 0.0, round(found.fixed + fixed), True, True)


def unknown_shared(
    facts: ModelFacts,
    trains: Trains,
    size: Numbers,
    tokens: float,
    costs: Sequence[LayerCost],
    length: float,
) -> float | None:
    """Bytes that all layers keep once, as traced in the topmost; None: not traced."""
    last = facts.layers - 1
    flows = last > 0 and costs[last - 1].flows
    added = trains.beside(last, size.compute < FP32)
    kept = facts.trace(_asked(facts, trains, last, flows, size, added)) if facts.skeleton else None
    return kept.shared.of(tokens, length) if kept else None


def unknown_ends(
    facts: ModelFacts,
    trains: Trains,
    size: Numbers,
    tokens: float,
    targets: int,
    flows: bool,
    length: float,
) -> float:
    """What embedding, final norm, head and the loss of all logits keep; flows: the layers' output needs a gradient."""
    layers = f"{facts.spelling.layers}."
    outside = frozenset(name for name in trains.names if not name.startswith(layers))
    kept = facts.trace(Asked(outside, leaves=flows, bf16=size.compute < FP32, wide=size.residual == FP32))
    loss = targets * (facts.vocab_size * FP32 + 3 * INDEX)
    if kept is None:
        norm_and_head = tokens * facts.hidden_size * (FP32 * flows + size.compute * trains.head(facts))
        return loss + norm_and_head + tokens * INDEX * trains.embedding
    return loss + kept.before.of(tokens, length) + kept.behind.of(tokens, length)


def _asked(
    facts: ModelFacts, trains: Trains, layer: int, flows: bool, size: Numbers, added: Sequence[Beside]
) -> Asked:
    """The question that a layer puts: an adapter that keeps the layer's own input is like a weight that trains."""
    here, first = f"{facts.layer(layer)}.", f"{facts.layer(0)}."
    like = frozenset(one.linear.name for one in added if one.input and not one.own)
    return Asked(
        frozenset(first + name.removeprefix(here) for name in trains.names if name.startswith(here)),
        like,
        reached=flows or any(one.linear.name not in like for one in added),
        bf16=size.compute < FP32,
        wide=size.residual == FP32,
    )


def _estimated(facts: ModelFacts, layer: int, added: Sequence[Beside], size: Numbers) -> Bytes:
    """Where only the linear layers are known: their inputs and outputs, and norms in fp32."""
    widths = sum(linear.inputs + linear.outputs for linear in facts.linears_of(layer))
    inputs = sum(one.linear.inputs * (one.input and not one.own) for one in added)
    return Bytes(0.0, (widths + inputs) * size.compute + 4 * facts.hidden_size * FP32, 0.0)
