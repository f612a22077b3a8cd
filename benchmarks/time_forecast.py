"""How right is the time that a plan states? Short runs of the bundled model, forecast against what they took.

    OMP_NUM_THREADS=1 python benchmarks/time_forecast.py [--seconds 15]     benchmarks/results/time_forecast.json
    OMP_NUM_THREADS=2 GOMP_SPINCOUNT=700 python benchmarks/time_forecast.py --out .../time_forecast_two_threads.json
    python docs/make_forecast.py                                            into the package and docs/plan*.md

Each case: plan, as many steps as the plan thinks take so long, train, compare what report.json says of both. Eleven
cases, under five minutes on a quiet machine; counted is what plan.run.seconds_count names. Beside the clock stands the
processor's own time (with one thread they are equal where nothing else runs): a busy machine shows as their difference.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith import bundled, run
from tunesmith.events import Evaluated, Event, Silent, Started, Stepped
from tunesmith.folder import read_json, write_json
from tunesmith.plan.device import find_device
from tunesmith.plan.measured import COUNTED
from tunesmith.recipe import Recipe, parse

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "time_forecast.json"
FEWEST, MOST = 8, 400

CASES: Mapping[str, dict[str, Any]] = {
    "the demo's mixture, lora": {"data": {"train": "DEMO", "max_length": 256}},
    "the same in bf16": {"data": {"train": "DEMO", "max_length": 256}, "compute": {"precision": "bf16"}},
    "lora, short rows, packed": {},
    "full, short rows, packed": {"tuning": {"method": "full"}},
    "lora, short rows, padded": {"data": {"packing": False}},
    "freeze last 2, short rows": {"tuning": {"method": "freeze", "last_layers": 2}},
    "qlora, short rows": {"tuning": {"method": "qlora"}},
    "lora, small steps": {"optim": {"lr": 1e-4, "batch_tokens": 256}},
    "lora, rows of 320 tokens": {"data": {"train": "LONG", "max_length": 512}},
    "full, rows of 320 tokens": {"data": {"train": "LONG", "max_length": 512}, "tuning": {"method": "full"}},
    "pretrain, full, texts": {"objective": "pretrain", "data": {"train": "TEXT"}, "tuning": {"method": "full"}},
}  # fmt: skip


@dataclass
class Clock(Silent):
    """The processor's time from the start of training to the last thing that the plan counts."""

    began: float = 0.0
    ended: float = 0.0

    def event(self, event: Event) -> None:
        """The start, a step or an evaluation."""
        if isinstance(event, Started):
            self.began = time.process_time()
        if isinstance(event, Stepped | Evaluated):
            self.ended = time.process_time()


def recipe_of(case: Mapping[str, Any], folder: Path, steps: int) -> Recipe:
    """A case as a recipe of so many steps."""
    places = {"LONG": str(folder / "long.jsonl"), "TEXT": str(folder / "text.txt")}
    data = {"train": str(bundled.path("data") / "general.jsonl"), "validation": 0.05, **case.get("data", {})}
    data["train"] = demo_mixture() if data["train"] == "DEMO" else places.get(data["train"], data["train"])
    return parse(
        {
            "model": str(bundled.path("model")), "tuning": {"method": "lora"},
            "optim": {"lr": 1e-4, "batch_tokens": 2048}, "evaluation": {"every": 0.5},
            "checkpoint": {"every": 0.5, "keep": 1}, **case, "data": data, "budget": {"steps": steps},
            "output": str(folder / f"run-{steps}"),
        }
    )  # fmt: skip


def demo_mixture() -> list[dict[str, Any]]:
    """What the demo trains on."""
    weights = {
        "orders.json": 3,
        "notes.jsonl": 4,
        "dialogues.jsonl": 3,
        "history.jsonl": 2,
        "general.jsonl": 8,
    }
    return [{"path": str(bundled.path("data") / name), "weight": weight} for name, weight in weights.items()]


def write_data(folder: Path) -> None:
    """Rows of some 320 tokens, and texts, from the bundled rows."""
    lines = (bundled.path("data") / "general.jsonl").read_text(encoding="utf-8").splitlines()
    turns = [json.loads(line)["messages"] for line in lines]
    said = [f"{turn[0]['content']} {turn[-1]['content']}" for turn in turns]
    rows = [
        {"prompt": said[n], "response": " ".join(said[n : n + 14])[:700]} for n in range(0, len(said) - 14, 6)
    ]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "text.txt").write_text("\n\n".join(said), encoding="utf-8")


def measure(name: str, case: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """A case's forecast beside what it took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder)
        first = run.plan(recipe_of(case, folder, FEWEST))["run"]
        steps = max(FEWEST, min(MOST, round(seconds * FEWEST / first["seconds"])))
        recipe, clock = recipe_of(case, folder, steps), Clock()
        plan = run.plan(recipe)
        run.train(recipe, reporter=clock)
        told = read_json(Path(recipe.output) / "report.json")["plan"]
    wall, processor = told["measured_seconds"], clock.ended - clock.began
    return {
        "what": name, "steps": steps, "tokens": plan["run"]["tokens"], "precision": plan["precision"],
        "predicted_seconds": round(plan["run"]["seconds"], 3), "measured_seconds": round(wall, 3),
        "processor_seconds": round(processor, 3), "busy": round(plan["run"]["busy"], 2), "counts": COUNTED,
        "error": plan["run"]["seconds"] / wall - 1,
    }  # fmt: skip


def main() -> None:
    """All cases, printed as they come and written at the end."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument(
        "--seconds", type=float, default=15.0, help="what each run should take by its forecast"
    )
    words.add_argument("--out", type=Path, default=OUT)
    words.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    given = words.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device, rows = find_device(), []
    for name, case in list(CASES.items())[: given.cases]:
        rows.append(row := measure(name, case, given.seconds))
        print(f"{name:32} forecast {row['predicted_seconds']:7.1f} s   took {row['measured_seconds']:7.1f} s   "
              f"{100 * row['error']:+5.0f}%   (processor {row['processor_seconds']:.1f} s, "
              f"busy {row['busy']:.1f})", flush=True)  # fmt: skip
    document = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": {"kind": device.kind, "name": device.name},
        "threads": os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))),
        "versions": {name: version(name) for name in ("tunesmith", "torch", "transformers")},
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, document)
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
