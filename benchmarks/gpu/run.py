"""All that needs a card, in one call: ceilings, kernels against float64, training beside TRL, Liger and Unsloth.

    python benchmarks/gpu/run.py --seconds 560 --out results            all cells, dearest last, until time is up
    python benchmarks/gpu/run.py --tiny --device cpu                    the same ways on a processor, for a look

Models are made at random on the device from a config. Each training cell is a process of its own (`train.py`), so
that none breathes another's air; loss and gradient norm stand beside every rate. A peer that is not installed is
left out by name. Peers at their best settings: fused AdamW, no checkpointing where it fits, packed rows, Liger's
kernels. Written without a card at hand: what has run on one is what has a result in benchmarks/results/gpu-*.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

CELLS = {  # name: model, method, rows, tokens a step, cap in GiB (performance.md's numbers beside)
    "8b-lora-4096": {"model": "8b", "method": "lora", "length": 4096, "step_tokens": 16384},
    "8b-lora-short": {"model": "8b", "method": "lora", "length": None, "step_tokens": 16384},
    "8b-qlora-4096-8gib": {
        "model": "8b",
        "method": "qlora",
        "length": 4096,
        "step_tokens": 4096,
        "cap_gib": 8.0,
    },
    "7b-qlora-4096-8gib": {
        "model": "7b",
        "method": "qlora",
        "length": 4096,
        "step_tokens": 4096,
        "cap_gib": 8.0,
    },
    "8b-qlora-4096": {"model": "8b", "method": "qlora", "length": 4096, "step_tokens": 16384},
    "8b-lora-32k": {"model": "8b", "method": "lora", "length": 32768, "step_tokens": 32768},
    "8b-freeze-2": {"model": "8b", "method": "freeze", "length": 4096, "step_tokens": 16384},
    "8b-freeze-2-kept": {
        "model": "8b",
        "method": "freeze",
        "length": 4096,
        "step_tokens": 16384,
        "kept": True,
    },
    "0.5b-lora-4096": {"model": "0.5b", "method": "lora", "length": 4096, "step_tokens": 4096},
    "8b-lora-64k-offload": {  # every layer recomputed, its input in the main memory
        "model": "8b",
        "method": "lora",
        "length": 65536,
        "step_tokens": 65536,
        "warm": 1,
        "compute": {"checkpointing": "full", "offload": "checkpoints"},
    },
    "8b-full-paged": {
        "model": "8b",
        "method": "full",
        "length": 4096,
        "step_tokens": 16384,
        "optimizer": "paged_adamw_8bit",
    },
    "8b-full-4096": {"model": "8b", "method": "full", "length": 4096, "step_tokens": 16384},
}
TARGETS = {  # tokens a second on one H200
    "8b-lora-4096": 16_000, "8b-lora-short": 16_500, "8b-full-4096": 10_500, "8b-freeze-2": 30_000,
    "8b-freeze-2-kept": 90_000,
}  # fmt: skip
PEERS = ("trl", "trl_liger", "unsloth")


def child(arguments: list[str], seconds: float, first: str = "") -> dict:
    """One process; its last line is JSON. Never raises: what went wrong is the result."""
    environment = {
        **os.environ,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if first:
        environment["PYTHONPATH"] = os.pathsep.join([first, environment.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            env=environment,
        )
    except subprocess.TimeoutExpired as late:
        told = (late.stdout or b"").decode().strip().splitlines()
        ours = bool(told) and told[-1].startswith("{")  # a peer may have been stopped in its own words
        found = json.loads(told[-1]) if ours else {}
        return {**found, "error": f"stopped after {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {
            "error": " | ".join(done.stderr.strip().splitlines()[-3:])[-400:] or f"exit {done.returncode}"
        }
    found: dict = json.loads(lines[-1])
    return found


def main() -> None:
    """Run what fits in the time; keep JSON and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand weights")
    parser.add_argument("--cell", action="append", choices=CELLS)
    parser.add_argument(
        "--who", action="append", choices=("tunesmith", *PEERS), help="contestants; all if none"
    )
    parser.add_argument(
        "--profile", action="store_true", help="a kernel table of our step beside the results"
    )
    parser.add_argument("--warm", type=int, help="steps before those that are timed; 3 if not given")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument(
        "--unsloth-path", default="", help="packages that Unsloth alone needs, an older TRL say"
    )
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + asked.seconds
    kept = asked.out / f"gpu-{datetime.date.today().isoformat()}.json"
    common = ["--device", asked.device, *(["--tiny"] if asked.tiny else [])]
    document: dict = {
        "checks": {}
        if asked.no_checks
        else child([str(HERE / "checks.py"), *common], min(end - time.monotonic(), 120)),
        "cells": [],
    }
    print(json.dumps(document["checks"], indent=1), file=sys.stderr)
    for name in asked.cell or CELLS:
        for who in asked.who or ("tunesmith", *PEERS):
            left, began = end - time.monotonic(), time.monotonic()
            if left < 20:
                break
            job = {"name": name, **CELLS[name], **({"warm": asked.warm} if asked.warm else {})}
            if asked.profile and who == "tunesmith":
                job["profile"] = str(asked.out / f"profile-{name}.txt")
            first = asked.unsloth_path if who == "unsloth" else ""
            found = child([str(HERE / "train.py"), who, json.dumps(job), *common], min(left, 150), first)
            found["process_seconds"] = round(time.monotonic() - began, 1)
            document["cells"].append({"cell": name, "who": who, **found})
            print(json.dumps(document["cells"][-1]), file=sys.stderr)
            kept.write_text(json.dumps(document, indent=1) + "\n")
    kept.with_suffix(".md").write_text(table(document))
    print(table(document))


def table(document: dict) -> str:
    """What was found, a line a process."""
    checks = document["checks"]
    lines = [
        f"# One card, {datetime.date.today().isoformat()}", "",
        f"{checks.get('device', '?')}; {checks.get('versions', '')}", "", "| check | found |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in checks.items() if key not in ("device", "versions")), "",
        "| cell | who | tokens/s | target | MFU | peak GiB | forecast GiB | losses | norms |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]  # fmt: skip
    for found in document["cells"]:
        if "error" in found:
            lines.append(f"| {found['cell']} | {found['who']} | {found['error']} | | | | | | |")
            continue
        losses, norms = (" ".join(f"{x:.4f}" for x in found[key][:3]) for key in ("losses", "norms"))
        target = TARGETS.get(found["cell"]) if found["who"] == "tunesmith" else None
        forecast = f"{found['forecast_bytes'] / 2**30:.2f}" if found.get("forecast_bytes") else ""
        lines.append(
            f"| {found['cell']} | {found['who']} {found['version']} | "
            f"{found['tokens_per_second']:.0f} | {target or ''} | "
            f"{found['mfu']:.1%} | {found['peak_bytes'] / 2**30:.2f} | {forecast} | {losses} | {norms} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
