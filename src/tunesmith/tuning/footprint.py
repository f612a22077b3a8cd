"""What trains under each method, counted from the config alone: the model's own weights by name, and what is added.

Formulas: d hidden, k = kv heads x head size, r rank, n virtual tokens, L layers; `in` and `out` of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tunesmith.errors import RecipeError
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
    Tuned,
    Tuning,
    Vera,
)  # fmt: skip
from tunesmith.tuning.targets import (
    Wanted,
    all_targets,
    freeze_names,
    is_norm,
    module_names,
    outside_targets,
    targets_of,
)

if TYPE_CHECKING:
    from tunesmith.model.facts import Linear, ModelFacts
    from tunesmith.model.families import Family


@dataclass(frozen=True, slots=True)
class Footprint:
    """What trains. `names`: the model's own parameters, whole; `added`: numbers that the method adds.

    `rows`: of the parameters named there, so many rows of the hidden size train instead of the whole.
    """

    names: frozenset[str] = frozenset()
    added: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)

    def count(self, facts: ModelFacts) -> int:
        """Parameters that train."""
        sizes = dict(facts.named_parameters())
        own = sum(sizes[name] for name in self.names)
        return own + self.added + sum(rows * facts.hidden_size for rows in self.rows.values())


@lru_cache(maxsize=128)
def footprint(tuning: Tuning, facts: ModelFacts) -> Footprint:
    """What trains, exactly; tied weights once. Raises RecipeError for names that the model does not have."""
    found: Footprint = _FOOTPRINTS[type(tuning)](tuning, facts)
    return _with_also(found, tuning, facts)


def trainable_parameters(tuning: Tuning, facts: ModelFacts) -> int:
    """How many parameters train, exactly; tied weights once. Raises RecipeError for unknown names."""
    return footprint(tuning, facts).count(facts)


def _with_also(found: Footprint, tuning: Tuned, facts: ModelFacts) -> Footprint:
    """Beside the method's own: the weights of also_train, or only the rows of new tokens."""
    also = module_names(tuning.also_train, facts, "tuning.also_train") - found.names
    if not tuning.new_tokens_only:
        return Footprint(found.names | also, found.added)
    tables = {f"{facts.spelling.embedding}.weight", f"{facts.spelling.head}.weight"}
    also -= {f"{facts.spelling.head}.bias"}
    if also - tables:
        others = ", ".join(sorted(also - tables))
        raise RecipeError.at(
            "tuning.new_tokens_only", f"{others} has no rows of tokens", "name only embed_tokens and lm_head"
        )
    return Footprint(found.names, found.added, dict.fromkeys(sorted(also), len(facts.new_tokens)))


def _every_name(facts: ModelFacts) -> frozenset[str]:
    return frozenset(name for name, _ in facts.named_parameters())


def _full(tuning: Full | GaLore, facts: ModelFacts) -> Footprint:
    return Footprint(_every_name(facts))


def _freeze(tuning: Freeze, facts: ModelFacts) -> Footprint:
    return Footprint(frozenset(freeze_names(tuning, facts)))


def bias_names(facts: ModelFacts) -> frozenset[str]:
    """Biases that the model has by itself, those of its norms among them."""
    return frozenset(name for name in _every_name(facts) if name.endswith(".bias"))


def bias_targets(tuning: BitFit, facts: ModelFacts) -> list[Linear]:
    """Linear layers that get a bias."""
    return [linear for linear in all_targets(tuning.targets, facts) if not linear.bias]


def _bitfit(tuning: BitFit, facts: ModelFacts) -> Footprint:
    names = bias_names(facts)
    if not (names or tuning.add_biases):
        what = f"{facts.name} has no biases ({facts.family}), so nothing would train"
        raise RecipeError.at("tuning.add_biases", what, "set tuning.add_biases: true, or use {method: lora}")
    added = sum(linear.outputs for linear in bias_targets(tuning, facts)) if tuning.add_biases else 0
    return Footprint(names, added)


def norm_names(facts: ModelFacts) -> frozenset[str]:
    """Scales and shifts of norms."""
    return frozenset(name for name in _every_name(facts) if is_norm(name))


def _layer_norms(tuning: LayerNorms, facts: ModelFacts) -> Footprint:
    names = norm_names(facts)
    if not names:
        what = f"the norms of {facts.name} have no weights"
        raise RecipeError.at("tuning.method", what, "use another method, such as lora")
    return Footprint(names)


