"""Soak: a tiny run on an endless stream for minutes, evaluated and saved all the time; what it holds stays flat.

    python -m tests.faults.soak --minutes 30

The run is stopped and resumed in the same process again and again, as sweeps and stages do.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.kills import STREAM
from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.recipe import Recipe, parse

STEPS = 400  # of a run; then another begins
STOP_EVERY = 100  # steps; then it is resumed
SETTLED = 0.2  # of the time: what was taken until then is the level that must be kept
RSS_SHARE = 0.05
DISK_SHARE = (
    0.75  # two checkpoints are kept, and the best one where it is older: a third, and then what was trained
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the process holds."""

    seconds: float
    steps: int
    rss_mib: float
    files: int
    threads: int
    disk_kib: float


def take(began: float, steps: int, place: Path) -> Reading:
    """A reading now; `disk` is that of the run folder, without its log."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return Reading(
        time.monotonic() - began, steps, rss / 1024, len(os.listdir("/proc/self/fd")),
        threading.active_count(), sum(sizes) / 1024,
    )  # fmt: skip


def recipe(place: Path, number: int) -> Recipe:
    """Evaluated every 5 steps, saved every 3, tasks and probes at both ends; a stream, and rows that come again."""
    rows = str(place / "rows.jsonl")
    stream = {"path": f"{place}/stream.py:rows", "stream": {"window": 64}, "format": "prompt_response"}
    return parse(
        {
            "model": str(place / "model"),
            "output": str(place / "run"),
            "tuning": {"method": "lora", "rank": 4, "dropout": 0.05},
            "data": {
                "train": [stream, {"path": rows, "weight": 0.25}],
                "validation": 8, "max_length": 128, "on_bad_row": "drop",
            },
            "optim": {"lr": 1e-3, "batch_tokens": 128},
            "compute": {"precision": "fp32", "micro_tokens": 64},
            "budget": {"steps": STEPS},
            "evaluation": {
                "every": 5, "probes": ["say 1"],
                "tasks": [{"name": "say", "kind": "generate", "path": rows, "limit": 4, "max_new_tokens": 4}],
            },
            "checkpoint": {"every": 3, "keep": 2},
            "seed": number,
        }
    )  # fmt: skip


def soak(minutes: float, place: Path, tell: Any = print) -> list[Reading]:
    """Runs for so long; a reading after each stop."""
    make_model(place / "model")
    write_rows(place / "rows.jsonl", 60)
    (place / "stream.py").write_text(STREAM)
    began, steps, readings = time.monotonic(), 0, []
    for number in range(1_000_000):
        _clear(place / "run")
        for stop in range(STOP_EVERY, STEPS + 1, STOP_EVERY):
            outcome = run.train(recipe(place, number), resume=stop > STOP_EVERY, stop_after=stop)
            steps += STOP_EVERY
            readings.append(take(began, steps, place / "run"))
            tell(readings[-1])
            if time.monotonic() - began > 60 * minutes:
                return readings
        assert outcome.status == "done"
    return readings


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def growth(readings: list[Reading]) -> list[str]:
    """What has grown since it had settled. A checkpoint more or less is no growth: readings at equal places count."""
    settled = [r for r in readings if r.seconds >= SETTLED * readings[-1].seconds] or readings
    first, last = settled[: max(1, len(settled) // 4)], settled[-max(1, len(settled) // 4) :]
    found = []
    for name, share in (("rss_mib", RSS_SHARE), ("files", 0.0), ("threads", 0.0), ("disk_kib", DISK_SHARE)):
        before, after = (max(getattr(r, name) for r in part) for part in (first, last))
        if after > before * (1 + share):
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def table(readings: list[Reading], lines: int = 12) -> str:
    """A line now and then, for the docs."""
    chosen = readings[:: max(1, len(readings) // lines)]
    chosen += [readings[-1]] if chosen[-1] is not readings[-1] else []
    head = (
        "| minutes | steps | resident MiB | open files | threads | run folder KiB |\n" + 6 * "|---:" + "|\n"
    )
    return head + "\n".join(
        f"| {r.seconds / 60:.1f} | {r.steps} | {r.rss_mib:.0f} | {r.files} | {r.threads} | {r.disk_kib:.0f} |"
        for r in chosen
    )


def main() -> int:
    """Soak, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as place:
        readings = soak(minutes, Path(place), lambda reading: print(reading, file=sys.stderr, flush=True))
    print(table(readings))
    found = growth(readings)
    print("\n" + ("; ".join(found) or "flat"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
