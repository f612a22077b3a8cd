"""Seconds from `tunesmith train` to its first step, above the bare import of torch, transformers and peft.

    python benchmarks/first_step.py --rounds 5

The 58M shape of cells.py, short instructions, LoRA; both in processes of their own, in turn. The step is the first
line `stepped` of events.jsonl: it holds start, recipe, data (from the cache but in the first round), forecast,
weights, adapter, the trial of the largest batch, and the step itself; `ready` ends before the trial. CPU seconds
are those of the whole process, its checkpoint and report included. The least of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cells import make_job

IMPORT = "import torch, transformers, peft"


def spent(command: list[str], events: Path | None = None) -> dict[str, float]:
    """Wall seconds (of a training: until its first step began to count, and was done) and CPU seconds of a process."""
    began, before = time.time(), os.times()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    if done.returncode != (130 if events else 0):
        sys.exit(done.stderr)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    if events is None:
        return {"wall": time.time() - began, "cpu": cpu}
    at = {event["kind"]: event["time"] for event in map(json.loads, events.read_text().splitlines())}
    return {"ready": at["started"] - began, "wall": at["stepped"] - began, "cpu": cpu}


def main() -> None:
    """Measure in turn and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    asked = parser.parse_args()
    folder = (asked.work / "short-lora").resolve()
    make_job("short-lora", 64, 2, folder)
    train = [sys.executable, "-m", "tunesmith", "train", str(folder / "recipe.yaml"), "--stop-after", "1"]
    found: dict[str, list[dict[str, float]]] = {"import": [], "train": []}
    for _ in range(asked.rounds):
        shutil.rmtree(folder / "run", ignore_errors=True)
        found["import"].append(spent([sys.executable, "-c", IMPORT]))
        found["train"].append(spent([*train, "optim.batch_tokens=800"], folder / "run" / "events.jsonl"))
    least = {name: {key: min(t[key] for t in times) for key in times[0]} for name, times in found.items()}
    above = least["train"]["wall"] - least["import"]["wall"]
    print(json.dumps({"least": least, "wall seconds above the import": above, "rounds": found}, indent=1))


if __name__ == "__main__":
    main()