def _lisa(tuning: Lisa, facts: ModelFacts) -> Footprint:
    """As many layers as train at a time (all are as large), and what stands outside them."""
    if tuning.layers > facts.layers:
        what = f"{tuning.layers} layers at a time, the model has {facts.layers}"
        raise RecipeError.at("tuning.layers", what, "ask for fewer, or use tuning: {method: full}")
    starts = [f"{facts.layer(index)}." for index in range(facts.layers)]
    if len({sum(n for name, n in facts.named_parameters() if name.startswith(s)) for s in starts}) > 1:
        what = f"the layers of {facts.name} differ in size, so no count would hold from draw to draw"
        raise RecipeError.at("tuning.method", what, "use tuning: {method: freeze}, or {method: full}")
    asleep = tuple(
        starts[tuning.layers :]
    )  # not the last: that one computes only learnt tokens, so it keeps less
    return Footprint(frozenset(name for name in _every_name(facts) if not name.startswith(asleep or ("\0",))))


def _low_rank(rank: int, targets: list[Linear]) -> int:
    return sum(rank * (linear.inputs + linear.outputs) for linear in targets)


def _lora(tuning: Lora | ReLora | PLora | LoraDrop, facts: ModelFacts) -> Footprint:
    targets = all_targets(tuning.targets, facts)
    lengths = isinstance(tuning, Lora) and tuning.variant == "dora"
    magnitudes = sum(linear.outputs for linear in targets) if lengths else 0
    return Footprint(added=_low_rank(tuning.rank, targets) + magnitudes)


def _lora_fa(tuning: LoraFA, facts: ModelFacts) -> Footprint:
    return Footprint(added=sum(tuning.rank * linear.outputs for linear in all_targets(tuning.targets, facts)))


def _vera(tuning: Vera, facts: ModelFacts) -> Footprint:
    return Footprint(added=sum(linear.outputs + tuning.rank for linear in all_targets(tuning.targets, facts)))


def _adalora(tuning: AdaLora, facts: ModelFacts) -> Footprint:
    """At the beginning, before ranks are cut."""
    targets, rank = all_targets(tuning.targets, facts), tuning.first_rank
    return Footprint(added=_low_rank(rank, targets) + rank * len(targets))


def inner_size(tuning: Adapter, hidden_size: int) -> int:
    """Inner size of an adapter."""
    return max(1, round(hidden_size / tuning.reduction))


def _adapter(tuning: Adapter, facts: ModelFacts) -> Footprint:
    if facts.skeleton is not None:
        what = f"which linear layers end attention and feed-forward is not known for family {facts.family!r}"
        raise RecipeError.at("tuning.method", what, "use tuning: {method: lora}")
    hidden, inner = facts.hidden_size, inner_size(tuning, facts.hidden_size)
    each = 2 * hidden * inner + inner + hidden
    return Footprint(added=facts.layers * each * (2 if tuning.placement == "houlsby" else 1))


