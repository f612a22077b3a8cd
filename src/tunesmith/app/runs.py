"""The registry of runs is the folder they lie in: read, never written, nothing to get out of step.

runs/ -> [{"run": "runs/demo", "status": "done", "steps": 60, ...}, ...] newest first
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith import events, recipe
from tunesmith.errors import FolderError, RecipeError
from tunesmith.folder import RunFolder, is_run, open_run

if TYPE_CHECKING:
    from tunesmith.evaluation.scores import Evaluated

Document = dict[str, Any]
WITHOUT_INTERVAL = ("bits a byte", "seconds", "peak memory (bytes)")
HELD_OUT = "held-out loss (nats)"


@dataclass(frozen=True, slots=True)
class Course:
    """What events.jsonl tells of a run."""

    status: str
    step: int
    steps: int | None
    started: float | None
    steps_taken: tuple[Document, ...]
    held_out: tuple[tuple[int, float], ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """Training losses in order; steps without a finite one are left out."""
        return tuple(event["loss_nats"] for event in self.steps_taken)


def read_course(folder: RunFolder) -> Course:
    """The way of a run. One without an end is running, or was killed: the lock tells."""
    status, step, steps, started = "new", 0, None, None
    taken: dict[int, Document] = {}  # a resumed run repeats steps, bit for bit
    held_out: dict[int, float] = {}
    for event in events.read(folder.events):
        step = max(step, int(event.get("step") or 0))
        match event.get("kind"):
            case "started":
                status, steps = "running", event.get("steps")
                started = started or event.get("time")
            case "stepped" if event.get("loss_nats") is not None:
                taken[event["step"]] = event
            case "evaluated" if event.get("loss_nats") is not None:
                held_out[event["step"]] = event["loss_nats"]
            case "finished":
                status = str(event.get("status"))
            case "failed":
                status = "failed"
    if status == "running" and not folder.is_locked():
        status = "killed"
    course = tuple(taken[number] for number in sorted(taken))
    return Course(status, step, steps, started, course, tuple(sorted(held_out.items())))


def find_runs(root: Path) -> list[RunFolder]:
    """Every run folder at `root` or up to two levels below, newest first."""
    if not root.is_dir():
        return []
    places = [root, *root.glob("*"), *root.glob("*/*")]
    found = [RunFolder(place) for place in places if place.is_dir() and is_run(place)]
    return sorted(found, key=lambda folder: folder.recipe.stat().st_mtime, reverse=True)


def summary(folder: RunFolder) -> Document:
    """One run in a line."""
    course, report, run = read_course(folder), read_report(folder), read_recipe(folder)
    scores = _scores(report)
    held = scores.pop(HELD_OUT, {})
    best = min((loss for _, loss in course.held_out), default=None)
    return {
        "run": str(folder.path),
        "status": (report or {}).get("status") or course.status,
        "step": course.step,
        "steps": course.steps,
        "started": course.started,
        "method": run.tuning.method if run else None,
        "base": run.tuning.base if run else None,
        "model": (run.model.path or "new model") if run else None,
        "heldout_loss_nats": held.get("value", best),
        "heldout_ci95": held.get("ci95", []),
        "scores": scores,
        "seconds": ((report or {}).get("training") or {}).get("seconds"),
    }


def list_runs(root: str) -> Document:
    """All runs under `root`, newest first. Raises FolderError where that is a file."""
    if Path(root).is_file():
        raise FolderError.at(
            root, "is a file, not a folder of runs", "give the folder that holds run folders"
        )
    return {"folder": root, "runs": [summary(folder) for folder in find_runs(Path(root))]}


def show_run(path: str) -> Document:
    """One run: its summary, its recipe as it was run, its report, its course."""
    folder = open_run(path)
    course, run = read_course(folder), read_recipe(folder)
    exports = folder.path / "exports"
    return {
        **summary(folder),
        "recipe": recipe.values_of(run) if run else None,
        "report": read_report(folder),
        "losses": list(course.losses),
        "curve": {
            key: [event.get(key) for event in course.steps_taken]
            for key in ("step", "loss_nats", "lr", "grad_norm")
        },
        "heldout": [{"step": step, "loss_nats": loss} for step, loss in course.held_out],
        "exports": sorted(p.name for p in exports.iterdir() if p.is_dir()) if exports.is_dir() else [],
        "trackers": _trackers(folder),
        "resumable": (folder.checkpoints / "latest").exists() or bool(folder.stages),
    }


def compare_runs(first: str, second: str) -> Document:
    """Two runs: the recipe keys that differ, and the scores side by side."""
    a, b = open_run(first), open_run(second)
    recipes = read_recipe(a), read_recipe(b)
    differing = recipe.diff(recipes[0], recipes[1]) if recipes[0] and recipes[1] else []
    scores_a, scores_b = _judged(read_report(a)), _judged(read_report(b))
    paired = _paired(a, b)
    none: Document = {"value": None, "ci95": []}
    names = sorted(dict.fromkeys([*scores_a, *scores_b]), key=lambda name: name in WITHOUT_INTERVAL)
    sides = {name: (scores_a.get(name, none), scores_b.get(name, none)) for name in names}
    return {
        "a": summary(a),
        "b": summary(b),
        "curves": {"a": _curves(first), "b": _curves(second)},
        "recipe": [{"key": key, "a": old, "b": new} for key, old, new in differing if key != "output"],
        "scores": [
            {
                "name": name,
                "a": one["value"],
                "b": other["value"],
                "a_ci95": one["ci95"],
                "b_ci95": other["ci95"],
                "paired": paired.get(name),
            }
            for name, (one, other) in sides.items()
        ],
    }


def _trackers(folder: RunFolder) -> dict[str, str]:
    """What each tracker says of where its part is."""
    found = {}
    for file in sorted(folder.tracking.glob("*.json")):
        try:
            found[file.stem] = str(json.loads(file.read_text(encoding="utf-8"))["note"])
        except (OSError, ValueError, KeyError, TypeError):
            found[file.stem] = ""
    return found


def _curves(path: str) -> Document:
    shown = show_run(path)
    return {"curve": shown["curve"], "heldout": shown["heldout"]}


def _paired(a: RunFolder, b: RunFolder) -> dict[str, Document]:
    """b - a over the same items, with its 95% interval, for every score that both runs measured alike."""
    from tunesmith.evaluation.forgetting import compare_heldout, compare_task

    first, second = _measured(a), _measured(b)
    if first is None or second is None:
        return {}
    found = {}
    for name in first.items.keys() & second.items.keys():
        old, new = first.items[name], second.items[name]
        if (old.metric, old.signature) == (new.metric, new.signature):
            found[f"{name} ({old.metric})"] = compare_task(old, new)
    one, other = first.heldout, second.heldout
    # per row the targets must agree, or the two runs held out other rows (or cut them elsewhere)
    same = ("addresses", "targets", "weights")
    if one and other and all(getattr(one, key) == getattr(other, key) for key in same):
        found[HELD_OUT] = compare_heldout(one, other) or {}
    return found


def _measured(folder: RunFolder) -> Evaluated | None:
    """The items behind a run's scores, if they were kept."""
    from tunesmith.evaluation.scores import from_json

    try:
        return from_json(json.loads((folder.answers / "after.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_report(folder: RunFolder) -> Document | None:
    """report.json, if the run came that far."""
    try:
        value = json.loads(folder.report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FolderError.at(str(folder.report), f"cannot be read: {error}", "train the run again") from error
    return value if isinstance(value, dict) else None


def read_recipe(folder: RunFolder) -> recipe.Recipe | None:
    """The recipe of a run; None where it was written by another version and is no longer valid."""
    try:
        return recipe.load(folder.recipe)
    except RecipeError:
        return None


def _scores(report: Document | None) -> dict[str, Document]:
    """What was measured on items, under one name each, with its own 95% interval."""
    from tunesmith.evaluation.interval import heldout_interval, task_interval

    after = (report or {}).get("after") or {}
    held = after.get("heldout")
    found = {}
    if held:
        found[HELD_OUT] = {
            "value": held["loss_nats"], "ci95": heldout_interval(held), "n": held["rows"], "metric": "loss",
        }  # fmt: skip
    for name, task in (after.get("tasks") or {}).items():
        found[f"{name} ({task['metric']})"] = {
            "value": task["value"], "ci95": task_interval(task), "n": task["n"], "metric": task["metric"],
        }  # fmt: skip
    return found


def _judged(report: Document | None) -> dict[str, Document]:
    """Scores, and every other number a run is judged by, which have no interval."""
    report = report or {}
    after, training, plan = (report.get(key) or {} for key in ("after", "training", "plan"))
    bits = (after.get("heldout") or {}).get("bits_per_byte")
    others = zip(WITHOUT_INTERVAL, (bits, training.get("seconds"), plan.get("measured_peak_bytes")))
    return _scores(report) | {name: {"value": value, "ci95": []} for name, value in others}
