"""What one layer keeps for its backward pass, in bytes a token: a walk along the layer, asking what trains.

    x -> norm -> q k v -> attention -> o -> + -> norm -> gate up -> silu * -> down -> +
Kept are: a norm's input and a root; the input of a linear layer where it (or an adapter on it) trains, but for that
behind the gate, which is made again; q, k, v and the output of attention; gate and up.
In the last layer only k, v and what leads to them are of all tokens, the rest is of learnt ones (model/last_layer.py).
Equal to what torch's saved-tensor hooks count, for every family and method (tests).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tunesmith.model.facts import ModelFacts
from tunesmith.model.families import FAMILIES, Family
from tunesmith.plan.beside import Beside, beside, encoder_bytes, virtual_inputs, virtual_keys
from tunesmith.plan.unknown import unknown_ends, unknown_layer_cost, unknown_shared
from tunesmith.plan.walk import NARROWING, LayerCost, Walk, norm_bytes
from tunesmith.recipe import Tuning
from tunesmith.tuning.footprint import footprint
from tunesmith.tuning.methods import METHODS

FP32 = 4
INDEX = 8
# What the last layer computes (kernels/documents.py): only learnt tokens, unless nearly all are; of a document of
# which much is learnt, all queries attend.
PRUNE_BELOW, SQUARE_FROM = 0.9, 0.5
# Documents of so many tokens are attended where they stand, on a processor: nothing is gathered, or padded.
APART_FROM = 32
# Norms of what attention or feed-forward give, before it joins the stream; Gemma's "post_attention" is one too.
_ON_A_BRANCH = ("post_self_attn", "post_mlp", "post_feedforward")
_BEFORE_FEED_FORWARD = "pre_feedforward_layernorm"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Bytes of an element: of what linear layers compute with, and of the residual stream between layers.

    copies: weights that train are kept a second time, as they compute; a card makes them anew (kernels/mixed.py).
    """

    compute: int
    residual: int
    copies: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """Bytes kept by a micro-batch: `whole` by each layer by itself, `kept` where some keep only their input.

    `recomputed`: those layers. `shared`: kept once for all layers; `ends`: by embedding, final norm and head.
    """

    whole: tuple[float, ...]
    kept: tuple[float, ...]
    recomputed: range
    shared: float
    ends: float

    @property
    def total(self) -> float:
        """All that is kept when the backward pass begins."""
        return sum(self.kept) + self.shared + self.ends


@dataclass(frozen=True, slots=True)
class Trains:
    """What trains in each layer, by name, and what a method adds beside its linear layers.

    virtual_inputs and virtual_keys: learnt ones in front of each document (prompts, prefixes).
    whole: any weight may train.
    """

    names: Collection[str]
    beside: Callable[[int, bool], list[Beside]]
    virtual_inputs: int = 0
    virtual_keys: int = 0
    encoder_bytes: int = 0  # kept once by the network that makes them
    whole: bool = False
    spelling: Family = FAMILIES["llama"]

    @property
    def embedding(self) -> bool:
        """Whether the token embedding trains."""
        return f"{self.spelling.embedding}.weight" in self.names

    @property
    def begins(self) -> bool:
        """Whether the first layer's input needs a gradient."""
        return self.embedding or self.virtual_inputs > 0

    def head(self, facts: ModelFacts) -> bool:
        """Whether the output head trains."""
        return self.embedding if facts.tied else f"{self.spelling.head}.weight" in self.names


@lru_cache(maxsize=128)
def what_trains(tuning: Tuning, facts: ModelFacts) -> Trains:
    """Names of the model's own parameters that train, and what is added."""
    return Trains(
        footprint(tuning, facts).names,
        lambda layer, cast: beside(tuning, facts, layer, cast),
        virtual_inputs(tuning),
        virtual_keys(tuning),
        encoder_bytes(tuning),
        METHODS[tuning.method].can.whole,
        facts.spelling,
    )


