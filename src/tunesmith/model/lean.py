"""Norms, attention and feed-forward of known families, swapped for modules that compute the same and keep less.

    layer.input_layernorm   LlamaRMSNorm   -> LeanNorm       one node (kernels/norm.py)
    layer.self_attn         LlamaAttention -> LeanAttention  q, k and v at once, rotation in one node
    layer.mlp               LlamaMLP       -> LeanMLP        act(gate) * up is made again
    embed_tokens            its class plus LeanLookup        its gradient is added where it stands (kernels/lookup.py)
    nn.Linear               LeanLinear                       its products by the quicker library (kernels/product.py)
    layer.mlp.gate_proj     as it is, under its own name: what trains, is saved or wrapped is not touched
Which classes of transformers may be swapped, and for what, is a table by family: what is not in it stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.kernels.gate import Act, gated
from tunesmith.kernels.lookup import lookup
from tunesmith.kernels.lora import Part, learns, lora_linears
from tunesmith.kernels.mlp import lora_mlp
from tunesmith.kernels.nf4 import held_in_four_bits
from tunesmith.kernels.norm import Spelling, rms_norm
from tunesmith.kernels.processor import onednn_is_quicker
from tunesmith.kernels.product import gated_linear, linear, remakes_input
from tunesmith.kernels.rotary import rotate
from tunesmith.model.families import FAMILIES

SPELLINGS: dict[str, Spelling] = {"rms": "rms", "offset": "offset", "scaled_wide": "scaled"}  # Family.norm
# by the name of the class that transformers makes of `hidden_act`
ACTS: dict[str, Act] = {
    "SiLU": "silu", "SiLUActivation": "silu", "GELU": "gelu", "GELUActivation": "gelu", "GELUTanh": "gelu_tanh",
}  # fmt: skip
# attention that is LlamaAttention but for norms of heads, and what it asks of the attention function
_own_window: Callable[[Any], dict[str, Any]] = lambda own: {"sliding_window": own.sliding_window}  # noqa: E731
ATTENTIONS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(("LlamaAttention", "GemmaAttention", "GraniteAttention"), lambda own: {}),
    "MistralAttention": lambda own: {"sliding_window": getattr(own.config, "sliding_window", None)},
    **dict.fromkeys(("Qwen2Attention", "Qwen3Attention", "Gemma3Attention"), _own_window),
    "Gemma2Attention": lambda own: {**_own_window(own), "softcap": own.attn_logit_softcapping},
}


def lean(lm: Any) -> Any:
    """Swap what can be swapped, in place; returns `lm`. Embedding and linear layers in any model, more by family."""
    embedding = lm.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        kind: Any = type(embedding)
        embedding.__class__ = _with_lean_lookup(kind)
    if onednn_is_quicker() or torch.cuda.is_available():
        for layer in lm.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = LeanLinear
    family = FAMILIES.get(lm.config.model_type)
    if family is None:
        return lm
    spelling = SPELLINGS.get(family.norm)
    home = family.mlp_in[0].rpartition(".")[0]
    inputs = [name.rpartition(".")[2] for name in family.mlp_in]
    for name, module in list(lm.named_modules()):
        if spelling and type(module).__name__.endswith("RMSNorm"):
            lm.set_submodule(name, LeanNorm(module, spelling))
        elif type(module).__name__ in ATTENTIONS:
            lm.set_submodule(name, LeanAttention(module))
        elif family.gated and name.endswith(f".{home}") and (act := _act_of(module)):
            lm.set_submodule(name, LeanMLP(module, inputs, act))
    return lm


class LeanLinear(nn.Linear):
    """A linear layer whose products are made as kernels/product.py has it."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return linear(input, self.weight, self.bias)


def is_plain(layer: nn.Module) -> bool:
    """Whether this is a linear layer and nothing more."""
    return type(layer) in (nn.Linear, LeanLinear)


class LeanLookup(nn.Embedding):
    """An embedding, or the last base of one that does more (Gemma scales its rows)."""

    def forward(self, input: Tensor) -> Tensor:
        """Int64[...] -> [..., d]."""
        special = self.max_norm is not None or self.scale_grad_by_freq or self.sparse
        trains = torch.is_grad_enabled() and self.weight.requires_grad and self.weight.is_leaf
        return (
            super().forward(input) if special or not trains else lookup(self.weight, input, self.padding_idx)
        )


@cache
def _with_lean_lookup(kind: Any) -> Any:
    """The class of an embedding, with LeanLookup in place of torch's own way to look up."""
    if issubclass(kind, LeanLookup):
        return kind
    return type(kind.__name__, (LeanLookup,) if kind is nn.Embedding else (kind, LeanLookup), {})


