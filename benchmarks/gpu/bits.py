"""`compute.deterministic` where it runs: `tunesmith train`, twice undisturbed and once killed and resumed, to one hash.

    python benchmarks/gpu/bits.py --seconds 150 --steps 120

The bundled model and data, three methods: LoRA with dropout, full tuning with 8-bit AdamW, QLoRA with dropout. The
third run of each is ended with `kill -9` once a checkpoint of half its steps is there, and goes on with --resume.
Prints a JSON line a method: the sha256 of what each run handed over, and whether they are one. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": {"method": "lora", "rank": 8, "dropout": 0.1}, "optim": {"lr": 1e-3}},
    "full": {"tuning": {"method": "full"}, "optim": {"lr": 3e-4, "optimizer": "adamw_8bit"}},
    "qlora": {
        "tuning": {"method": "lora", "rank": 8, "dropout": 0.1, "base": "nf4"},
        "optim": {"lr": 1e-3},
    },
}


def train(recipe: Path, *more: str) -> subprocess.Popen[bytes]:
    """A run in a process of its own; what it says goes beside its recipe."""
    said = recipe.with_suffix(".log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "train", str(recipe), *more], stdout=said, stderr=said
    )


def hashed(folder: Path) -> str:
    """Of the weights that the run handed over; what it said last where it handed over none."""
    files = [f for f in sorted(folder.rglob("*.safetensors")) if "checkpoints" not in f.parts]
    if not files:
        return "nothing: " + folder.with_suffix(".log").read_text(errors="replace")[-200:]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def one(name: str, kind: str, place: Path, steps: int, end: float) -> str:
    """One run to its end, or to the end of the time."""
    from tunesmith import bundled

    folder = place / f"{name}-{kind}"
    recipe = folder.with_suffix(".json")
    every = max(1, steps // 10)
    made = {
        "model": str(bundled.path("model")), "data": {"train": str(bundled.path("data/orders.json"))},
        "budget": {"steps": steps}, "checkpoint": {"every": every}, "evaluation": {"tasks": [], "probes": []},
        "compute": {"deterministic": True}, "output": str(folder), **METHODS[name],
    }  # fmt: skip
    recipe.write_text(json.dumps(made))
    run = train(recipe)
    if kind == "killed":
        half = f"step-{every * 5:08d}"
        while run.poll() is None and not (folder / "checkpoints" / half).exists() and time.monotonic() < end:
            time.sleep(0.02)
        if run.poll() is not None:
            return f"ended with {run.returncode} before it could be killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        run = train(recipe, "--resume")
    try:
        run.wait(max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        run.kill()
        return "did not end in time"
    return hashed(folder)


def main() -> int:
    """All runs, some at once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--at-once", type=int, default=3)
    asked = parser.parse_args()
    end = time.monotonic() + asked.seconds
    tried = [(name, kind) for name in METHODS for kind in ("first", "second", "killed")]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(asked.at_once) as pool:
        given = [(name, kind, Path(place), asked.steps, end) for name, kind in tried]
        found = dict(zip(tried, pool.map(lambda each: one(*each), given)))
    same = True
    for name in METHODS:
        hashes = {kind: found[name, kind] for kind in ("first", "second", "killed")}
        alike = len({*hashes.values()}) == 1 and bool(re.fullmatch("[0-9a-f]{64}", hashes["first"]))
        same &= alike
        print(json.dumps({"method": name, "one hash": alike, **hashes}), flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