def numbers(trains: Trains, bf16: bool, device: str = "cpu") -> Numbers:
    """Where every weight may train the residual stream is fp32, as autocast has it; else as the model is stored."""
    if not bf16:
        return Numbers(FP32, FP32)
    return Numbers(2, FP32 if trains.whole else 2, copies=device != "cuda" or trains.spelling.turned)


def layer_cost(
    facts: ModelFacts,
    trains: Trains,
    layer: int,
    flows: bool,
    size: Numbers,
    slack: float,
    narrow: float | None = None,
    length: float = 0.0,
    apart: float | None = None,
    native: bool = False,
) -> LayerCost:
    """Saved bytes of decoder layer `layer`; `flows` says whether its input needs a gradient.

    slack: attended slots a token (padding of documents of unlike length that are attended together), >= 1.
    narrow: the share of tokens that ask, where not all do. apart: slots a token of documents that are attended where
    they stand, if they are; the last layer gathers those that ask all the same. native: as _attend_natively has it.
    """
    if facts.skeleton is not None:
        return unknown_layer_cost(facts, trains, layer, flows, size, length)
    family, walk = facts.spelling, Walk(facts, trains, layer, size)
    first, *others = family.norms or ("", "")  # OLMo's norms have no parameters, and keep their input
    if family.norms_behind:
        norm, others = flows, [first, *others]
        walk.wide |= {"y", "z"} if size.compute < size.residual else set()
    else:
        norm = walk.norm(first, facts.hidden_size, 1, flows, size.residual)
    fewer = narrow is not None
    if fewer and flows:  # where each token stands in the layer's own order
        walk.saved += INDEX
    learns = _queries_keys_values(walk, facts, norm, fewer)
    attends = any(learns) or trains.virtual_keys > 0
    if attends and native and not fewer:
        _attend_natively(walk, facts)
    elif attends:
        alone = None if fewer else apart
        _attend(walk, facts, narrow, slack if alone is None else alone, length, alone is not None)
    walk.fewer = fewer
    output = walk.linear(family.attention_out, attends, "attended")
    if facts.parallel:
        norm = walk.beside_norm(others, facts.hidden_size, flows, size.residual) if others else norm
        inside = "z" if others else "y"
    else:
        flows = norm = flows or output
        inside = "z"
        for name in others:
            stream = size.compute if _on_a_branch(family, name) else size.residual
            norm = walk.norm(name, facts.hidden_size, 1, flows, stream)
    flows = _feed_forward(walk, facts, norm, inside) or flows or output
    return LayerCost(walk.saved, walk.asked, walk.fixed, flows, attends)


def _feed_forward(walk: Walk, facts: ModelFacts, norm: bool, inside: str) -> bool:
    """What gate, up and down keep; whether the output needs a gradient."""
    family = facts.spelling
    learns = [walk.linear(name, norm, inside) for name in family.mlp_in]
    walk.add(_mlp_kept(facts, learns) * walk.size.compute)
    remade = family.gated and any(learns) and walk.remakes(family.mlp_in, family.mlp_out)
    return walk.linear(family.mlp_out, any(learns), "product", remade=remade)


def _queries_keys_values(walk: Walk, facts: ModelFacts, flows: bool, fewer: bool) -> list[bool]:
    """What leads to q, k and v keeps, and which of them need a gradient. fewer: queries of those who ask alone."""
    names, found = facts.spelling.attention_in, dict[str, bool]()
    # keys and values first: what they keep of the input, queries need not
    for name in names[::-1]:
        few = fewer and name == names[0] and len(names) == 3
        found[name] = walk.linear(name, flows, "y", few, twice=fewer and not few)
    learns = [found[name] for name in names]
    if facts.qk_norm:
        for at, (name, n) in enumerate(zip(("q_norm", "k_norm"), (facts.heads, facts.kv_heads))):
            groups = n if facts.qk_norm == "head" else 1
            few, width = fewer and at == 0, n * facts.head_dim
            learns[at] = walk.norm(f"self_attn.{name}", width, groups, learns[at], walk.size.compute, few)
    return learns


