"""Expanded dialogues: rows that begin alike laid as trees, against our own packed rows; A/B/A/B in one process.

    python benchmarks/sharing.py --data ASSETS/datasets/toolcall/FILE.jsonl --tokenizer ASSETS/tokenizers/NAME

Dialogues of the file (lists of turns under conversations or messages), a row for each assistant turn that learns that
turn alone; LoRA rank 8 on a random Llama of 58M, fp32, a step of all rows of a few dialogues. Printed as JSON: process
CPU seconds of both ways, tokens computed, loss and gradient norm of both.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPE = (512, 8, 8, 8, 1376, 32_000)


def expanded(path: Path, tokenizer: str, dialogues: int, longest: int) -> list[list[Any]]:
    """Per dialogue a list of samples, one an assistant turn."""
    from transformers import AutoTokenizer

    from tunesmith.data.samples import Rendering, to_sample

    words = AutoTokenizer.from_pretrained(tokenizer)
    rows = json.loads(path.read_text()) if path.suffix == ".json" else [json.loads(x) for x in path.open()]
    found = []
    for number, row in enumerate(rows):
        ids: list[int] = []
        samples = []
        for text, answers in turns(row):
            new = [n % SHAPE[-1] for n in words(text, add_special_tokens=False)["input_ids"]]
            if answers and ids and len(ids) + len(new) <= longest:
                learnt = np.arange(len(ids) + len(new)) >= len(ids)
                samples.append(to_sample(Rendering(np.array(ids + new), learnt, f"{path.name}:{number + 1}")))
            ids += new
        if samples:
            found.append(samples)
        if len(found) == dialogues:
            break
    return found


def turns(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """(text, is an answer) of each turn, tools and system first."""
    begun = [str(row[key]) for key in ("tools", "system") if row.get(key)]
    found = [(f"<|system|>{text}\n", False) for text in begun]
    for turn in row.get("conversations") or row.get("messages") or []:
        role = turn.get("from") or turn.get("role")
        text = str(turn.get("value") or turn.get("content") or turn.get("tool_calls") or "")
        found.append((f"<|{role}|>{text}\n", role in ("gpt", "assistant", "function_call")))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--micro", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=SHAPE[1])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.data.loader import batches
    from tunesmith.data.sharing import shared_batches
    from tunesmith.kernels import attention
    from tunesmith.model import load
    from tunesmith.objectives.language_modelling import summed_loss
    from tunesmith.recipe import Lora
    from tunesmith.tuning.build import build
    from tunesmith.tuning.method import Setting

    assert load.DTYPES  # registers the attention
    hidden, _, heads, kv_heads, inner, vocabulary = SHAPE
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=asked.layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=8192,
    )  # fmt: skip
    config._attn_implementation = attention.NAME
    torch.manual_seed(0)
    tuned = build(Lora(method="lora", rank=8)).prepare(LlamaForCausalLM(config), Setting())
    tuned.model.train()
    samples = [
        s for one in expanded(asked.data, asked.tokenizer, asked.dialogues, asked.longest) for s in one
    ]
    ways = {
        "packed": lambda: list(batches(samples, asked.micro, True)),
        "shared": lambda: list(shared_batches(samples, asked.micro) or []),
    }
    result: dict[str, Any] = {"rows": len(samples), "tokens": sum(len(s.input_ids) for s in samples)}
    for _ in range(asked.rounds):
        for name, make in ways.items():
            tuned.model.zero_grad()
            began, total, computed = time.process_time(), 0.0, 0
            for batch in make():
                loss = summed_loss(tuned.model, batch)
                loss.backward()
                total, computed = total + float(loss.detach()), computed + batch.tokens
            seconds = time.process_time() - began
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in tuned.trainable.values()]))
            known = result.get(name, {"cpu_seconds": float("inf")})
            best = min(seconds, known["cpu_seconds"])
            result[name] = {"cpu_seconds": best, "computed": computed, "loss": total, "grad_norm": norm}
    result["ratio"] = result["packed"]["cpu_seconds"] / result["shared"]["cpu_seconds"]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
