"""Events as numbers with names, the same in every tracker.

{"kind": "stepped", "step": 3, "loss_nats": 1.2, ...} -> Point(3, {"train/loss": 1.2, "train/lr": 2e-4, ...})
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STEPPED = {
    "loss_nats": "train/loss",
    "grad_norm": "train/grad_norm",
    "lr": "train/lr",
    "targets": "train/targets",
    "tokens": "train/tokens",
    "peak_bytes": "memory/peak_bytes",
}


@dataclass(frozen=True, slots=True)
class Point:
    """Numbers of one step; `time` in seconds since 1970."""

    step: int
    time: float
    values: Mapping[str, float]


def point(event: Mapping[str, Any]) -> Point | None:
    """The numbers of an event; None where it has none. What is not finite is left out, never sent as a number."""
    match event.get("kind"):
        case "stepped":
            values = {name: event.get(key) for key, name in _STEPPED.items()}
            if event.get("seconds"):
                values["speed/tokens_a_second"] = event["tokens"] / event["seconds"]
        case "evaluated":
            loss = event.get("loss_nats")
            values = {"heldout/loss": loss}
            if isinstance(loss, float) and loss < 700:
                values["heldout/perplexity"] = math.exp(loss)
        case "rescued":
            values = {"train/rescued": 1.0}
        case _:
            return None
    known = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
    return Point(int(event["step"]), float(event["time"]), known)


def scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Every score of report.json under a name of its own: before/sums, after/sums, change/sums."""
    found: dict[str, Any] = {}
    for when in ("before", "after", "test"):
        part = report.get(when) or {}
        held = part.get("heldout") or {}
        found |= {
            f"{when}/heldout_{key}": held.get(key) for key in ("loss_nats", "perplexity", "bits_per_byte")
        }
        found |= {f"{when}/{name}": task["value"] for name, task in (part.get("tasks") or {}).items()}
    found |= {f"change/{name}": row["change"] for name, row in (report.get("forgetting") or {}).items()}
    found |= {f"parameters/{key}": value for key, value in (report.get("parameters") or {}).items()}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


def flat(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Recipe values by dotted key, as trackers show them."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