def _attend(
    walk: Walk, facts: ModelFacts, narrow: float | None, slack: float, length: float, alone: bool
) -> None:
    """What attention itself keeps."""
    family, size = facts.spelling, walk.size
    # q, k and v as attended (k and v repeated for grouped heads), the output, and a log-sum a head;
    # where scores are capped q, k and v alone, and their mask
    keys = 2 * facts.attention_size * size.compute
    queries = facts.attention_size * size.compute
    if not family.capped_attention:
        queries += facts.attention_size * size.compute + facts.heads * FP32
    walk.saved += slack * keys + _rotation(facts, size) * (family.rotary_each and narrow is None)
    if family.capped_attention and alone:  # a mask each
        walk.saved += length
    elif family.capped_attention:
        walk.fixed += round(length**2)
    if narrow is None:
        walk.saved += slack * queries
    else:
        _attend_few(walk, facts, narrow, slack, queries, size)


def _attend_natively(walk: Walk, facts: ModelFacts) -> None:
    """By a card's own kernel (kernels/varlen.py): q, k and v with their own heads, a log-sum a head, and the output,
    which is the next layer's input as it is."""
    own = facts.attention_size + facts.kv_heads * facts.head_dim
    walk.saved += 2 * own * walk.size.compute + facts.heads * FP32
    walk.saved += _rotation(facts, walk.size) * facts.spelling.rotary_each
    walk.kept.add("attended")


def _attend_few(
    walk: Walk, facts: ModelFacts, share: float, slack: float, queries: float, size: Numbers
) -> None:
    """Places of keys and queries, their own copy of the rotation, and slots of queries: all, or of those who ask."""
    walk.saved += INDEX + _rotation(facts, size)
    walk.asked += INDEX
    if share > SQUARE_FROM:
        walk.saved += slack * (queries + INDEX + 1)
    else:
        walk.asked += slack * (queries + INDEX)


def _on_a_branch(family: Family, name: str) -> bool:
    """Whether a norm's input is what attention or feed-forward gave."""
    after = name.startswith("post_attention") and _BEFORE_FEED_FORWARD in family.norms
    return family.norms_behind or after or name.startswith(_ON_A_BRANCH)


def _mlp_kept(facts: ModelFacts, learns: list[bool]) -> int:
    """Numbers a token that the middle of the feed-forward part keeps."""
    family, inner = facts.spelling, facts.intermediate_size
    if not family.gated:
        return inner * family.activation_keeps * learns[0]
    return 2 * inner * any(learns)  # gate and up: what is made of them is made again (kernels/gate.py)


def uncertainty(facts: ModelFacts) -> float:
    """How much further off a forecast may be: not at all for families with a row, whose saved bytes are exact.

    Where they are traced, what lives for a moment in a layer is still an estimate.
    """
    if facts.own_forward is None:
        return 0.0
    return 0.1 if facts.traced else 0.3


def saved_bytes(
    facts: ModelFacts,
    trains: Trains,
    size: Numbers,
    tokens: float,
    targets: int,
    slack: float = 1.0,
    recomputed: int = 0,
    length: float = 0.0,
    offload: bool = False,
    apart: float | None = None,
    native: bool = False,
) -> Saved:
    """Bytes kept for the backward pass of a micro-batch of documents of `length`, learnt tokens apart.

    recomputed: so many layers, the first that gradients reach, keep only their input; offload: not even that.
    apart, native: as for a layer.
    """
    costs = layer_costs(facts, trains, size, slack, None, length, apart, native)
    again = recomputed_layers(costs, recomputed)
    last = facts.layers - 1
    narrow = None if last in again else asking_share(facts, tokens, targets)
    if narrow is not None:
        costs = layer_costs(facts, trains, size, slack, narrow, length, apart, native)
    asking = [tokens] * last + [tokens if narrow is None else targets]
    whole = tuple(tokens * cost.saved + n * cost.asked + cost.fixed for n, cost in zip(asking, costs))
    one = 0 if offload else tokens * facts.hidden_size * size.residual
    kept = tuple(one if index in again else bytes_here for index, bytes_here in enumerate(whole))
    if facts.own_forward is not None:
        ends = unknown_ends(facts, trains, size, tokens, targets, costs[-1].flows, length)
    else:
        ends = _ends(facts, trains, size, tokens, targets, costs[-1].flows, narrow is not None)
    ends += trains.encoder_bytes
    if trains.virtual_inputs:  # which tokens are learnt ones, and the number of each
        ends += tokens * (1 + INDEX * trains.virtual_inputs / (length + trains.virtual_inputs))
    stored = any(
        cost.attends and index not in again and not (narrow is not None and index == last)
        for index, cost in enumerate(costs)
    )
    shared = unknown_shared(facts, trains, size, tokens, costs, length)
    if shared is None:
        slots = (
            0.0
            if apart is not None or native
            else slack / (1 + trains.virtual_keys / length)
            if length
            else slack
        )
        shared = tokens * _shared(facts, size, slots)
    return Saved(whole, kept, again, shared * stored, ends)


