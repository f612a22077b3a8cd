"""Dense families that run through our head and attention paths, a row each: how they spell and size their parts.

    embedding [+ positions] -> layers x ( norms, attention in -> out, mlp in -> out ) -> final norm -> head
A flag is True, False, or (config key, what transformers assumes where the key is silent). No torch.
Yi, DeepSeek (dense, V1 and distilled), SmolLM 1/2, InternLM 1 and Vicuna are llama by architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Flag = bool | tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Family:
    """One row. Names of linear layers are inside a layer; one name for several parts means they are fused."""

    vocab_size: int
    inner: int | None  # intermediate_size of a new model; None: four times hidden_size
    kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden_size / heads
    tied: bool = False
    # ---- spelling ----
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    final_norm: str | None = "model.norm"
    head: str = "lm_head"
    attention_in: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    attention_out: str = "self_attn.o_proj"
    mlp_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_out: str = "mlp.down_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    positions: str | None = None  # a table of learnt positions
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)  # our name -> the config's
    # ---- what there is ----
    grouped: bool = True  # keys may be shared by queries, and heads have a size of their own
    gated: bool = True
    activation_keeps: int = 1  # tensors that an ungated activation keeps for its backward pass
    bias_in: Flag = False
    bias_out: Flag = False
    bias_mlp: Flag = False
    norm_bias: bool = False
    norms_behind: bool = False  # norms stand behind attention and feed-forward alone, none before
    parallel: Flag = False  # attention and feed-forward stand side by side, on one input
    # ---- what is kept for the backward pass (plan/activations.py) ----
    norm: str = "rms"  # a row of plan/activations.py's norm_bytes
    rotary: float = 1.0  # share of a head that turns
    rotary_each: bool = False  # cosine and sine are laid out anew in each layer
    rotary_wide: bool = False  # in fp32, whatever the model is stored in
    capped_attention: bool = False  # scores are capped, and made again in the backward pass
    head_bias: bool = False
    turned: bool = False  # weights stand [inputs outputs], as Conv1D has them
    qk_norm: str | None = None  # "head": q_norm and k_norm of head_dim; "whole": of all heads together
    # ---- what the head does to logits: keys of the config ----
    multiply: str | None = None
    divide: str | None = None
    softcap: str | None = None
    keeps_width: bool = False  # its decoder lays its output by the shape of its input
    # ---- what sends a model through its own forward: config keys that must be off ----
    unless: tuple[str, ...] = ()

    def value(self, config: Mapping[str, Any], key: str) -> Any:
        """A value of the config by our name; None where it is silent."""
        alias = self.aliases.get(key, key)
        return config[alias] if alias in config else config.get(key)


def flag(of: Flag, config: Mapping[str, Any]) -> bool:
    """Whether a flag is set in a config."""
    return of if isinstance(of, bool) else bool(config.get(*of))


_GEMMA_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip
_GLM_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "post_self_attn_layernorm",
    "post_mlp_layernorm",
)
_OLMO2_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_ATTENTION_BIAS = ("attention_bias", False)
_FUSED_GATE = ("mlp.gate_up_proj",)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        32000, 11008, bias_in=_ATTENTION_BIAS, bias_out=_ATTENTION_BIAS, bias_mlp=("mlp_bias", False)
    ),
    "mistral": Family(32000, 14336, kv_heads=8),
    "qwen2": Family(151936, 22016, kv_heads=32, bias_in=True),
    "qwen3": Family(
        151936, 22016, kv_heads=32, head_dim=128, bias_in=_ATTENTION_BIAS, bias_out=_ATTENTION_BIAS,
        qk_norm="head",
    ),
    "gemma": Family(
        256000, 24576, norm="offset", kv_heads=16, head_dim=256, tied=True, bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS
    ),
    "gemma2": Family(
        256000, 9216, norm="offset", kv_heads=4, head_dim=256, tied=True, norms=_GEMMA_NORMS,
        bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, softcap="final_logit_softcapping", capped_attention=True),
    "gemma3_text": Family(
        262208, 9216, norm="offset", kv_heads=4, head_dim=256, tied=True, norms=_GEMMA_NORMS,
        bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, qk_norm="head", softcap="final_logit_softcapping",
        unless=("use_bidirectional_attention",),
    ),
    "gpt2": Family(
        50257, None, tied=True, embedding="transformer.wte", layers="transformer.h",
        final_norm="transformer.ln_f", attention_in=("attn.c_attn",), attention_out="attn.c_proj",
        mlp_in=("mlp.c_fc",), mlp_out="mlp.c_proj", norms=("ln_1", "ln_2"), positions="transformer.wpe",
        aliases={
            "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions", "intermediate_size": "n_inner",
        },
        grouped=False, gated=False, activation_keeps=4, bias_in=True, bias_out=True, bias_mlp=True,
        norm_bias=True, norm="layer", rotary=0.0, turned=True, keeps_width=True,
        unless=("add_cross_attention", "reorder_and_upcast_attn"),
    ),
    "gpt_neox": Family(
        50432, 24576, embedding="gpt_neox.embed_in", layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm", attention_in=("attention.query_key_value",),
        attention_out="attention.dense", mlp_in=("mlp.dense_h_to_4h",), mlp_out="mlp.dense_4h_to_h",
        grouped=False, gated=False, bias_in=("attention_bias", True), bias_out=("attention_bias", True),
        bias_mlp=True, norm_bias=True, norm="layer", rotary=0.25, parallel=("use_parallel_residual", True)),
    "phi": Family(
        51200, 8192, final_norm="model.final_layernorm", attention_out="self_attn.dense", mlp_in=("mlp.fc1",),
        mlp_out="mlp.fc2", norms=("input_layernorm",), gated=False, activation_keeps=4, bias_in=True,
        bias_out=True,
        bias_mlp=True, norm_bias=True, norm="layer", head_bias=True, unless=("qk_layernorm",), rotary=0.5,
        parallel=True
    ),
    "phi3": Family(32064, 8192, attention_in=("self_attn.qkv_proj",), mlp_in=_FUSED_GATE),
    "glm": Family(
        151552, 13696, kv_heads=2, head_dim=128, mlp_in=_FUSED_GATE, bias_in=("attention_bias", True),
        rotary=0.5, rotary_each=True
    ),
    "glm4": Family(
        151552, 13696, kv_heads=2, head_dim=128, mlp_in=_FUSED_GATE, norms=_GLM_NORMS,
        bias_in=("attention_bias", True), rotary=0.5, rotary_each=True),
    "olmo": Family(
        50304, 11008, norms=(), norm="layer_wide", final_norm=None, bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, rotary_wide=True
    ),
    "olmo2": Family(
        50304, 11008, norms=_OLMO2_NORMS, norms_behind=True, bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, qk_norm="whole", norm="scaled_wide", rotary_wide=True
    ),
    "olmo3": Family(
        50304, 11008, norms=_OLMO2_NORMS, norms_behind=True, bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, qk_norm="whole", norm="scaled_wide", rotary_wide=True
    ),
    "granite": Family(
        32000, 11008, bias_in=_ATTENTION_BIAS, bias_out=_ATTENTION_BIAS, bias_mlp=("mlp_bias", False),
        divide="logits_scaling",
    ),
    "smollm3": Family(
        128256, 11008, kv_heads=4, tied=True, bias_in=_ATTENTION_BIAS, bias_out=_ATTENTION_BIAS,
        bias_mlp=("mlp_bias", False),
    ),
    "starcoder2": Family(
        49152, 12288, kv_heads=2, tied=True, mlp_in=("mlp.c_fc",), mlp_out="mlp.c_proj", gated=False,
        bias_in=("use_bias", True), bias_out=("use_bias", True), bias_mlp=("use_bias", True),
        norm_bias=True, norm="layer",
    ),
    "cohere": Family(
        256000, 22528, tied=True, norms=("input_layernorm",), bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, multiply="logit_scale", unless=("use_qk_norm",), norm="centred",
        parallel=True
    ),
    "cohere2": Family(
        256000, 22528, tied=True, norms=("input_layernorm",), bias_in=_ATTENTION_BIAS,
        bias_out=_ATTENTION_BIAS, multiply="logit_scale", norm="centred", parallel=True),
    "seed_oss": Family(
        155136, 27648, kv_heads=8, head_dim=128, bias_in=("attention_bias", True),
        bias_out=("attention_out_bias", False), bias_mlp=("mlp_bias", False),
    ),
}  # fmt: skip

# The rest of a new model's shape, as transformers fills it in: hidden_size, layers, heads.
NEW_SHAPE: Mapping[str, tuple[int, int, int]] = {
    "gemma": (3072, 28, 16), "gemma2": (2304, 26, 8), "gemma3_text": (2304, 26, 8), "gpt2": (768, 12, 12),
    "gpt_neox": (6144, 44, 64), "phi": (2048, 24, 32), "phi3": (3072, 32, 32), "glm": (4096, 40, 32),
    "glm4": (4096, 40, 32), "smollm3": (2048, 36, 16), "starcoder2": (3072, 30, 24), "cohere": (8192, 40, 64),
    "cohere2": (8192, 40, 64), "seed_oss": (4096, 64, 80),
}  # fmt: skip
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def new_shape(family: str) -> dict[str, Any]:
    """What transformers assumes for a new model of a family, or a text part, where its config is silent."""
    row = FAMILIES[family]
    shape = dict(zip(_SHAPE, NEW_SHAPE.get(family, (4096, 32, 32))))
    return shape if row.inner is None else {**shape, "intermediate_size": row.inner}


def own_forward_reason(config: Mapping[str, Any], remote_code: bool = False) -> str | None:
    """Why a model must run through its own forward, or None where our head and attention paths know it."""
    family = config.get("model_type")
    if remote_code and config.get("auto_map"):
        return "it runs Python code of its own (model.trust_remote_code)"
    row = FAMILIES.get(str(family))
    if row is None:
        return f"family {family!r} has no fused head and attention path here"
    for key in row.unless:
        if config.get(key):
            return f"{family} with {key} has no fused path here"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else None
    if kind in ("dynamic", "longrope", "su"):
        return f"its rotary positions ({kind}) depend on the longest document of a batch"
    return None
