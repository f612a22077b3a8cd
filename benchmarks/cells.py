"""The cells of cpu_peers.py: a random model of a shape, real rows where the assets are, and the same rows as tokens.

text rows --our preparation--> exact ids and labels --> rows.json, which every peer is given, so that nobody
tokenises in its time and all learn the same targets. Without assets the words are made up, the lengths are not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = {  # name: hidden, layers, heads, inner, vocabulary
    "58M/32k": (512, 8, 8, 1376, 32_000),
    "103M/152k": (512, 8, 8, 1376, 152_064),
    "134M/32k": (768, 12, 12, 2048, 32_000),
}
LORA: dict[str, Any] = {"method": "lora", "rank": 8, "alpha": 16}


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: which model on which rows, tuned how, for how many epochs."""

    shape: str
    rows: str
    tuning: dict[str, Any]
    epochs: int = 1
    rows_a_step: int = 8


CELLS = {
    "short-lora": Cell("58M/32k", "short", LORA),
    "short-full": Cell("58M/32k", "short", {"method": "full"}),
    "gsm8k-lora": Cell("58M/32k", "gsm8k", LORA),
    "multi-lora": Cell("58M/32k", "multi", LORA),
    "prompt-lora": Cell("58M/32k", "prompt", LORA),
    "freeze-3": Cell("58M/32k", "short", {"method": "freeze", "last_layers": 2}, epochs=3),
    "expanded-lora": Cell("58M/32k", "expanded", LORA),
    # some 16,000 tokens, the step of a recipe that says nothing
    "expanded-lora-16k": Cell("58M/32k", "expanded", LORA, rows_a_step=48),
    "152k-short-lora": Cell("103M/152k", "short", LORA),
    "152k-short-full": Cell("103M/152k", "short", {"method": "full"}),
    "152k-prompt-lora": Cell("103M/152k", "prompt", LORA),
    "152k-prompt-full": Cell("103M/152k", "prompt", {"method": "full"}),
    "134M-short-lora": Cell("134M/32k", "short", LORA),
}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{% if message.get('tool_calls') %}{{ message['tool_calls'] | tojson }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def assets() -> Path | None:
    """Real data sets and tokenizers, where somebody has them."""
    folder = os.environ.get("TUNESMITH_ASSETS")
    return Path(folder) if folder else None


# ---- rows, as messages ----


def messages_of(kind: str, count: int) -> list[dict[str, Any]]:
    """`count` rows of a kind, drawn with a fixed seed; the same from one day to the next."""
    rng = np.random.default_rng(0)
    rows = (_real if assets() else _made_up)[kind](rng, count)
    return [{"messages": turns} for turns in rows]


def _turn(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def _pairs(
    rng: np.random.Generator, count: int, file: str, question: Callable[[Any], str], answer: str
) -> list:
    folder = assets()
    assert folder is not None
    text = (folder / "datasets" / file).read_text(encoding="utf-8")
    rows = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    rows = [row for row in rows if row[answer].strip()]
    chosen = rng.choice(len(rows), count, replace=False)
    return [[_turn("user", question(rows[i])), _turn("assistant", rows[i][answer])] for i in chosen]


def _alpaca(rng: np.random.Generator, count: int) -> list:
    return _pairs(
        rng, count, "alpaca/alpaca_data_0-4999.json",
        lambda row: "\n".join(filter(None, (row["instruction"], row["input"]))), "output",
    )  # fmt: skip


def _gsm8k(rng: np.random.Generator, count: int) -> list:
    return _pairs(rng, count, "gsm8k/train.jsonl", lambda row: row["question"], "answer")


def _few_shot(rng: np.random.Generator, count: int) -> list:
    """Four solved problems, the same for all, before each question; its answer, about a tenth, is learnt."""
    shots = _gsm8k(rng, 4)
    before = "\n\n".join(f"Question: {q['content']}\nAnswer: {a['content']}" for q, a in shots)
    return [
        [_turn("user", f"{before}\n\nQuestion: {q['content']}"), answer] for q, answer in _gsm8k(rng, count)
    ]


def _dialogues(rng: np.random.Generator, count: int) -> list:
    """Dialogues with tool calls and what the tools said, in plain turns."""
    folder = assets()
    assert folder is not None
    names = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "user"}
    rows = json.loads((folder / "datasets/toolcall/glaive_toolcall_en_200.json").read_text(encoding="utf-8"))
    found = []
    for index in rng.permutation(len(rows))[:count]:
        turns = [_turn(names[t["from"]], t["value"]) for t in rows[index]["conversations"]]
        if rows[index].get("tools"):
            turns = [_turn("system", f"Tools: {rows[index]['tools']}"), *turns]
        found.append(turns)
    return found


def _expanded(
    dialogues: Callable[[np.random.Generator, int], list],
) -> Callable[[np.random.Generator, int], list]:
    """Each answer of a dialogue as a row of its own, all turns before it given: as reasoning templates need it."""

    def expand(rng: np.random.Generator, count: int) -> list:
        rows = []
        for turns in dialogues(rng, count):
            for end in [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]:
                given = [{**t, "weight": 0} if t["role"] == "assistant" else t for t in turns[:end]]
                rows.append([*given, turns[end]])
        return rows[:count]

    return expand


def _words(rng: np.random.Generator, median: float, spread: float, most: int) -> str:
    """Text of made-up words, about `median` tokens long."""
    length = int(np.clip(rng.lognormal(np.log(median), spread), 4, most))
    return " ".join(f"w{number}" for number in np.minimum(rng.zipf(1.3, length), 20_000))


def _made(prompt: float, answer: float, turns: int = 1) -> Callable[[np.random.Generator, int], list]:
    def rows(rng: np.random.Generator, count: int) -> list:
        one = [("user", prompt), ("assistant", answer)] * turns
        return [[_turn(role, _words(rng, size, 0.6, 700)) for role, size in one] for _ in range(count)]

    return rows


_real: dict[str, Callable[[np.random.Generator, int], list]] = {
    "short": _alpaca, "gsm8k": _gsm8k, "prompt": _few_shot, "multi": _dialogues, "expanded": _expanded(_dialogues),
}  # fmt: skip
_made_up: dict[str, Callable[[np.random.Generator, int], list]] = {
    "short": _made(20, 45), "gsm8k": _made(30, 60), "prompt": _made(300, 30), "multi": _made(30, 50, 4),
    "expanded": _expanded(_made(30, 50, 4)),
}  # fmt: skip


# ---- the model ----


def make_model_folder(shape: str, folder: Path) -> Path:
    """Random weights of seed 0 and a tokenizer, once for all contestants."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, inner, vocabulary = SHAPES[shape]
    tokenizer = _tokenizer(vocabulary)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
            intermediate_size=inner, vocab_size=vocabulary, tie_word_embeddings=vocabulary > 100_000,
            max_position_embeddings=4096, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int) -> Any:
    """Qwen's for the large vocabulary, else byte-level BPE trained on the rows themselves; ChatML for both."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    folder = assets()
    if vocabulary > 100_000 and folder:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers/qwen2.5")
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        texts = [
            t["content"]
            for kind in ("short", "gsm8k", "multi")
            for r in messages_of(kind, 150)
            for t in r["messages"]
        ]
        trainer = trainers.BpeTrainer(
            vocab_size=31_000,
            special_tokens=marks,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=marks[1:])
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.chat_template = marks[0], marks[2], CHATML
    return tokenizer


# ---- the job of a cell ----


def make_job(name: str, count: int, threads: int, folder: Path) -> Path:
    """Everything a contestant needs, as files in `folder`: job.json, text.jsonl for us, rows.json for the others."""
    from tunesmith import load_recipe
    from tunesmith.run import prepare

    cell = CELLS[name]
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model_folder(cell.shape, folder.parent / cell.shape.replace("/", "-"))
    text = folder / "text.jsonl"
    text.write_text(
        "".join(json.dumps(row) + "\n" for row in messages_of(cell.rows, count)), encoding="utf-8"
    )
    recipe = {
        "model": str(model),
        "data": {"train": str(text), "validation": None, "max_length": 2048},
        "tuning": cell.tuning,
        "optim": {"lr": 1e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0},
        "budget": {"epochs": cell.epochs},
        "compute": {"precision": "fp32", "checkpointing": "off"},
        "checkpoint": {"every": 100_000},
        "output": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    (samples,) = prepare(load_recipe(path)).data.train
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for sample in samples:
        rows["input_ids"].append([*sample.input_ids.tolist(), int(sample.labels[-1])])
        rows["labels"].append([-100, *sample.labels.tolist()])
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    job = {
        "cell": name, "folder": str(folder), "model": str(model), "tuning": cell.tuning, "epochs": cell.epochs,
        "rows_a_step": cell.rows_a_step, "threads": threads, "count": len(samples),
        "tokens": sum(map(len, rows["input_ids"])),
        "check_tokens": sum(len(ids) - 1 for ids in rows["input_ids"][:8]),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder / "job.json"