def asking_share(facts: ModelFacts, tokens: float, targets: int) -> float | None:
    """Share of tokens of which the last layer computes an output; None: all."""
    if facts.own_forward is not None or facts.spelling.keeps_width or not 0 < targets <= PRUNE_BELOW * tokens:
        return None
    return targets / tokens


@lru_cache(maxsize=512)
def layer_costs(
    facts: ModelFacts,
    trains: Trains,
    size: Numbers,
    slack: float,
    narrow: float | None = None,
    length: float = 0.0,
    apart: float | None = None,
    native: bool = False,
) -> tuple[LayerCost, ...]:
    """What each layer keeps, from the input to the output; `narrow` is for the last."""
    flows, costs = trains.begins, list[LayerCost]()
    for layer in range(facts.layers):
        fewer = narrow if layer == facts.layers - 1 else None
        costs.append(layer_cost(facts, trains, layer, flows, size, slack, fewer, length, apart, native))
        flows = costs[-1].flows
    return tuple(costs)


def recomputed_layers(costs: Sequence[LayerCost], count: int) -> range:
    """The first `count` layers that gradients reach: those below keep nothing."""
    first = next(
        (index for index, cost in enumerate(costs) if cost.saved or cost.asked or cost.flows), len(costs)
    )
    return range(first, min(len(costs), first + count))


def _ends(
    facts: ModelFacts,
    trains: Trains,
    size: Numbers,
    tokens: float,
    targets: int,
    flows: bool,
    narrow: bool,
) -> float:
    """What embedding, final norm and head keep; `narrow`: the last layer gave learnt tokens alone."""
    ends, asking = 0.0, targets if narrow else tokens
    final = f"{facts.spelling.final_norm}.weight" in trains.names
    wide = size.compute if facts.spelling.norm in NARROWING else size.residual
    if flows or final:
        saved, fixed = norm_bytes(facts.spelling.norm, facts.hidden_size, 1, flows, final, size.residual)
        ends += asking * saved + fixed + targets * (facts.hidden_size * wide + INDEX * (not narrow))
    if trains.head(facts):
        ends += facts.embedding_parameters * FP32
    if facts.spelling.head_bias and trains.head(facts):
        ends += facts.vocab_size * FP32
    if f"{facts.spelling.positions}.weight" in trains.names:
        ends += tokens * INDEX
    return ends + tokens * INDEX * trains.embedding


def _shared(facts: ModelFacts, size: Numbers, slots: float) -> float:
    """Kept once for all layers, bytes a token: the rotation's cosine and sine, the documents' places and slots.

    slots: for a token; learnt keys have none, nor have documents that are attended where they stand."""
    rotation = 0 if facts.spelling.rotary_each else _rotation(facts, size)
    return rotation + (INDEX + INDEX * slots if slots else 0)


def _rotation(facts: ModelFacts, size: Numbers) -> int:
    """Bytes a token of cosine and sine."""
    family = facts.spelling
    return 2 * int(facts.head_dim * family.rotary) * (FP32 if family.rotary_wide else size.residual)
