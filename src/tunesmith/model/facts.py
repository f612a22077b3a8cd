"""What a model is, from its config.json alone: families, shapes and exact counts; no weights, no torch.

config.json -> ModelFacts        parameters = embedding [+ head] + layers x layer + final norm
layer = q k v o  gate up down  (+ biases)  + 2 norms  (+ q and k norms)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tunesmith.errors import ModelError
from tunesmith.model.config import read_config
from tunesmith.recipe import Model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# What transformers assumes where a config.json is silent; the rest of the shape must be written there.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"num_key_value_heads": None, "head_dim": None, "vocab_size": 32000},
    "mistral": {"num_key_value_heads": 8, "head_dim": None, "vocab_size": 32000},
    "qwen2": {"num_key_value_heads": 32, "head_dim": None, "vocab_size": 151936},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "vocab_size": 151936},
}
# The rest, which transformers fills in for a new model (from_config).
_NEW_INNER: Mapping[str, int] = {"llama": 11008, "mistral": 14336, "qwen2": 22016, "qwen3": 22016}
_NEW_SHAPE: Mapping[str, int] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


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


@dataclass(frozen=True)
class ModelFacts:
    """Shapes and counts of a dense decoder of a known family. Sizes are numbers of elements."""

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
    linears: tuple[Linear, ...]
    qk_norm: bool = False
    max_positions: int | None = None
    kind: Literal["chat", "base", "unknown"] = "unknown"
    supported: bool = True

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
        return self.linear_parameters + 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def embedding_parameters(self) -> int:
        """The token embedding; the head is as large again where it is not tied."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """The output head's own weights: none where it is tied to the embedding."""
        return 0 if self.tied else self.embedding_parameters

    @cached_property
    def parameters(self) -> int:
        """Exact count of the whole model; tied weights count once."""
        layers = self.layers * self.layer_parameters
        return self.embedding_parameters + self.head_parameters + layers + self.hidden_size

    def named_parameters(self) -> Iterator[tuple[str, int]]:
        """Name and size of every parameter, as transformers spells them; a tied head is not listed twice."""
        yield "model.embed_tokens.weight", self.embedding_parameters
        for index in range(self.layers):
            prefix = f"model.layers.{index}."
            for linear in self.linears:
                yield f"{prefix}{linear.name}.weight", linear.inputs * linear.outputs
                if linear.bias:
                    yield f"{prefix}{linear.name}.bias", linear.outputs
            if self.qk_norm:
                yield f"{prefix}self_attn.q_norm.weight", self.head_dim
                yield f"{prefix}self_attn.k_norm.weight", self.head_dim
            yield f"{prefix}input_layernorm.weight", self.hidden_size
            yield f"{prefix}post_attention_layernorm.weight", self.hidden_size
        yield "model.norm.weight", self.hidden_size
        if not self.tied:
            yield "lm_head.weight", self.embedding_parameters


def read_facts(model: Model) -> ModelFacts:
    """The facts of a recipe's model: a local folder, a hub id, a run folder, or from_config.

    Raises ModelError, naming the place and the way out, when there is no such model or it cannot be trained.
    """
    found = read_config(model)
    values = found.values
    if model.from_config is not None and values["model_type"] in _NEW_INNER:
        values = {**_NEW_SHAPE, "intermediate_size": _NEW_INNER[values["model_type"]], **values}
    return facts_from_config(values, name=found.name, kind=found.kind, remote_code=model.trust_remote_code)


