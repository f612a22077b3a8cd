"""The books of all stages as those of one run: report.json, report.md, ledger, answers before and after."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith import events
from tunesmith.evaluation.forgetting import compare, compare_heldout
from tunesmith.evaluation.report_text import to_markdown
from tunesmith.evaluation.scores import Evaluated, from_json
from tunesmith.folder import RunFolder, read_json, write_atomically, write_json

if TYPE_CHECKING:
    from tunesmith.recipe import Recipe

Json = dict[str, Any]
VOCABULARY = "vocabulary.json"


def write_whole_report(recipe: Recipe, folder: RunFolder, folders: Sequence[RunFolder], status: str) -> Json:
    """Write what the stages came to; `after` is null while one is to come. The last stage's status is the run's."""
    reports = [read_json(stage.report) for stage in folders if stage.report.is_file()]
    before = _evaluated(folder, "before")
    finished = status != "interrupted"
    after = _take_over(folders[-1], folder) if finished else None
    ledger = joined_ledger(_stage_ledgers(recipe, folders))
    report: Json = {
        "schema": 1,
        "status": status,
        "before": before.scores if before else None,
        "after": after.scores if after else None,
        "test": reports[-1]["test"] if finished and reports else None,
        "forgetting": compare(before, after, recipe.evaluation.tasks) if before and after else {},
        "heldout_change": _heldout_change(before, after),
        "ledger": ledger,
        "plan": _plan(reports),
        "training": _training(reports),
        "parameters": reports[-1]["parameters"] if reports else {"total": 0, "trainable": 0},
        "stages": [_stage(name.name, stage) for name, stage in zip(recipe.stages, folders)],
    }
    write_json(folder.ledger, ledger)
    write_atomically(folder.ledger_rows, "".join(_touched(recipe, folders)))
    write_json(folder.report, report)
    happened = list(events.read(folder.events))
    write_atomically(folder.report_text, to_markdown(report, recipe, folder, happened))
    return report


def _evaluated(folder: RunFolder, when: str) -> Evaluated | None:
    kept = folder.answers / f"{when}.json"
    return from_json(read_json(kept)) if kept.is_file() else None


def _take_over(last: RunFolder, folder: RunFolder) -> Evaluated | None:
    """The answers after the last stage are those of the whole."""
    for kept in sorted(last.answers.glob("*")):
        if kept.stem in ("after", "test"):
            shutil.copyfile(kept, folder.answers / kept.name)
    return _evaluated(folder, "after")


def _heldout_change(before: Evaluated | None, after: Evaluated | None) -> Json | None:
    """Nats a token are compared where the tokens are the same; bits a byte tell the rest."""
    one, other = (each.heldout if each else None for each in (before, after))
    if one is None or other is None or one.targets != other.targets:
        return None
    return compare_heldout(one, other)


def _stage(name: str, folder: RunFolder) -> Json:
    """What a stage came to, in its own words."""
    told: Json = {"name": name, "folder": f"stages/{folder.path.name}"}
    if folder.report.is_file():
        report = read_json(folder.report)
        keys = ("status", "before", "after", "forgetting", "heldout_change", "training", "plan", "parameters")
        return told | {"kind": "training"} | {key: report.get(key) for key in keys}
    if (folder.path / VOCABULARY).is_file():
        found = read_json(folder.path / VOCABULARY)
        return told | {"kind": "vocabulary", "status": "done", "vocabulary": found["summary"]}
    return told | {"kind": None, "status": "to come"}


def _training(reports: Sequence[Json]) -> Json:
    """Sums; the best step, counted through, is the last stage's."""
    found: Json = {
        key: sum(report["training"][key] for report in reports)
        for key in ("steps", "tokens", "targets", "seconds")
    }
    best = reports[-1]["training"]["best_step"] if reports else None
    earlier = sum(report["training"]["steps"] for report in reports[:-1])
    return found | {"best_step": None if best is None else earlier + best}


def _plan(reports: Sequence[Json]) -> Json:
    """The dearest stage's memory, all stages' time."""
    return {
        "predicted_peak_bytes": max((r["plan"]["predicted_peak_bytes"] for r in reports), default=None),
        "measured_peak_bytes": max(
            (r["plan"]["measured_peak_bytes"] for r in reports if r["plan"]["measured_peak_bytes"]),
            default=None,
        ),
        "predicted_seconds": sum(r["plan"]["predicted_seconds"] or 0 for r in reports) or None,
        "measured_seconds": sum(r["plan"]["measured_seconds"] for r in reports),
    }


def _stage_ledgers(recipe: Recipe, folders: Sequence[RunFolder]) -> Iterator[tuple[str, Json]]:
    for stage, folder in zip(recipe.stages, folders):
        if folder.ledger.is_file():
            yield stage.name, read_json(folder.ledger)


def joined_ledger(ledgers: Iterable[tuple[str, Json]]) -> Json:
    """The books of all stages together: each source says whose it is, tokens and splits are summed."""
    sources: list[Json] = []
    tokens: Counter[str] = Counter()
    splits: dict[str, Counter[str]] = {}
    for name, ledger in ledgers:
        sources += [{**source, "stage": name} for source in ledger["sources"]]
        tokens.update(ledger["tokens"])
        for split, counts in ledger["splits"].items():
            splits.setdefault(split, Counter()).update(counts)
    return {
        "sources": sources,
        "tokens": dict(tokens),
        "splits": {name: dict(counts) for name, counts in splits.items()},
    }


def _touched(recipe: Recipe, folders: Sequence[RunFolder]) -> Iterator[str]:
    """The lines of all stages' ledger.rows.jsonl, each with its stage."""
    for stage, folder in zip(recipe.stages, folders):
        if folder.ledger_rows.is_file():
            for line in folder.ledger_rows.read_text(encoding="utf-8").splitlines():
                yield json.dumps({**json.loads(line), "stage": stage.name}, ensure_ascii=False) + "\n"
