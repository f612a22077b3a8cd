"""kill -9 at many random moments of a small run: each goes on and ends like the undisturbed one, bit for bit.

    python -m tests.faults.kills --kills 100 --seed 0 [--variant streaming]

A moment is the n-th visit of a point of the engine (faults.py): chosen by the seed, met exactly, the same everywhere.
Every fifth run is killed a second time while it goes on. After each kill everything in the folder must be readable.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.data.streaming.feed import AHEAD
from tunesmith.engine import faults
from tunesmith.engine.checkpoint import verify
from tunesmith.events import read
from tunesmith.folder import RunFolder, read_json
from tunesmith.recipe import Recipe, parse

PRELOADED = [
    "tunesmith.tuning.build", "tests.folders", "tunesmith.run", "tunesmith.engine.loop",
    "transformers.models.llama.modeling_llama", "peft", "peft.tuners.lora.model",
    "tunesmith.evaluation.evaluate", "tunesmith.evaluation.report", "tunesmith.plan.forecast", "tunesmith.tuning.lora",
    "tunesmith.data.prepare", "tunesmith.objectives.language_modelling",
]  # fmt: skip


STREAM = """
def rows(start):
    for n in range(start, 10**9):
        yield "not a row" if n % 17 == 5 else {"prompt": f"add {n} and 1", "response": f"it is {n + 1}"}
"""


# Changes of the recipe: methods with a memory of their own, packing of mixed sources, early stops, stages, a stream.
VARIANTS: dict[str, dict[str, Any]] = {
    "mixed": {
        "data": {"train": [{"path": "rows.jsonl"}, {"path": "more.jsonl", "weight": 2}], "validation": 3,
                 "max_length": 128, "packing": True},
        "tuning": {"method": "full"}, "evaluation": {"every": 3, "early_stop": 2},
    },
    "adalora": {"tuning": {"method": "adalora", "rank": 2}, "budget": {"steps": 12}},
    "relora": {"tuning": {"method": "relora", "rank": 2}, "budget": {"steps": 12}, "objective": "pretrain"},
    "stages": {
        "data": {"validation": 3, "max_length": 128},
        "stages": [
            {"name": "words", "vocabulary": {"data": "more.jsonl", "tokens": 2, "min_count": 2}},
            {"name": "read", "objective": "pretrain", "data": {"train": "more.jsonl"}, "budget": {"steps": 3}},
            {"name": "talk", "data": {"train": "rows.jsonl"}, "budget": {"steps": 3}},
        ],
    },
    # windows of a few rows, so that shards come and go all the time; bad rows; rows that are held out
    "streaming": {
        "data": {
            "train": [
                {"path": "stream.py:rows", "stream": {"window": 5}, "format": "prompt_response"},
                {"path": "rows.jsonl", "weight": 0.3},
            ],
            "validation": 3, "max_length": 128, "on_bad_row": "drop",
        },
        "budget": {"steps": 20}, "evaluation": {"every": 6},
    },
}  # fmt: skip
FILES = ("rows.jsonl", "more.jsonl", "stream.py", "variant")


def recipe(folder: Path) -> Recipe:
    """Dropout, accumulation, evaluations and checkpoints that do not fall together, more than one epoch."""
    changes = json.dumps(VARIANTS.get((folder / "variant").read_text(), {}))
    for file in ("rows.jsonl", "more.jsonl", "stream.py"):
        changes = changes.replace(f'"{file}', f'"{folder / file}')
    return parse(
        {
            "model": str(folder / "model"),
            "output": str(folder / "run"),
            "tuning": {"method": "lora", "rank": 2, "dropout": 0.1},
            "data": {"train": str(folder / "rows.jsonl"), "validation": 3, "max_length": 128},
            "optim": {"lr": 1e-2, "batch_tokens": 100, "warmup": 2},
            "compute": {"precision": "fp32", "micro_tokens": 50},
            "budget": {"epochs": 2},
            "evaluation": {"every": 3},
            "checkpoint": {"every": 2, "keep": 2},
            **json.loads(changes),
        }
    )


def make(folder: Path, variant: str = "") -> Path:
    """A folder with all that the run needs."""
    folder.mkdir()
    make_model(folder / "model")
    for name in ("rows.jsonl", "more.jsonl"):
        write_rows(folder / name, 16)
    (folder / "variant").write_text(variant)
    (folder / "stream.py").write_text(STREAM)
    return folder


def elsewhere(folder: Path, fault: str, threads: int = 1) -> int:
    """The run, or its resumption, in a process of its own; its exit code (negative: the signal that ended it)."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    process = server.Process(target=_train, args=(folder, fault, threads))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(folder: Path, fault: str, threads: int) -> None:
    os.environ["TUNESMITH_FAULT"] = fault
    torch.set_num_threads(threads)
    run.train(recipe(folder), resume=(folder / "run" / "recipe.yaml").exists())
    (folder / "visits.json").write_text(json.dumps(faults._visits))


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same: weights, the last checkpoint, scores, ledger; nothing that is time. Of each stage."""
    there = RunFolder(folder / "run")
    each = [_outcome(one) for one in there.stages or (there,)]
    return {f"{key} {number}": value for number, one in enumerate(each) for key, value in one.items()}


def _outcome(there: RunFolder) -> dict[str, Any]:
    if not there.report.exists():  # a vocabulary: a model with more rows
        return {"trained": load_file(there.path / "model.safetensors"),
                "tokens": (there.path / "tokenizer.json").read_text()}  # fmt: skip
    last = max((path for path in there.checkpoints.glob("step-*")), key=lambda path: path.name)
    report = read_json(there.report)
    state = read_json(last / "state.json")
    state["progress"].pop("seconds")
    kept = ("status", "before", "after", "test", "forgetting", "parameters")
    return {
        "trained": {key: value for file in _trained(there) for key, value in load_file(file).items()},
        "weights": load_file(last / "weights.safetensors"),
        "optimizer": load_file(last / "optimizer.safetensors"),
        "state": json.dumps({"state": state["progress"], "method": state["method"]}),
        "report": {key: report[key] for key in kept},
        "steps": sorted({event["step"] for event in read(there.events) if event["kind"] == "stepped"}),
    }


def _trained(there: RunFolder) -> list[Path]:
    return [
        file for place in (there.adapter, there.model, there.path) for file in place.glob("*.safetensors")
    ]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not the same, bit for bit."""
    found = []
    for key, value in one.items():
        if isinstance(value, dict) and all(torch.is_tensor(one) for one in value.values()):
            same = value.keys() == other[key].keys() and all(
                torch.equal(value[n], other[key][n]) for n in value
            )
        else:
            same = value == other[key]
        if not same:
            found.append(key)
    return found


