"""What torch.compile of each decoder layer gains on a processor: transformers' Llama of 58M, eager and compiled, A/B.

    python benchmarks/compiled.py [--method full] [--dynamic] [--rounds 3]

Batches of eight rows of 100 tokens, or with --dynamic of a new length in each step, as packed rows have. Printed as
JSON: seconds of the first step (compiled: with what compiling took), then the least CPU seconds of ten steps.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

LENGTHS = (100, 110, 96, 120, 104, 88, 130, 90, 115, 101)
VOCABULARY, ROWS = 32_000, 8


def model_of(method: str, compiled: bool, dynamic: bool) -> torch.nn.Module:
    """Random weights; LoRA by PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
        vocab_size=VOCABULARY, use_cache=False,
    )  # fmt: skip
    lm: Any = LlamaForCausalLM(config)
    layers = lm.model.layers
    if method == "lora":
        lm = get_peft_model(lm, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for layer in layers if compiled else ():
        layer.compile(dynamic=dynamic or None)
    return lm


def seconds(lm: torch.nn.Module, lengths: tuple[int, ...]) -> float:
    """CPU seconds of a step for each length."""
    began = time.process_time()
    for length in lengths:
        ids = torch.randint(0, VOCABULARY, (ROWS, length))
        lm(input_ids=ids, labels=ids).loss.backward()
        lm.zero_grad(set_to_none=True)
    return time.process_time() - began


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lengths = LENGTHS if asked.dynamic else LENGTHS[:1] * len(LENGTHS)
    models = {
        name: model_of(asked.method, name == "compiled", asked.dynamic) for name in ("eager", "compiled")
    }
    first = {name: seconds(lm, lengths[:1]) for name, lm in models.items()}
    for lm in models.values():
        seconds(lm, lengths)
    rounds = [{name: seconds(lm, lengths) for name, lm in models.items()} for _ in range(asked.rounds)]
    least = {name: round(min(each[name] for each in rounds), 2) for name in models}
    print(
        json.dumps(
            {"method": asked.method, "dynamic": asked.dynamic, "first step": first, "ten steps": least}
        )
    )


if __name__ == "__main__":
    main()