def scaled_parts(tuning: IA3, family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the linear layers that IA3 scales, inside a layer: those at their outputs, those at their inputs."""
    if tuning.targets == "auto":
        keys = family.attention_in[1:] if len(family.attention_in) == 3 else family.attention_in
        return tuple(dict.fromkeys(keys)), (family.mlp_out,)
    known = (*family.attention_in, family.attention_out, *family.mlp_in, family.mlp_out)
    # GPT-2 has two c_proj: only the feed-forward's is scaled at its inputs
    names = [name for t in tuning.targets for name in [n for n in known if n.endswith(f".{t}")] or [t]]
    inputs = [name for name in names if f".{name}".endswith(f".{family.mlp_out}")]
    return tuple(dict.fromkeys(n for n in names if n not in inputs)), tuple(dict.fromkeys(inputs))


def scaled_targets(tuning: IA3, facts: ModelFacts) -> tuple[str, ...]:
    """Names of all linear layers that IA3 scales. Raises RecipeError where the family does not tell them."""
    if tuning.targets == "auto" and facts.skeleton is not None:
        what = f"which layers make keys, values and inner values is not known for family {facts.family!r}"
        names = ", ".join(dict.fromkeys(linear.short for linear in facts.linears))
        raise RecipeError.at("tuning.targets", what, f"name them, among {names}")
    outputs, inputs = scaled_parts(tuning, facts.spelling)
    return (*outputs, *inputs)


def _ia3(tuning: IA3, facts: ModelFacts) -> Footprint:
    """The feed-forward's last layer is scaled at its inputs, every other at its outputs."""
    targets, last = all_targets(scaled_targets(tuning, facts), facts), facts.spelling.mlp_out
    return Footprint(added=sum(t.inputs if t.name == last else t.outputs for t in targets))


def _oft(tuning: Oft, facts: ModelFacts) -> Footprint:
    """Skew-symmetric blocks: in/b of them, b (b - 1) / 2 numbers each."""
    targets = all_targets(tuning.targets, facts)
    odd = sorted({linear.inputs for linear in targets if linear.inputs % tuning.block})
    if odd:
        what = f"{tuning.block} does not divide {', '.join(map(str, odd))}, the inputs of linear layers"
        raise RecipeError.at(
            "tuning.block", what, _block_that_fits([t.inputs for t in targets], tuning.block)
        )
    return Footprint(added=sum(linear.inputs * (tuning.block - 1) // 2 for linear in targets))


def _block_that_fits(inputs: Sequence[int], asked: int) -> str:
    """The largest block up to what was asked for that divides all inputs, in words."""
    common = math.gcd(*inputs)
    size = max(size for size in range(1, min(common, asked) + 1) if common % size == 0)
    leave = "leave such layers out of tuning.targets"
    return f"set tuning.block: {size}, or {leave}" if size > 1 else leave


def virtual_tokens(tuning: Tuning) -> int:
    """How many learnt tokens stand before each document, and take room in the context."""
    return tuning.length if isinstance(tuning, Prefix | PTuningV2 | Prompt | PTuning) else 0


def _deep(length: int, facts: ModelFacts) -> int:
    return length * 2 * facts.layers * facts.kv_heads * facts.head_dim


def _prefix(tuning: Prefix, facts: ModelFacts) -> Footprint:
    if not tuning.reparameterise:
        return Footprint(added=_deep(tuning.length, facts))
    width, hidden = facts.kv_heads * facts.head_dim, tuning.hidden
    out = 2 * facts.layers * width
    return Footprint(added=tuning.length * width + (width + 1) * hidden + (hidden + 1) * out)


def _p_tuning_v2(tuning: PTuningV2, facts: ModelFacts) -> Footprint:
    return Footprint(added=_deep(tuning.length, facts))


def _prompt(tuning: Prompt, facts: ModelFacts) -> Footprint:
    return Footprint(added=tuning.length * facts.hidden_size)


def _p_tuning(tuning: PTuning, facts: ModelFacts) -> Footprint:
    """An embedding, and behind it three linear layers, or two bidirectional LSTM layers and two linear ones."""
    d, h = facts.hidden_size, tuning.hidden
    mlp = (d * h + h) + (h * h + h) + (h * d + d)
    lstm = (
        2 * (4 * h * d + 4 * h * h + 8 * h) + 2 * (12 * h * h + 8 * h) + (4 * h * h + 2 * h) + (2 * h * d + d)
    )
    return Footprint(added=tuning.length * d + (mlp if tuning.encoder == "mlp" else lstm))


_FOOTPRINTS: Mapping[type[Tuned], Callable[[Any, ModelFacts], Footprint]] = {
    Full: _full, Freeze: _freeze, BitFit: _bitfit, LayerNorms: _layer_norms, Lisa: _lisa, GaLore: _full,
    Lora: _lora, LoraFA: _lora_fa, Vera: _vera, AdaLora: _adalora, ReLora: _lora, PLora: _lora, LoraDrop: _lora,
    Adapter: _adapter, IA3: _ia3, Oft: _oft, Prefix: _prefix, PTuningV2: _p_tuning_v2, Prompt: _prompt,
    PTuning: _p_tuning,
}  # fmt: skip


def wrapped_linears(tuning: Tuned, facts: ModelFacts) -> set[str]:
    """Names of the linear layers at which a method puts a part of its own."""
    family = facts.spelling
    if isinstance(tuning, Adapter):
        wanted: Wanted = (
            [family.mlp_out] if tuning.placement == "pfeiffer" else [family.attention_out, family.mlp_out]
        )
    elif isinstance(tuning, IA3):
        wanted = scaled_targets(tuning, facts)
    else:
        wanted = () if isinstance(tuning, BitFit) else getattr(tuning, "targets", ())
    inside = {
        f"{facts.layer(i)}.{linear.name}"
        for i in range(facts.layers)
        for linear in targets_of(wanted, facts, i)
    }
    return inside | {linear.name for linear in outside_targets(wanted, facts)}
