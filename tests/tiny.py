"""Tiny models and samples, made in the test: no files, no network, fixed seeds."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.data.samples import IGNORED, Sample, SampleSet, collect
from tunesmith.kernels import attention
from tunesmith.model import load  # registers packed attention

assert load.DTYPES

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_WINDOW = {"sliding_window": 4, "num_hidden_layers": 3}
# Every family of families.py, with what makes it differ from llama set so that it matters.
DENSE: dict[str, dict[str, object]] = {
    **{family: {} for family in FAMILIES},
    "gemma": {},
    "gemma2": {
        **_WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **_WINDOW, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "gpt2": {},
    "gpt_neox": {"use_parallel_residual": True},
    "phi": {},
    "phi3": {},
    "glm": {},
    "glm4": {},
    "olmo": {"clip_qkv": 1.5},
    "olmo2": {},
    "olmo3": {**_WINDOW, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "granite": {
        "logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0,
        "attention_multiplier": 0.2,
    },
    "smollm3": {"num_hidden_layers": 4},
    "starcoder2": {"sliding_window": 4},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {**_WINDOW, "logit_scale": 0.3, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "seed_oss": {},
}  # fmt: skip


def tiny_config(family: str = "llama", **changes: object) -> object:
    """A decoder of a few thousand parameters."""
    values = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family == "bloom":
        values |= {"n_head": 4, "n_layer": 2}
    if family == "opt":
        values |= {"ffn_dim": 48, "word_embed_proj_dim": 24}
    if family in FAMILIES:
        values["tie_word_embeddings"] = False
    return AutoConfig.for_model(family, **{**values, **DENSE.get(family, {}), **changes})


def tiny_model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object):
    """A random model with packed attention, weights large enough that attention matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            tiny_config(family, **changes), dtype=dtype, attn_implementation=attention.NAME
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.2)
                elif family not in FAMILIES:  # norms and biases that do something
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def random_samples(count: int, seed: int = 0, longest: int = 24, learnt_share: float = 0.6) -> SampleSet:
    """Samples of random tokens, each with at least one target."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        length = int(rng.integers(2, longest + 1))
        ids = rng.integers(3, 97, length + 1).astype(np.int32)
        labels = np.where(rng.random(length) < learnt_share, ids[1:], IGNORED).astype(np.int32)
        labels[-1] = ids[-1]
        samples.append(Sample(ids[:-1], labels, f"random:{number + 1}"))
    return collect(samples)
