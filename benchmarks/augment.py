"""Is augmentation worth it? The same few rows with and without their augmented ones, at equal steps, held-out loss.

    python benchmarks/augment.py SET [--rows 200] [--steps 60] [--seeds 3]    benchmarks/results/augment.{json,md}

SET is a data file of questions and answers, such as Chinese Alpaca. Short rows of it train the bundled model, others
are held out (groups of equal rows never part: tunesmith data split). Both arms take as many steps of as many tokens;
only what they read differs. About five CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tunesmith import load_recipe
from tunesmith import run as tunesmith
from tunesmith.data.reshape.augment import Recast, augment
from tunesmith.data.reshape.divide import Wish, divide
from tunesmith.data.reshape.draw import asked
from tunesmith.data.reshape.rows import Losses
from tunesmith.folder import write_json
from tunesmith.recipe import Source

HERE = Path(__file__).resolve().parent
BUNDLED = HERE.parent / "src/tunesmith/bundled"
LONGEST = 160
"""Characters of question and answer together; the bundled model reads 512 tokens at most."""
PER_ROW = 2


def prepare(data: str, rows: int, folder: Path) -> dict[str, Any]:
    """train.jsonl with `rows` short rows, more.jsonl with what they give, validation.jsonl with 400 others."""
    found = [
        item
        for item in asked([Source(path=data)], Losses(), drop_bad=True)
        if item.question is not None and len(item.question) + len(item.answer) <= LONGEST
    ]
    lines = [json.dumps(item.value, ensure_ascii=False) for item in found[: rows + 400]]
    (folder / "short.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    divide([Source(path=str(folder / "short.jsonl"))], Wish(validation=400), str(folder / "parts"))
    made = augment(
        Source(path=str(folder / "parts/train.jsonl")), Recast(per_row=PER_ROW), str(folder / "more.jsonl")
    )
    return {"rows": len(lines) - 400, "augmented": made["rows_out"], "operations": made["operations"]}


def train(folder: Path, arm: str, steps: int, seed: int) -> dict[str, float]:
    """Held-out loss of one run, before and after."""
    sources = [str(folder / "parts/train.jsonl"), *([str(folder / "more.jsonl")] if arm == "with" else [])]
    recipe = folder / f"{arm}-{seed}.yaml"
    values = {
        "model": str(BUNDLED / "model"),
        "data": {"train": sources, "validation": str(folder / "parts/validation.jsonl"), "max_length": 512},
        "tuning": {"method": "lora", "rank": 16},
        "optim": {"lr": 3e-3, "batch_tokens": 2048},
        "budget": {"steps": steps},
        "evaluation": {"every": 1.0 - 1e-9},
        "seed": seed,
        "output": str(folder / f"{arm}-{seed}"),
    }
    recipe.write_text(json.dumps(values), "utf-8")  # JSON is YAML
    done = tunesmith.train(load_recipe(recipe))
    report = json.loads(Path(done.report).read_text())
    return {when: report[when]["heldout"]["loss_nats"] for when in ("before", "after")}


def main() -> None:
    """All cells, the table and the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="SET")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = prepare(words.data, words.rows, folder)
        cells = {
            arm: [train(folder, arm, words.steps, seed) for seed in range(words.seeds)]
            for arm in ("without", "with")
        }
    differences = [b["after"] - a["after"] for a, b in zip(cells["without"], cells["with"])]
    result = {
        "set": Path(words.data).name, **facts, "steps": words.steps, "batch_tokens": 2048, "cells": cells,
        "difference_nats": statistics.mean(differences), "differences": differences,
        "cpu_seconds": round(time.process_time() - started),
    }  # fmt: skip
    write_json(HERE / "results/augment.json", result)
    (HERE / "results/augment.md").write_text(table(result), "utf-8")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """What the JSON says, for people."""
    lines = [
        f"{result['rows']} rows of {result['set']}, {result['augmented']} augmented from them; "
        f"{result['steps']} steps of {result['batch_tokens']:,} tokens in both arms, "
        "LoRA rank 16 on the bundled model; 400 held-out rows.",
        "",
        "| | held-out loss, nats a token (mean ± spread of seeds) | seeds |",
        "|---|---|---|",
    ]
    for arm, cells in result["cells"].items():
        after = [cell["after"] for cell in cells]
        spread = statistics.stdev(after) if len(after) > 1 else 0.0
        seeds = ", ".join(f"{loss:.4f}" for loss in after)
        lines.append(f"| {arm} augmentation | {statistics.mean(after):.4f} ± {spread:.4f} | {seeds} |")
    before = result["cells"]["without"][0]["before"]
    lines += [
        f"| before training | {before:.4f} | |",
        "",
        f"Difference (with - without), seed by seed: {', '.join(f'{d:+.4f}' for d in result['differences'])}; "
        f"mean {result['difference_nats']:+.4f}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
