"""Models of the GPU cells as configs, rows of random tokens, and the arithmetic of a rate: no weights are needed."""

from __future__ import annotations

from typing import Any

import numpy as np

PEAK_FLOPS = 989e12  # bf16, dense, as the datasheets of H100 and H200 say; MFU is of this
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "rope_theta": 500000.0},
    "7b": {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000},
    "0.5b": {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True},
    "tiny": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512},
}  # fmt: skip


def config_values(job: dict[str, Any], tiny: bool) -> dict[str, Any]:
    """The config of a job's model."""
    return {"max_position_embeddings": 131072, "pad_token_id": 0, **SHAPES["tiny" if tiny else job["model"]]}


def rows(job: dict[str, Any], steps: int, vocabulary: int) -> list[list[np.ndarray]]:
    """Token ids of each step's documents, Zipf-like; of one length, or short ones with Alpaca's long tail."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(steps):
        left, step = job["step_tokens"], []
        while left >= 16:
            length = job["length"] or int(np.clip(rng.lognormal(np.log(150), 0.62), 16, 800))
            length = min(length, left)
            step.append(np.minimum(rng.zipf(1.2, length) + 2, vocabulary - 1).astype(np.int32))
            left -= length
        made.append(step)
    return made


def matmul_weights(values: dict[str, Any]) -> tuple[int, int]:
    """Weights that a token is multiplied with: (all layers, head)."""
    d, heads = values["hidden_size"], values["num_attention_heads"]
    kv = values["num_key_value_heads"] * (d // heads)
    layer = 2 * d * d + 2 * d * kv + 3 * d * values["intermediate_size"]
    return values["num_hidden_layers"] * layer, d * values["vocab_size"]


def flops_a_token(job: dict[str, Any], values: dict[str, Any], length: float) -> float:
    """6 N of full tuning; 4 N of LoRA, which needs no gradient of N; freeze: 2 below, 6 above, 4 in the head.

    Attention is causal: 3 times 2 L d s (performance.md, section 3).
    """
    trunk, head = matmul_weights(values)
    layers = values["num_hidden_layers"]
    attention = 6 * layers * values["hidden_size"] * length
    match job["method"]:
        case "full":
            return 6 * (trunk + head) + attention
        case "freeze" if job.get("kept"):
            return 6 * trunk * 2 / layers + 4 * head + attention * 2 / layers
        case "freeze":
            return 2 * trunk * (layers - 2) / layers + 6 * trunk * 2 / layers + 4 * head + attention / 3
        case _:
            return 4 * (trunk + head) + attention
