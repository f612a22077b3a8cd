"""Tunesmith against HF Trainer and TRL on a CPU: same rows, same tokens, fp32, same loss; A/B/A/B in one run.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install -r benchmarks/peers.txt
    python benchmarks/cpu_peers.py --peers /tmp/peers/bin/python --cell short-lora --rounds 2

Each contestant runs in its own process (`benchmarks/contestants.py NAME`), on samples tokenised beforehand and
written once, so that tokenising is in nobody's time. Printed and kept: learnt tokens a second (wall and CPU time),
peak resident memory, and the loss of the first steps, which must agree.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SHAPES = {  # name: hidden, layers, heads, kv heads, intermediate, vocabulary
    "58M/32k": (512, 8, 8, 8, 1376, 32_000),
    "103M/152k": (512, 8, 8, 8, 1376, 152_000),
    "134M/32k": (768, 12, 12, 12, 2048, 32_000),
}
CELLS = {  # name: shape, kind of rows, method
    "short-lora": ("58M/32k", "short", "lora"),
    "short-full": ("58M/32k", "short", "full"),
    "multi-lora": ("58M/32k", "multi", "lora"),
    "prompt-heavy-152k-lora": ("103M/152k", "prompt_heavy", "lora"),
}
CONTESTANTS = ("tunesmith", "hf_default", "hf_grouped", "trl_default", "trl_packing")


def make_rows(kind: str, count: int, seed: int, vocabulary: int) -> dict[str, list[list[int]]]:
    """Rows of random tokens whose lengths follow instruction data. Returns input_ids and labels (not shifted).

    short: median 185, mean 230, 74% learnt (Alpaca); multi: median 383, tail to 1700, 63% learnt (tool dialogues);
    prompt_heavy: short rows of which 10% is learnt. Token ids are Zipf-like, as text is.
    """
    rng = np.random.default_rng(seed)
    median, spread, longest, learnt = {
        "short": (185, 0.62, 800, 0.74), "multi": (383, 0.75, 1700, 0.63), "prompt_heavy": (200, 0.5, 800, 0.10),
    }[kind]  # fmt: skip
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for _ in range(count):
        length = int(np.clip(rng.lognormal(np.log(median), spread), 16, longest))
        ids = np.minimum(rng.zipf(1.3, length) + 2, vocabulary - 1)
        answer = max(1, int(length * learnt))
        labels = np.where(np.arange(length) >= length - answer, ids, -100)
        rows["input_ids"].append(ids.tolist())
        rows["labels"].append(labels.tolist())
    return rows


def run(python: str, name: str, job: Path) -> dict:
    """One contestant, in its own process."""
    done = subprocess.run(
        [python, str(HERE / "contestants.py"), name, str(job)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Run the cells asked for and write JSON and a table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable, help="python that has trl and datasets")
    parser.add_argument("--cell", action="append", choices=CELLS)
    parser.add_argument("--contestant", action="append", choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    results = []
    for cell in asked.cell or CELLS:
        shape, kind, method = CELLS[cell]
        job = asked.work / f"{cell}.json"
        rows = make_rows(kind, asked.rows, 0, SHAPES[shape][-1])
        job.write_text(
            json.dumps({"shape": SHAPES[shape], "method": method, "threads": asked.threads, "rows": rows})
        )
        for round_number in range(asked.rounds):
            for name in asked.contestant or CONTESTANTS:
                python = sys.executable if name == "tunesmith" else asked.peers
                found = {"cell": cell, "round": round_number, **run(python, name, job)}
                results.append(found)
                print(json.dumps(found), file=sys.stderr)
    table = summary(results)
    stamp = datetime.date.today().isoformat()
    head = f"{stamp}, {platform.processor() or platform.machine()}, {asked.threads} threads, {asked.rows} rows a cell"
    (HERE / "results" / f"cpu-{stamp}.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "results" / f"cpu-{stamp}.md").write_text(f"# CPU, against peers\n\n{head}\n\n{table}\n")
    print(table)


def summary(results: list[dict]) -> str:
    """Best round of each contestant, and Tunesmith's ratio to it."""
    lines = [
        "| cell | contestant | learnt tokens/s | a CPU second | peak MiB | first losses | Tunesmith is |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in dict.fromkeys(result["cell"] for result in results):
        best: dict[str, dict] = {}
        for result in (r for r in results if r["cell"] == cell):
            if "error" not in result and result["targets_per_second"] > best.get(result["name"], {}).get(
                "targets_per_second", 0
            ):
                best[result["name"]] = result
        ours = best.get("tunesmith", {}).get("targets_per_second")
        for name, result in best.items():
            ratio = f"{ours / result['targets_per_second']:.2f}x" if ours else "-"
            losses = " ".join(f"{loss:.3f}" for loss in result["losses"][:3])
            lines.append(
                f"| {cell} | {name} {result['version']} | {result['targets_per_second']:.0f} | "
                f"{result['targets_per_cpu_second']:.0f} | {result['peak_bytes'] / 2**20:.0f} | {losses} | {ratio} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
