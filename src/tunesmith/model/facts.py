"""What a model is, from its config.json alone: families, shapes and exact counts; no weights, no torch.

config.json -> ModelFacts        parameters = embedding [+ head] + layers x layer + what stands outside
layer = linear layers (q k v o gate up down, or fused) + norms, as the family's row in families.py spells them
A family that is not there is counted on its empty skeleton instead (skeleton.py, which loads torch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from tunesmith.errors import ModelError
from tunesmith.model.config import read_config
from tunesmith.model.families import FAMILIES, Family, flag, new_shape, own_forward_reason
from tunesmith.model.stored import Kind, stored_kind
from tunesmith.recipe import Model

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_OPTIONAL = ("num_key_value_heads", "head_dim")


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer, by its name inside the layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Weight and bias."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)

    @property
    def short(self) -> str:
        """The last part of the name, such as q_proj."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Asked:
    """What trains: parameters of a model with one layer, by name; linear layers of it that carry an adapter.

    reached: the layer's input needs a gradient; leaves: its output does. wide: all is fp32, computed in bf16 or not.
    """

    trains: frozenset[str] = frozenset()
    adapted: frozenset[str] = frozenset()
    reached: bool = False
    leaves: bool = False
    bf16: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of documents of one length: fixed + tokens x (token + length x pair)."""

    fixed: float
    token: float
    pair: float

    def of(self, tokens: float, length: float) -> float:
        """All of so many tokens in documents of that length."""
        return self.fixed + tokens * (self.token + length * self.pair)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept for the backward pass: before the layers, by one of them, by all together, behind them."""

    before: Bytes
    layer: Bytes
    shared: Bytes
    behind: Bytes


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What was counted on an empty model: every parameter, and the linear layers of each decoder layer.

    trace: what one layer keeps, run under fake tensors when it is asked for (traced.py); None: it does not run so.
    """

    named: tuple[tuple[str, int], ...]
    linears: tuple[tuple[Linear, ...], ...]
    outside: tuple[Linear, ...]  # linear layers that stand in no decoder layer, the head apart
    trace: Callable[[Asked], Kept | None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ModelFacts:
    """Shapes and counts of a dense decoder. Sizes are numbers of elements."""

    name: str
    family: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool
    linears: tuple[Linear, ...]  # of one layer, in the order of its forward
    spelling: Family = FAMILIES["llama"]
    norms: tuple[tuple[str, int], ...] = ()  # further parameters of a layer, by name inside it
    outside: tuple[tuple[str, int], ...] = ()  # further parameters of the model: final norm, positions, ...
    max_positions: int | None = None
    kind: Literal["chat", "base", "unknown"] = "unknown"
    own_forward: str | None = None  # why it runs through its own forward; None: through our fused paths
    parallel: bool = False  # attention and feed-forward side by side
    text_only: bool = False  # the text part of a model that also takes pictures or sound
    skeleton: Skeleton | None = None
    new_tokens: tuple[int, ...] = ()  # ids that a run uses and the base has not learnt
    stored: Kind | None = None  # in 4 bits, where the folder holds its linear layers so

    @property
    def supported(self) -> bool:
        """Whether the family runs through our head and attention paths."""
        return self.own_forward is None

    def trace(self, asked: Asked) -> Kept | None:
        """What a layer of an unknown family keeps; None where it cannot be traced, or need not."""
        found = self.skeleton.trace if self.skeleton is not None else None
        return found(asked) if found is not None else None

    @property
    def traced(self) -> bool:
        """Whether what a layer keeps can be traced."""
        return self.trace(Asked(reached=True)) is not None

    @property
    def qk_norm(self) -> str | None:
        """Whether q and k are normed, each "head" or the "whole"."""
        return self.spelling.qk_norm

    def layer(self, index: int) -> str:
        """The name of a decoder layer."""
        return f"{self.spelling.layers}.{index}"

    def linears_of(self, index: int) -> tuple[Linear, ...]:
        """The linear layers of a decoder layer."""
        return self.linears if self.skeleton is None else self.skeleton.linears[index]

    @property
    def attention_bias(self) -> bool:
        """Whether the query projection has a bias."""
        return self.linears[0].bias

    @property
    def attention_size(self) -> int:
        """Query heads x head size: the inner width of attention (`a` in the formulas)."""
        return self.heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights and biases of one layer's linear layers."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def layer_parameters(self) -> int:
        """All of one decoder layer."""
        return self.linear_parameters + sum(count for _, count in self.norms)

    @property
    def embedding_parameters(self) -> int:
        """The token embedding; the head is as large again where it is not tied."""
        return self.vocab_size * self.hidden_size

    @cached_property
    def parameters(self) -> int:
        """Exact count of the whole model; tied weights count once."""
        return sum(count for _, count in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, int]]:
        """Name and size of every parameter, as transformers spells them; a tied head is not listed twice."""
        if self.skeleton is not None:
            yield from self.skeleton.named
            return
        yield f"{self.spelling.embedding}.weight", self.embedding_parameters
        for index in range(self.layers):
            prefix = self.layer(index)
            for linear in self.linears:
                yield f"{prefix}.{linear.name}.weight", linear.inputs * linear.outputs
                if linear.bias:
                    yield f"{prefix}.{linear.name}.bias", linear.outputs
            for name, count in self.norms:
                yield f"{prefix}.{name}", count
        yield from self.outside
        if not self.tied:
            yield f"{self.spelling.head}.weight", self.embedding_parameters


def read_facts(model: Model) -> ModelFacts:
    """The facts of a recipe's model: a local folder, a hub id, a run folder, or from_config.

    Raises ModelError, naming the place and the way out, when there is no such model or it cannot be trained.
    """
    found = read_config(model)
    values, text_only = _text_part(found.values, found.name)
    if (model.from_config is not None or text_only) and values.get("model_type") in FAMILIES:
        values = {**new_shape(values["model_type"]), **values}
    _refuse(values, found.name, model.trust_remote_code, text_only)
    if text_only and found.values.get("quantization_config"):
        what = "takes pictures or sound as well and is stored quantised; its text part cannot be taken out of that"
        raise ModelError.at(found.name, what, "use the 16-bit model, or the text-only one")
    reason = own_forward_reason(values, model.trust_remote_code)
    if reason is None:
        return replace(facts_from_config(values, name=found.name, kind=found.kind), text_only=text_only)
    if values["model_type"] in FAMILIES and not values.get("auto_map"):
        counted = facts_from_config(values, name=found.name, kind=found.kind)
    else:
        from tunesmith.model.known import counted_facts

        counted = counted_facts(model, found)
    return replace(counted, own_forward=reason, text_only=text_only)


def facts_from_config(
    config: Mapping[str, Any],
    *,
    name: str = "config",
    kind: Literal["chat", "base", "unknown"] = "unknown",
) -> ModelFacts:
    """The facts of a known family's config.json. Raises ModelError for other families and a broken shape."""
    _refuse(config, name, remote_code=False, text_only=False)
    family = FAMILIES[config["model_type"]]
    shape = _shape(family, config, name)
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head_dim = shape["head_dim"] or hidden // heads
    kv_heads = shape["num_key_value_heads"] or heads
    if heads % kv_heads:
        raise ModelError.at(
            name, f"{heads} attention heads cannot share {kv_heads} key-value heads evenly",
            "correct num_key_value_heads in config.json",
        )  # fmt: skip
    positions = family.value(config, "max_position_embeddings")
    facts = ModelFacts(
        name=name,
        family=config["model_type"],
        hidden_size=hidden,
        layers=shape["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=shape["intermediate_size"],
        vocab_size=shape["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        linears=_linears(
            family, config, hidden, heads * head_dim, kv_heads * head_dim, shape["intermediate_size"]
        ),
        spelling=family,
        max_positions=positions if isinstance(positions, int) and positions > 0 else None,
        kind=kind,
        stored=stored_kind(config, name),
        parallel=flag(family.parallel, config),
    )
    return replace(facts, norms=_norms(facts), outside=_outside(facts))


def with_rows(facts: ModelFacts, rows: int) -> ModelFacts:
    """The facts of the same model with tables of so many rows."""
    resized = replace(facts, vocab_size=rows)
    if facts.skeleton is None:
        return replace(resized, outside=_outside(resized))
    tables = {f"{name}.weight" for name in (facts.spelling.embedding, facts.spelling.head)}
    named = tuple(
        (name, count // facts.vocab_size * rows if name in tables else count)
        for name, count in facts.skeleton.named
    )
    return replace(resized, skeleton=replace(facts.skeleton, named=named))


def _text_part(config: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], bool]:
    """The values that speak of text. Raises ModelError where that part cannot be had by itself."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return config, False
    family = text.get("model_type", "llama")
    if family not in FAMILIES:
        raise ModelError.at(
            name,
            f"takes pictures or sound as well ({config.get('model_type')}), and its text part ({family}) cannot "
            "be loaded by itself",
            "use the text-only model of that series",
        )
    tied = config.get("tie_word_embeddings")
    return {**({} if tied is None else {"tie_word_embeddings": tied}), **text, "model_type": family}, True


def _refuse(config: Mapping[str, Any], name: str, remote_code: bool, text_only: bool) -> None:
    """Raise a ModelError that says why not, where a model cannot be trained at all."""
    family = config.get("model_type")
    known = ", ".join(FAMILIES)
    if not isinstance(family, str):
        raise ModelError.at(
            name, "its config.json names no model_type", f"use a transformers model, such as one of: {known}"
        )
    if any(config.get(key) for key in _EXPERTS) or "moe" in family or family == "mixtral":
        raise ModelError.at(
            name,
            f"is a mixture of experts ({family}): its experts' weights are fused in 3-D tensors, which adapters "
            "on all linear layers do not reach, and its routing needs a balancing loss",
            f"choose a dense model, such as one of: {known}",
        )
    if family not in FAMILIES and config.get("auto_map") and not remote_code:
        raise ModelError.at(
            name, f"needs Python code that comes with the model ({family}), which is not run unasked",
            "read that code, then set model.trust_remote_code: true; or choose a model of "
            f"one of: {known}",
        )  # fmt: skip
    stored_kind(config, name)
    architectures = [] if text_only else config.get("architectures") or []
    generates = any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in architectures)
    if architectures and not generates and not config.get("auto_map"):
        raise ModelError.at(
            name, f"is a {', '.join(map(str, architectures))}, not a language model with an output head",
            "use the ...ForCausalLM form of the model",
        )  # fmt: skip


def _shape(family: Family, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The sizes, checked. Raises one ModelError listing every bad one."""
    assumed = {
        "vocab_size": family.vocab_size,
        "num_key_value_heads": family.kv_heads,
        "head_dim": family.head_dim,
    }
    values = {key: family.value(config, key) for key in (*_SIZES, *_OPTIONAL)}
    values |= {key: value for key, value in assumed.items() if key not in config}
    if not family.grouped:
        values |= dict.fromkeys(_OPTIONAL)
    if (
        values["intermediate_size"] is None
        and family.inner is None
        and isinstance(values["hidden_size"], int)
    ):
        values["intermediate_size"] = 4 * values["hidden_size"]
    bad = []
    for key, value in values.items():
        optional = value is None and key in _OPTIONAL
        if not optional and not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            bad.append(f"{family.aliases.get(key, key)} is {'missing' if value is None else repr(value)}")
    if not bad and not values["head_dim"] and values["hidden_size"] % values["num_attention_heads"]:
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        bad.append(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    if bad:
        raise ModelError.at(
            name, f"its config is not usable: {'; '.join(bad)}", "whole numbers above 0 are needed there"
        )
    return values


def _linears(
    family: Family, config: Mapping[str, Any], hidden: int, queries: int, keys: int, inner: int
) -> tuple[Linear, ...]:
    """The linear layers of a decoder layer: attention in, attention out, feed-forward in, feed-forward out."""
    biases = (flag(of, config) for of in (family.bias_in, family.bias_out, family.bias_mlp))
    bias_in, bias_out, bias_mlp = biases
    widths = (queries, keys, keys) if len(family.attention_in) == 3 else (queries + 2 * keys,)
    fused = inner * (2 if family.gated and len(family.mlp_in) == 1 else 1)
    return (
        *(Linear(name, hidden, width, bias_in) for name, width in zip(family.attention_in, widths)),
        Linear(family.attention_out, queries, hidden, bias_out),
        *(Linear(name, hidden, fused, bias_mlp) for name in family.mlp_in),
        Linear(family.mlp_out, inner, hidden, bias_mlp),
    )


def _norms(facts: ModelFacts) -> tuple[tuple[str, int], ...]:
    """Parameters of a layer's norms."""
    family, found = facts.spelling, []
    if family.qk_norm:
        whole = family.qk_norm == "whole"
        for name, heads in (("q_norm", facts.heads), ("k_norm", facts.kv_heads)):
            found.append((f"self_attn.{name}.weight", facts.head_dim * (heads if whole else 1)))
    parts = ("weight", "bias") if family.norm_bias else ("weight",)
    return (*found, *((f"{norm}.{part}", facts.hidden_size) for norm in family.norms for part in parts))


def _outside(facts: ModelFacts) -> tuple[tuple[str, int], ...]:
    """Parameters that stand in no layer, embedding and head apart."""
    family, found = facts.spelling, []
    if family.positions and facts.max_positions:
        found.append((f"{family.positions}.weight", facts.max_positions * facts.hidden_size))
    if family.final_norm:
        parts = ("weight", "bias") if family.norm_bias else ("weight",)
        found += [(f"{family.final_norm}.{part}", facts.hidden_size) for part in parts]
    if family.head_bias:
        found.append((f"{family.head}.bias", facts.vocab_size))
    return tuple(found)
