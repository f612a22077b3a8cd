"""How right is the time that a plan states? Short runs of the bundled model, forecast against what they took.

    OMP_NUM_THREADS=1 python benchmarks/time_forecast.py [--seconds 20]     benchmarks/results/time_forecast.json
    python docs/make_forecast.py                                            into the package and docs/plan*.md

Each case: plan, as many steps as the plan thinks take so long, train, compare. Nine cases, some four minutes on a quiet
machine; imports and preparation are not counted, evaluations of the held-out loss are. Beside the clock stands the
processor's own time (with one thread they are equal where nothing else runs): a busy machine shows as their difference.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith import bundled, run
from tunesmith.events import Event, Silent, Stepped
from tunesmith.folder import write_json
from tunesmith.plan.device import find_device
from tunesmith.recipe import Recipe, parse

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "time_forecast.json"
FEWEST, MOST = 8, 400

CASES: Mapping[str, dict[str, Any]] = {
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
    """When each step ended, by the clock and by the processor."""

    ends: list[tuple[float, float]] = field(default_factory=list)

    def event(self, event: Event) -> None:
        """A step's end."""
        if isinstance(event, Stepped):
            self.ends.append((time.perf_counter(), time.process_time()))

    def whole(self, which: int) -> float:
        """Seconds of all steps; the first is taken to be as long as the others, for it warms up."""
        return (self.ends[-1][which] - self.ends[0][which]) * len(self.ends) / (len(self.ends) - 1)


def recipe_of(case: Mapping[str, Any], folder: Path, steps: int) -> Recipe:
    """A case as a recipe of so many steps."""
    places = {"LONG": str(folder / "long.jsonl"), "TEXT": str(folder / "text.txt")}
    data = {"train": str(bundled.path("data") / "general.jsonl"), "validation": 0.05, **case.get("data", {})}
    data["train"] = places.get(data["train"], data["train"])
    return parse(
        {
            "model": str(bundled.path("model")), "tuning": {"method": "lora"},
            "optim": {"lr": 1e-4, "batch_tokens": 2048}, "evaluation": {"every": 0.5},
            "checkpoint": {"every": 0.5, "keep": 1}, **case, "data": data, "budget": {"steps": steps},
            "output": str(folder / f"run-{steps}"),
        }
    )  # fmt: skip


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
    wall, processor = clock.whole(0), clock.whole(1)
    return {
        "what": name, "steps": steps, "tokens": plan["run"]["tokens"], "precision": plan["precision"],
        "predicted_seconds": round(plan["run"]["seconds"], 3), "measured_seconds": round(wall, 3),
        "processor_seconds": round(processor, 3), "error": plan["run"]["seconds"] / wall - 1,
    }  # fmt: skip


def main() -> None:
    """All cases, printed as they come and written at the end."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument(
        "--seconds", type=float, default=20.0, help="what each run should take by its forecast"
    )
    words.add_argument("--out", type=Path, default=OUT)
    words.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    given = words.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device, rows = find_device(), []
    for name, case in list(CASES.items())[: given.cases]:
        rows.append(row := measure(name, case, given.seconds))
        print(f"{name:32} forecast {row['predicted_seconds']:7.1f} s   took {row['measured_seconds']:7.1f} s   "
              f"{100 * row['error']:+5.0f}%   (processor {row['processor_seconds']:.1f} s)", flush=True)  # fmt: skip
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
