"""What came of each run of a sweep, in one table: losses, tasks, forgetting, time and memory, beside the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunesmith.errors import Problem
from tunesmith.evaluation.forgetting import compare_heldout, compare_task
from tunesmith.evaluation.interval import heldout_interval, task_interval
from tunesmith.evaluation.scores import Evaluated, from_json
from tunesmith.folder import RunFolder, read_json

Entry = tuple[str, Mapping[str, Any], RunFolder, Sequence[Problem]]


def table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Rows in the order of the sweep, and the best by held-out loss, where all were held out alike.

    `against_first`: paired differences over the same items (ours - the first run's), with 95% intervals.
    """
    rows = [_row(*entry) for entry in entries]
    measured = {name: found for name, _, folder, _ in entries if (found := _measured(folder)) is not None}
    first = next(iter(measured), None)
    for row in rows:
        if first is not None and row["name"] in measured and row["name"] != first:
            row["against_first"] = _paired(measured[first], measured[row["name"]])
    lost = {row["name"]: row["heldout"]["loss_nats"] for row in rows if row["heldout"]}
    alike = first is not None and all(_held_alike(measured[first], found) for found in measured.values())
    best = min(lost, key=lambda name: lost[name]) if lost and alike else None
    return {"runs": rows, "first": first, "best": best, "same_heldout": alike}


def _row(
    name: str, changes: Mapping[str, Any], folder: RunFolder, problems: Sequence[Problem]
) -> dict[str, Any]:
    report = read_json(folder.report) if folder.report.exists() else {}
    after, training = report.get("after") or {}, report.get("training") or {}
    plan = report.get("plan") or {}
    tasks, ledger = after.get("tasks") or {}, report.get("ledger") or {}
    repeats = [source["repeats"] for source in ledger.get("sources", ()) if source["use"] == "train"]
    return {
        "name": name,
        "changes": dict(changes),
        "run": str(folder.path),
        "status": report.get("status") or ("failed" if problems else "not begun"),
        "problems": [asdict(problem) for problem in problems],
        "heldout": _heldout(report),
        "tasks": {task: score | {"ci95": task_interval(score)} for task, score in tasks.items()},
        "forgetting": {
            task: change for task, change in (report.get("forgetting") or {}).items() if change["group"] == "general"
        },
        "rows": ledger["splits"]["train"]["rows"] if ledger else None,
        "passes": max(repeats, default=None),
        "steps": training.get("steps"),
        "tokens": training.get("tokens"),
        "targets": training.get("targets"),
        "seconds": training.get("seconds"),
        "peak_bytes": plan.get("measured_peak_bytes"),
        "trainable": (report.get("parameters") or {}).get("trainable"),
        "against_first": {},
    }  # fmt: skip


def _heldout(report: Mapping[str, Any]) -> dict[str, Any] | None:
    before, after = (((report.get(when) or {}).get("heldout")) for when in ("before", "after"))
    if not after:
        return None
    kept = {key: after[key] for key in ("loss_nats", "bits_per_byte", "rows", "targets")}
    return kept | {"ci95": heldout_interval(after), "before_nats": before["loss_nats"] if before else None}


def _measured(folder: RunFolder) -> Evaluated | None:
    file = folder.answers / "after.json"
    return from_json(read_json(file)) if file.exists() else None


def _held_alike(one: Evaluated, other: Evaluated) -> bool:
    """Whether both held out the same rows, cut alike: losses may be compared."""
    a, b = one.heldout, other.heldout
    if a is None or b is None:
        return False
    return (a.addresses, a.targets, a.weights) == (b.addresses, b.targets, b.weights)


def _paired(first: Evaluated, other: Evaluated) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if _held_alike(first, other):
        found["heldout"] = compare_heldout(first.heldout, other.heldout)
    for name in first.items.keys() & other.items.keys():
        old, new = first.items[name], other.items[name]
        if (old.metric, old.signature) == (new.metric, new.signature):
            found[name] = compare_task(old, new)
    return found
