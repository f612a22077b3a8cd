"""Published models of some families by their shapes, so that a plan can say how large a sibling would fit.

Counted from the shapes; tests hold the counts against the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tunesmith.model.facts import ModelFacts, facts_from_config

# hidden, inner, layers, heads, key-value heads, head size, vocabulary, tied
_Shape = tuple[int, int, int, int, int, int, int, bool]

SERIES: Mapping[str, tuple[str, Mapping[str, _Shape]]] = {
    "qwen2.5": ("qwen2", {
        "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 64, 151936, True),
        "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 128, 151936, True),
        "Qwen2.5-3B": (2048, 11008, 36, 16, 2, 128, 151936, True),
        "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 128, 152064, False),
        "Qwen2.5-14B": (5120, 13824, 48, 40, 8, 128, 152064, False),
        "Qwen2.5-32B": (5120, 27648, 64, 40, 8, 128, 152064, False),
        "Qwen2.5-72B": (8192, 29568, 80, 64, 8, 128, 152064, False),
    }),
    "qwen3": ("qwen3", {
        "Qwen3-0.6B": (1024, 3072, 28, 16, 8, 128, 151936, True),
        "Qwen3-1.7B": (2048, 6144, 28, 16, 8, 128, 151936, True),
        "Qwen3-4B": (2560, 9728, 36, 32, 8, 128, 151936, True),
        "Qwen3-8B": (4096, 12288, 36, 32, 8, 128, 151936, False),
        "Qwen3-14B": (5120, 17408, 40, 40, 8, 128, 151936, False),
        "Qwen3-32B": (5120, 25600, 64, 64, 8, 128, 151936, False),
    }),
    "llama 3": ("llama", {
        "Llama-3.2-1B": (2048, 8192, 16, 32, 8, 64, 128256, True),
        "Llama-3.2-3B": (3072, 8192, 28, 24, 8, 128, 128256, True),
        "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128, 128256, False),
        "Llama-3.1-70B": (8192, 28672, 80, 64, 8, 128, 128256, False),
    }),
    "llama 2": ("llama", {
        "Llama-2-7B": (4096, 11008, 32, 32, 32, 128, 32000, False),
        "Llama-2-13B": (5120, 13824, 40, 40, 40, 128, 32000, False),
        "Llama-2-70B": (8192, 28672, 80, 64, 8, 128, 32000, False),
    }),
    "smollm2": ("llama", {
        "SmolLM2-135M": (576, 1536, 30, 9, 3, 64, 49152, True),
        "SmolLM2-360M": (960, 2560, 32, 15, 5, 64, 49152, True),
        "SmolLM2-1.7B": (2048, 8192, 24, 32, 32, 64, 49152, True),
    }),
    "gemma 2": ("gemma2", {
        "gemma-2-2b": (2304, 9216, 26, 8, 4, 256, 256000, True),
        "gemma-2-9b": (3584, 14336, 42, 16, 8, 256, 256000, True),
        "gemma-2-27b": (4608, 36864, 46, 32, 16, 128, 256000, True),
    }),
    "mistral": ("mistral", {
        "Mistral-7B-v0.3": (4096, 14336, 32, 32, 8, 128, 32768, False),
        "Mistral-Nemo-12B": (5120, 14336, 40, 32, 8, 128, 131072, False),
        "Mistral-Small-24B": (5120, 32768, 40, 32, 8, 128, 131072, False),
    }),
    "olmo 2": ("olmo2", {
        "OLMo-2-1B": (2048, 8192, 16, 16, 16, 128, 100352, False),
        "OLMo-2-7B": (4096, 11008, 32, 32, 32, 128, 100352, False),
        "OLMo-2-13B": (5120, 13824, 40, 40, 40, 128, 100352, False),
        "OLMo-2-32B": (5120, 27648, 64, 40, 8, 128, 100352, False),
    }),
}  # fmt: skip


def members(facts: ModelFacts) -> tuple[ModelFacts, ...]:
    """The published models of the series that a model belongs to, small ones first; none where it belongs to none.

    Of several series of one family, the one that holds a model of its vocabulary.
    """
    for family, shapes in SERIES.values():
        if family == facts.family and any(shape[6] == facts.vocab_size for shape in shapes.values()):
            return tuple(_facts(family, name, shape) for name, shape in shapes.items())
    return ()


@lru_cache(maxsize=64)
def _facts(family: str, name: str, shape: _Shape) -> ModelFacts:
    hidden, inner, layers, heads, kv_heads, head_dim, vocabulary, tied = shape
    config = {
        "model_type": family, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": vocabulary, "tie_word_embeddings": tied,
    }  # fmt: skip
    return facts_from_config(config, name=name)
