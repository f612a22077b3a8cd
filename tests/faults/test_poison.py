"""Row 28 on real data: poison rows in Alpaca are found, named by file and row with their words, and skipped."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tunesmith import run
from tunesmith.events import read
from tunesmith.folder import read_json
from tunesmith.recipe import parse

ASSETS = Path(os.environ.get("TUNESMITH_ASSETS", "nowhere"))
MODEL = ASSETS / "models" / "stories260k"
ROWS = ASSETS / "datasets" / "alpaca" / "alpaca_data_0-4999.json"
PLACES = (100, 250, 400)
LETTERS = "零䂖ßØ∰♜ЖЩqxzjkvw#%^&*~`|\\}{][@$0123456789"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not ROWS.exists(), reason="TUNESMITH_ASSETS is not set"),
]


def poisoned(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Three rows of letters that mean nothing, among the others."""
    draw, found = random.Random(3), list(rows)
    for at in PLACES:
        answer = "".join(draw.choice(LETTERS) for _ in range(150))
        found.insert(at, {"instruction": f"Name colour {at}.", "input": "", "output": answer})
    return found


def trained(folder: Path, name: str, rows: list[dict[str, str]]) -> tuple[float, list[dict[str, Any]]]:
    """Held-out loss at the end, and what was rescued."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    recipe = parse(
        {
            "model": str(MODEL), "output": str(folder / name), "tuning": {"method": "full"},
            "data": {"train": str(file), "validation": str(folder / "held.json"), "max_length": 512},
            "optim": {"lr": 1e-3, "batch_tokens": 1000}, "evaluation": {"every": 0.5}, "compute": {"precision": "fp32"},
        }
    )  # fmt: skip
    outcome = run.train(recipe)
    events = [e for e in read(Path(outcome.run) / "events.jsonl") if e["kind"] == "rescued"]
    return read_json(Path(outcome.report))["after"]["heldout"]["loss_nats"], events


def test_a_poison_row_is_named_and_costs_nothing(tmp_path: Path) -> None:
    every = [row for row in json.loads(ROWS.read_text(encoding="utf-8")) if row["output"]]
    rows = every[:500]
    (tmp_path / "held.json").write_text(json.dumps(every[4000:4060]), encoding="utf-8")
    clean, nothing = trained(tmp_path, "clean", rows)
    bad, events = trained(tmp_path, "poisoned", poisoned(rows))
    assert nothing == []
    assert events
    named = {event["rows"][0].rpartition(":")[2] for event in events}
    planted = {
        str(number) for number, row in enumerate(poisoned(rows), 1) if "Name colour" in row["instruction"]
    }
    assert named == planted
    assert all("Name colour" in event["texts"][0] for event in events)
    assert bad <= clean + 0.02