def facts_from_config(
    config: Mapping[str, Any],
    *,
    name: str = "config",
    kind: Literal["chat", "base", "unknown"] = "unknown",
    remote_code: bool = False,
) -> ModelFacts:
    """The facts of a config.json's values. Raises ModelError for other families, experts, a broken shape."""
    family = _family(config, name, remote_code)
    shape = _shape({**_DEFAULTS[family], **config}, name)
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head_dim = shape["head_dim"] or hidden // heads
    kv_heads = shape["num_key_value_heads"] or heads
    if heads % kv_heads:
        raise ModelError.at(
            name, f"{heads} attention heads cannot share {kv_heads} key-value heads evenly",
            "correct num_key_value_heads in config.json",
        )  # fmt: skip
    positions = config.get("max_position_embeddings")
    return ModelFacts(
        name=name,
        family=family,
        hidden_size=hidden,
        layers=shape["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=shape["intermediate_size"],
        vocab_size=shape["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        linears=_linears(
            family, config, hidden, heads * head_dim, kv_heads * head_dim, shape["intermediate_size"]
        ),
        qk_norm=family == "qwen3",
        max_positions=positions if isinstance(positions, int) and positions > 0 else None,
        kind=kind,
    )


def _family(config: Mapping[str, Any], name: str, remote_code: bool) -> str:
    """The model_type, when it is one we train; else a ModelError that says why not."""
    family = config.get("model_type")
    known = ", ".join(FAMILIES)
    if not isinstance(family, str):
        raise ModelError.at(
            name, "its config.json names no model_type", f"use a transformers model of one of: {known}"
        )
    if any(config.get(key) for key in _EXPERTS) or "moe" in family or family == "mixtral":
        raise ModelError.at(
            name,
            f"is a mixture of experts ({family}): its routing needs a balancing loss and adapters for each "
            "expert, which this version does not have",
            f"choose a dense model of one of: {known}",
        )
    if family not in FAMILIES and config.get("auto_map") and not remote_code:
        raise ModelError.at(
            name, f"needs Python code that comes with the model ({family}), which is not run unasked",
            f"choose a model of one of: {known}",
        )  # fmt: skip
    if family not in FAMILIES:
        raise ModelError.at(
            name, f"is of family {family!r}, which this version does not train", f"choose one of: {known}"
        )
    if config.get("quantization_config"):
        raise ModelError.at(
            name, "its weights are quantised; training needs the full ones",
            "use the repository of the original, unquantised model",
        )  # fmt: skip
    architectures = config.get("architectures") or []
    if architectures and not any(str(a).endswith("ForCausalLM") for a in architectures):
        raise ModelError.at(
            name, f"is a {', '.join(map(str, architectures))}, not a language model with an output head",
            "use the ...ForCausalLM form of the model",
        )  # fmt: skip
    return family


def _shape(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The sizes, checked. Raises one ModelError listing every bad one."""
    bad = []
    for key in (*_SHAPE, "vocab_size", "num_key_value_heads", "head_dim"):
        value = values.get(key)
        optional = value is None and key in ("num_key_value_heads", "head_dim")
        if not optional and not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            bad.append(f"{key} is {'missing' if value is None else repr(value)}")
    if not bad and not values.get("head_dim") and values["hidden_size"] % values["num_attention_heads"]:
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        bad.append(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    if bad:
        raise ModelError.at(
            name, f"its config is not usable: {'; '.join(bad)}", "whole numbers above 0 are needed there"
        )
    return {key: values.get(key) for key in (*_SHAPE, "vocab_size", "num_key_value_heads", "head_dim")}


def _linears(
    family: str, config: Mapping[str, Any], hidden: int, queries: int, keys: int, inner: int
) -> tuple[Linear, ...]:
    """The seven linear layers of a decoder layer, biases by family."""
    attention = family == "qwen2" or (
        family in ("llama", "qwen3") and bool(config.get("attention_bias", False))
    )
    output = family in ("llama", "qwen3") and attention
    mlp = family == "llama" and bool(config.get("mlp_bias", False))
    return (
        Linear("self_attn.q_proj", hidden, queries, attention),
        Linear("self_attn.k_proj", hidden, keys, attention),
        Linear("self_attn.v_proj", hidden, keys, attention),
        Linear("self_attn.o_proj", queries, hidden, output),
        Linear("mlp.gate_proj", hidden, inner, mlp),
        Linear("mlp.up_proj", hidden, inner, mlp),
        Linear("mlp.down_proj", inner, hidden, mlp),
    )