class _Swapped(nn.Module):
    """The same parameters, children and settings as the module it stands for."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(own.__dict__)


class LeanNorm(_Swapped):
    """RMSNorm in one of its three spellings."""

    weight: Tensor

    def __init__(self, own: nn.Module, spelling: Spelling) -> None:
        super().__init__(own)
        self.spelling = spelling
        self.eps: float = getattr(own, "variance_epsilon", None) or getattr(own, "eps")  # noqa: B009

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return rms_norm(hidden_states, self.weight, self.eps, self.spelling)


class LeanAttention(_Swapped):
    """Llama's attention and that of its kin, norms of heads included."""

    def __init__(self, own: Any) -> None:
        super().__init__(own)
        self.limits = ATTENTIONS[type(own).__name__]
        self.eager = sys.modules[type(own).__module__].eager_attention_forward

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """[B T d] -> [B T d]. A cache that `asks_no_query` gets keys and values, and ends the call."""
        own: Any = self
        *query, key, value = self._made(hidden_states, getattr(past_key_values, "asks_no_query", False))
        if hasattr(own, "q_norm"):
            query, key = [own.q_norm(one) for one in query], own.k_norm(key)
        *query, key = rotate([*query, key], *position_embeddings)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, own.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, self.eager)
        dropout = own.attention_dropout if self.training else 0.0
        asked: Any = {"dropout": dropout, "scaling": own.scaling, **self.limits(own), **kwargs}
        out, shares = attend(self, query[0].transpose(1, 2), key, value, attention_mask, **asked)
        return own.o_proj(out.reshape(*hidden_states.shape[:-1], -1).contiguous()), shares

    def _made(self, x: Tensor, no_query: bool) -> list[Tensor]:
        """Queries, keys and values, or the last two: [B T H D]."""
        own: Any = self
        layers = [own.k_proj, own.v_proj] if no_query else [own.q_proj, own.k_proj, own.v_proj]
        return [made.view(*x.shape[:-1], -1, own.head_dim) for made in outputs(x, layers)]


class LeanMLP(_Swapped):
    """down(act(gate(x)) * up(x)), gate and up apart or as the halves of one layer."""

    down_proj: nn.Module

    def __init__(self, own: nn.Module, inputs: Sequence[str], act: Act) -> None:
        super().__init__(own)
        self.inputs, self.act = tuple(inputs), act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        inputs = [getattr(self, name) for name in self.inputs]
        parts = parts_of([*inputs, self.down_proj], hidden_states)
        if parts is not None and (hidden_states.requires_grad or learns(parts[:-1])):
            return lora_mlp(hidden_states, parts[:-1], self.act, parts[-1])
        made = outputs(hidden_states, inputs)
        gates, up = made if len(made) == 2 else made[0].chunk(2, dim=-1)
        if may_remake(gates, up, self.down_proj):
            own: Any = self.down_proj
            return gated_linear(gates, up, self.act, own.weight, own.bias)
        hidden = gated(gates, up, self.act)
        del made, gates, up  # or they would stand beside the output where nothing is kept
        return self.down_proj(hidden)


def may_remake(gates: Tensor, up: Tensor, down: Any) -> bool:
    """Whether the layer behind a gate trains, so that its input, made again, need not be kept."""
    heard = down._forward_hooks or down._forward_pre_hooks
    flows = gates.requires_grad and up.requires_grad
    return flows and is_plain(down) and not heard and remakes_input(up, down.weight)


def outputs(x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
    """What linear layers make of one input: at once where one of them carries an update, else each by itself."""
    parts = parts_of(layers, x)
    return [layer(x) for layer in layers] if parts is None else lora_linears(x, parts)


def parts_of(layers: Sequence[Any], x: Tensor) -> list[Part] | None:
    """Linear layers as parts of a node; None where one can be none, or nothing is gained since none has an update."""
    parts = [part for layer in layers if (part := part_of(layer, x)) is not None]
    return parts if len(parts) == len(layers) and any(part.a is not None for part in parts) else None


def part_of(layer: Any, x: Tensor) -> Part | None:
    """A linear layer as a part of a node; None where it trains, somebody listens to it, or it must be called itself."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return None
    if hasattr(layer, "part"):  # an adapter's layer says so itself
        return layer.part(x)
    if hasattr(layer, "base_layer"):  # a wrapper shows the weight below as its own, and does more
        return None
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if weight is None or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    four_bits = held_in_four_bits(weight)
    if not is_plain(layer) and not four_bits:
        return None
    same = torch.is_autocast_enabled(x.device.type) or four_bits or weight.dtype == x.dtype
    return Part(weight, bias) if same else None


def _act_of(module: Any) -> Act | None:
    """What a feed-forward part does to its gates; None where it does more than that.

    Seed-OSS drops some of what it gives, unless the rate is 0 (model/load.py sets it so).
    """
    if getattr(module, "residual_dropout", 0.0):
        return None
    act = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    return ACTS.get(type(act).__name__)