def unreadable(folder: Path) -> list[str]:
    """What a kill has left that nobody could use: there must be nothing."""
    there = folder / "run"
    bad = [f"{path.name}: {verify(path)}" for path in there.rglob("checkpoints/step-*") if verify(path)]
    for path in there.rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(there).parts):
            try:
                read_json(path)
            except ValueError as error:
                bad.append(f"{path.relative_to(there)}: {error}")
    for one in (RunFolder(there), *RunFolder(there).stages):
        for file in _trained(one):
            load_file(file)
    return bad


def moments(folder: Path, kills: int, seed: int) -> list[tuple[str, int]]:
    """Random visits of an undisturbed run, each at most once as long as there are enough."""
    visits = json.loads((folder / "visits.json").read_text())
    for point in (
        "stream_row",
        "stream_shard",
    ):  # how far ahead of the end a stream is read is nobody's promise
        visits[point] = visits.get(point, 0) - AHEAD - 1
    every = [(point, at) for point, count in sorted(visits.items()) for at in range(1, count + 1)]
    draw = random.Random(seed)
    chosen = draw.sample(every, min(kills, len(every)))
    return chosen + draw.choices(every, k=kills - len(chosen))


def try_all(
    kills: int, seed: int, place: Path, workers: int = 2, variant: str = ""
) -> tuple[Counter[str], list[str]]:
    """Kill at random moments, look, go on, compare. Returns how often each point was met, and every fault found."""
    whole = make(place / "whole", variant)
    expected = undisturbed(whole)
    chosen = moments(whole, kills, seed)
    second = random.Random(seed + 1)
    plans = [[f"{point}:{at}:kill"] for point, at in chosen]
    for plan in plans[4::5]:
        plan.append(f"{second.choice(['step', 'save_weights', 'forward', 'held_out'])}:1:kill")
    return Counter(point for point, _ in chosen), try_each(plans, whole, expected, place, workers)


def undisturbed(whole: Path) -> dict[str, Any]:
    """The outcome of a run that nothing happens to."""
    assert elsewhere(whole, "report:99:kill") == 0
    return outcome(whole)


def try_each(
    plans: list[list[str]], whole: Path, expected: dict[str, Any], place: Path, workers: int = 1
) -> list[str]:
    """Runs that are killed as planned, each in a folder of its own; every fault found."""

    def one(number: int) -> list[str]:
        folder = place / f"kill-{number:03d}"
        folder.mkdir()
        shutil.copytree(whole / "model", folder / "model")
        for name in FILES:
            shutil.copy(whole / name, folder / name)
        found = _one(folder, plans[number], expected)
        shutil.rmtree(folder)
        return found

    with ThreadPoolExecutor(workers) as pool:  # each waits for a process of its own
        return [word for found in pool.map(one, range(len(plans))) for word in found]


def _one(folder: Path, plans: list[str], expected: dict[str, Any]) -> list[str]:
    for plan in plans:
        code = elsewhere(folder, plan)
        ended = (folder / "visits.json").exists()
        # 255: the fork server lost the code, as it may with several at a time; then only a run that ended tells
        if code not in (-signal.SIGKILL, 255, 0) or ((code == 0 or ended) and plan is plans[0]):
            return [f"{plan}: ended with {code} instead of being killed"]
        if bad := unreadable(folder):
            return [f"{plan}: {word}" for word in bad]
    code = elsewhere(folder, "report:99:kill")
    if code not in (0, 255):  # where the code was lost, what the run left behind tells
        return [f"{plans}: going on ended with {code}"]
    found = differences(expected, outcome(folder))
    return [f"{plans}: {key} differs" for key in found]


def main() -> int:
    """Try, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, default="", help="of a run with this in its recipe")
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        met, wrong = try_all(asked.kills, asked.seed, Path(place), asked.workers, asked.variant)
    print("| point | kills |\n|---|---:|")
    for point in faults.POINTS:
        if met[point]:
            print(f"| {point} | {met[point]} |")
    print(
        f"\n{sum(met.values())} kills, seed {asked.seed}: {len(wrong)} faults, {time.monotonic() - began:.0f} s"
    )
    for word in wrong:
        print(word)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
