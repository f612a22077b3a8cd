"""The memory forecast against what is allocated: every cell in a process of its own, as a table.

cells -> python -m tunesmith.bench.cell -> rows: predicted, measured, error -> the error that plans state
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tunesmith.bench.cells import MATRIX, Cell
from tunesmith.errors import UserError
from tunesmith.events import Reporter
from tunesmith.plan.device import Device, find_device
from tunesmith.plan.measured import Row, record

# The bar of the project, of bytes of tensors: each cell, and the mean of all.
MOST_EACH, MOST_MEAN = 0.05, 0.02
SECONDS = 900
VERSIONS = ("tunesmith", "torch", "transformers", "peft")


def bench_memory(reporter: Reporter, cells: Sequence[Cell] = MATRIX) -> dict[str, Any]:
    """Measure all cells here; the document of `bench --memory`. Raises UserError where a cell cannot run."""
    device = find_device()
    rows = []
    for number, cell in enumerate(cells):
        reporter.progress("memory cells", number, len(cells))
        rows.append(_row(cell, device))
    reporter.progress("memory cells", len(cells), len(cells))
    return summarise(rows, device)


def keep(document: dict[str, Any]) -> None:
    """Add the table to what was measured on this machine."""
    for row in registry_rows(document):
        record(row)


def _row(cell: Cell, device: Device) -> dict[str, Any]:
    """A cell's forecast beside what its process measured."""
    forecast, measured = cell.forecast(device.kind), _measured(cell, device)
    return {
        "cell": cell.to_json(),
        "parameters": cell.facts.parameters,
        "predicted_allocated": forecast.allocated_bytes,
        "measured_allocated": measured["allocated_bytes"],
        "error": forecast.allocated_bytes / measured["allocated_bytes"] - 1,
        "predicted_bytes": forecast.peak_bytes,
        "measured_bytes": measured["resident_bytes"],
        "whole_error": forecast.peak_bytes / measured["resident_bytes"] - 1,
    }


def _measured(cell: Cell, device: Device) -> dict[str, int]:
    words = [sys.executable, "-m", "tunesmith.bench.cell", json.dumps(cell.to_json()), device.kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise UserError.at(f"cell {label(cell)}", f"did not run: {last[:300]}", "see: tunesmith doctor")
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def summarise(rows: Sequence[dict[str, Any]], device: Device) -> dict[str, Any]:
    """The rows, what they come to, and when and with what they were made."""
    errors = [abs(row["error"]) for row in rows]
    whole = [abs(row["whole_error"]) for row in rows]
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": {"kind": device.kind, "name": device.name, "memory_bytes": device.memory_bytes},
        "versions": {name: version(name) for name in VERSIONS},
        "rows": list(rows),
        "allocated": {"largest_error": max(errors), "mean_error": sum(errors) / len(errors)},
        "whole": {"largest_error": max(whole), "mean_error": sum(whole) / len(whole)},
        "passed": max(errors) <= MOST_EACH and sum(errors) / len(errors) <= MOST_MEAN,
    }


def registry_rows(document: dict[str, Any]) -> list[Row]:
    """The table as the forecast reads it."""
    kind, name = document["device"]["kind"], document["device"]["name"]
    return [
        Row(
            kind, name, label(Cell(**row["cell"])), row["predicted_bytes"], row["measured_bytes"],
            row["predicted_allocated"], row["measured_allocated"],
        )
        for row in document["rows"]
    ]  # fmt: skip


def label(cell: Cell) -> str:
    """A cell in a few words."""
    tuning = " ".join(str(value) for value in cell.tuning.values())
    again = "" if cell.checkpointing == "off" else f", {cell.checkpointing} recomputed"
    more = f" x {cell.micro_batches}" if cell.micro_batches > 1 else ""
    other = "" if cell.optimizer == "adamw" else f", {cell.optimizer}"
    return f"{cell.family} {tuning}, {cell.tokens} in {cell.length}{more}{again}{other}{', bf16' if cell.bf16 else ''}"
