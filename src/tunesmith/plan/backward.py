"""What lives at once while a layer goes backward, beside what is still kept for it and for the layers below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.kernels.chunks import WIDE_LONGEST, WIDE_TOKENS, walked_rows
from tunesmith.plan.activations import FP32, Saved, Trains, asking_share

if TYPE_CHECKING:
    from tunesmith.plan.memory import Load


def live_bytes(load: Load, trains: Trains, compute: int) -> float:
    """Of a layer whose every token gives an output."""
    return max(_live(load, trains, compute, load.computed))


def dearest(load: Load, trains: Trains, compute: int, found: Saved) -> tuple[float, float]:
    """(what has been let go of, what lives) at the dearest moment of the backward pass, where no layer is recomputed.

    The feed-forward part of the last layer, which may give fewer outputs; its attention, when the former is done
    with; or both of the layer below, when all of the last one is gone.
    """
    narrow = asking_share(load.facts, load.computed, load.asked) is not None
    asking = load.asked if narrow else load.computed
    inner = load.facts.intermediate_size * compute * (1 + load.facts.spelling.gated)
    mlp, attention = _live(load, trains, compute, asking)
    moments = [(0.0, mlp), (asking * inner, attention)]
    if len(found.kept) > 1 and found.kept[-2]:
        mlp, attention = _live(load, trains, compute, load.computed)
        last = found.kept[-1]
        moments += [(last, mlp), (last + load.computed * inner, attention)]
    return max(moments, key=lambda moment: moment[1] - moment[0])


def _live(load: Load, trains: Trains, compute: int, asking: float) -> tuple[float, float]:
    """Two of the inner size and what is walked of act(gate), or the input's gradient beside them where the whole part
    is one node (kernels/mlp.py); or gradients of q, k and v, and of capped scores."""
    facts = load.facts
    largest = max(linear.inputs * linear.outputs for linear in facts.linears)
    own = largest * FP32 if trains.embedding and load.tuning.base == "none" else 0
    own += 0 if load.tuning.base == "none" else largest * compute  # one 4-bit weight at a time
    walked = min(asking, walked_rows(facts.intermediate_size, load.device == "cuda"))
    more = walked * facts.intermediate_size
    before, behind = _ranks_within(load, trains)
    if (
        before or behind
    ):  # the gradient of the input, and those of what is r wide, of gate and up side by side too
        more = max(more, asking * (facts.hidden_size + 2 * before + behind))
    mlp = 2 * asking * facts.intermediate_size + more
    attention = (asking + 2 * load.computed) * facts.attention_size * load.attended
    # capped scores, made again: four of raw, capped, masked, their shares and two gradients at a time
    scores = 4 * asking * facts.heads * load.length * FP32 if facts.spelling.capped_attention else 0
    return mlp * compute + own, attention * compute + scores + _widened(load, compute, asking) + own


def _widened(load: Load, compute: int, asking: float) -> float:
    """What a processor's attention backward makes in fp32 of 16 bits, some documents at a time
    (kernels/wide_backward.py): queries, outputs and two gradients of theirs; keys and values with theirs."""
    if load.device != "cpu" or compute == FP32 or load.length > WIDE_LONGEST:
        return 0
    tokens = min(load.computed, max(WIDE_TOKENS, load.length))
    return 4 * tokens * (asking / load.computed + 1) * load.facts.attention_size * FP32


def _ranks_within(load: Load, trains: Trains) -> tuple[int, int]:
    """Ranks of the updates that are computed within the feed-forward part: before and behind its gate. Told by the
    last layer; none where it is not one node."""
    spelling = load.facts.spelling
    if not spelling.gated:
        return 0, 0
    ranks = {one.linear.name: one.kept for one in trains.beside(load.facts.layers - 1, load.bf16) if one.node}
    return sum(ranks.get(name, 0) for name in spelling.mlp_in), ranks.get(spelling.mlp_out, 0)
