"""What new tokens gain in decoding speed, and whether their rows had better begin as a mean or at random.

python benchmarks/vocabulary.py --text stories.txt [--model FOLDER] [--tokens 512] [--steps 60] [--seeds 3]

Speed: the same text is written token by token, by the old model and by the extended one in turns (A B A B ..), in
processor time of this process; characters a second = tokens a second x characters a token. Rows: both beginnings
learn the same text for the same steps, once a seed; bits a byte of held-out text, which do not depend on the tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def bundled() -> str:
    """The model that comes with the package."""
    import tunesmith

    return str(Path(tunesmith.__file__).parent / "bundled" / "model")


def extended(model: str, text: str, tokens: int, init: str, seed: int, output: Path) -> str:
    """A copy of the model with more tokens."""
    from tunesmith.extended import extend
    from tunesmith.recipe import Model, Vocabulary

    section = Vocabulary.model_validate({"data": text, "tokens": tokens, "min_count": 5, "init": init})
    extend(section, Model(path=model), output, seed=seed)
    return str(output)


def speeds(old: str, new: str, text: str, repeats: int, count: int) -> dict[str, Any]:
    """Both models in turns, on a text of about so many old tokens."""
    from tunesmith.model.decoding import decoding_speeds
    from tunesmith.opened import open_model

    opened = {"before": open_model(old), "after": open_model(new)}
    ids = opened["before"].tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    sample = text[: ids["offset_mapping"][min(count, len(ids["input_ids"])) - 1][1]]
    models = {name: (each.model, each.tokenizer) for name, each in opened.items()}
    found: dict[str, Any] = decoding_speeds(models, sample, repeats)
    shorter = found["after"]["characters_a_token"] / found["before"]["characters_a_token"]
    runs = zip(*(found[name]["tokens_a_second_runs"] for name in ("before", "after")))
    gains = [shorter * after / before for before, after in runs]
    found["gain"] = {"median": statistics.median(gains), "spread": [min(gains), max(gains)]}
    return found


def learnt(model: str, text: str, held: str, steps: int, seed: int, output: Path) -> dict[str, float]:
    """Bits a byte of held-out text before and after so many steps of pre-training."""
    from tunesmith import run
    from tunesmith.recipe import parse

    recipe = parse(
        {
            "model": model,
            "output": str(output),
            "data": {"train": text, "validation": held, "max_length": 256, "on_bad_row": "drop"},
            "objective": "pretrain",
            "tuning": {"method": "full"},
            "optim": {"lr": 5e-4, "batch_tokens": 2048},
            "compute": {"precision": "fp32"},
            "budget": {"steps": steps},
            "evaluation": {"every": steps},
            "checkpoint": {"every": steps},
            "seed": seed,
        }
    )
    report = json.loads(Path(run.train(recipe).report).read_text())
    return {when: report[when]["heldout"]["bits_per_byte"] for when in ("before", "after")}


def table(found: dict[str, Any]) -> str:
    """For the docs."""
    lines = ["| | before | after |", "|---|---:|---:|"]
    speed = found["speed"]
    for name, words in (
        ("characters_a_token", "characters a token"),
        ("tokens_a_second", "tokens a second"),
        ("characters_a_second", "characters a second"),
    ):
        cells = []
        for when in ("before", "after"):
            spread = speed[when].get(f"{name}_spread")
            shown = f"{speed[when][name]:.3g}"
            cells.append(shown if spread is None else f"{shown} ({spread[0]:.3g} to {spread[1]:.3g})")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    gain = speed["gain"]
    lines.append(f"\ngain {gain['median']:.2f}x ({gain['spread'][0]:.2f} to {gain['spread'][1]:.2f})\n")
    lines += ["| rows begin as | seed | bits a byte, untrained | after training |", "|---|---:|---:|---:|"]
    for each in found["rows"]:
        lines.append(f"| {each['init']} | {each['seed']} | {each['before']:.3f} | {each['after']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", required=True, help="a .txt of documents")
    parser.add_argument("--model", default=bundled())
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--count", type=int, default=96, help="tokens that are decoded at a time")
    parser.add_argument("--out", default=str(HERE / "results" / "vocabulary.json"))
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="vocabulary-"))
    whole = Path(args.text).read_text(encoding="utf-8")
    documents = whole.split("<|endoftext|>") if "<|endoftext|>" in whole else whole.split("\n\n")
    documents = [each.strip() for each in documents if each.strip()]
    cut = max(1, len(documents) // 20)
    train, held = place / "train.txt", place / "held.txt"
    for path, part in ((train, documents[:-cut]), (held, documents[-cut:])):
        path.write_text("\n<|endoftext|>\n".join(part) + "\n", encoding="utf-8")
    try:
        rows = []
        for seed in range(args.seeds):
            for init in ("mean", "random"):
                model = extended(args.model, str(train), args.tokens, init, seed, place / f"{init}-{seed}")
                found = learnt(model, str(train), str(held), args.steps, seed, place / f"run-{init}-{seed}")
                rows.append({"init": init, "seed": seed, **found})
                print(rows[-1], file=sys.stderr, flush=True)
        sample = "\n\n".join(documents[-cut:])
        speed = speeds(args.model, str(place / "mean-0"), sample, args.repeats, args.count)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    told = {
        "text": Path(args.text).name,
        "tokens": args.tokens,
        "steps": args.steps,
        "speed": speed,
        "rows": rows,
    }
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(told, indent=2) + "\n")
    print(table(told))


if __name__ == "__main__":
    main()
