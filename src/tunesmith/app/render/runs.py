"""Runs as pages: the list, one run, two side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base, scores, stages
from tunesmith.app.render.curve import Line, chart
from tunesmith.app.render.picture import smooth
from tunesmith.recipe import Source
from tunesmith.tuning.handover import export_words

# Of B against A, in a comparison; "loss" would be read as a training loss.
VERDICTS = {
    "gain": ("better", "good"),
    "loss": ("worse", "bad"),
    "within_margin": ("alike", "default"),
    "cannot_tell": ("cannot tell", "warn"),
}
MOST_TASKS = 2  # in the list; more do not fit beside each other
STATUS = {
    "done": "good",
    "stopped": "good",
    "running": "accent",
    "interrupted": "warn",
    "killed": "warn",
    "failed": "bad",
}


def list_page(document: dict[str, Any]) -> RenderableType:
    """All runs, newest first."""
    if not document["runs"]:
        return base.mark(
            "quiet", f"no runs in {base.visible(document['folder'])} yet; make one: tunesmith demo"
        )
    models = {run["model"] for run in document["runs"]}
    alike = f", of {Path(next(iter(models))).name}" if len(models) == 1 and None not in models else ""
    columns = ["run", "status", "steps", "method", "started"]
    rows = []
    for run in document["runs"]:
        name, model = Text(base.visible(run["run"]), "strong"), base.visible(Path(run["model"] or "–").name)
        started = Text(when(run["started"]), "quiet")
        rows.append(
            [
                name,
                status(run["status"]),
                steps(run),
                method(run),
                *([] if alike else [model]),
                started,
            ]
        )
    if not alike:
        columns.insert(4, "model")
    return base.page(
        base.heading("runs", f"in {document['folder']}{alike}"),
        base.table(columns, rows, right=[2]),
        all_scores(document["runs"]),
    )


def all_scores(runs: list[dict[str, Any]]) -> RenderableType | None:
    """Held-out losses, and the tasks that most runs have; `runs show` tells the rest."""
    counted = Counter(name for run in runs for name in run["scores"])
    names = [name for name, _ in counted.most_common(MOST_TASKS)]
    if not names and all(run["heldout_loss_nats"] is None for run in runs):
        return None
    columns = ["score, 95%", "held-out loss", *(base.visible(name.rpartition(" (")[0]) for name in names)]
    rows = []
    for run in runs:
        if run["scores"] or run["heldout_loss_nats"] is not None:
            held = {"value": run["heldout_loss_nats"], "ci95": run["heldout_ci95"], "metric": "loss"}
            found = [held, *(run["scores"].get(name) for name in names)]
            name = Text(base.visible(Path(run["run"]).name), "strong")
            rows.append([name, *(_scored(score) for score in found)])
    return base.table(columns, rows)


def _scored(score: dict[str, Any] | None) -> Text:
    """0.515 0.45–0.58"""
    if score is None:
        return Text("–", "quiet")
    digits = {"loss": 3, "bleu": 1, "chrf": 1}.get(score["metric"], 2)
    ends = "–".join(f"{bound:.{digits}f}" for bound in score["ci95"])
    return Text(base.number(score["value"])).append(f"\u00a0{ends}" if ends else "", "quiet")


def show_page(document: dict[str, Any]) -> RenderableType:
    """One run."""
    pairs: list[tuple[str, RenderableType]] = [
        ("status", status(document["status"])),
        ("steps", steps(document)),
        ("model", base.visible(document["model"] or "–")),
        ("method", method(document)),
        ("started", _started(document)),
        ("recipe", base.visible(str(Path(document["run"]) / "recipe.yaml"))),
    ]
    if document["losses"]:
        course = Text.assemble((base.sparkline(document["losses"], 40), "accent"))
        first, last = document["losses"][0], document["losses"][-1]
        pairs.append(("loss", course.append(f"  {base.number(first)} → {base.number(last)}", "default")))
    if document["heldout"]:
        best, of = min(document["heldout"], key=lambda point: point["loss_nats"]), len(document["heldout"])
        words = f"{base.number(best['loss_nats'])} at step {best['step']}, the best of {of}"
        pairs.append(("held-out", words))
    if document["exports"]:
        pairs.append(("exports", ", ".join(document["exports"])))
    pairs += [(name, base.visible(note or "told")) for name, note in document["trackers"].items()]
    report = document["report"] or {}
    return base.page(
        base.heading("run", document["run"]),
        base.facts(pairs),
        stages.came_to(report["stages"]) if report.get("stages") else None,
        course_chart(document),
        scores.heldout(report.get("before"), report.get("after")),
        scores.forgetting(report["forgetting"]) if report.get("forgetting") else None,
        next_words(document),
    )


def compare_page(document: dict[str, Any]) -> RenderableType:
    """Two runs: what was done differently, what came of it, and whether chance could explain that."""
    a, b = (base.visible(Path(document[side]["run"]).name) for side in ("a", "b"))
    a, b = ("a", "b") if a == b else (a, b)
    changed = recipe_changes(document["recipe"])
    return base.page(
        base.heading("compare", f"{document['a']['run']}  {document['b']['run']}"),
        base.table(["recipe", a, b], changed) if changed else base.mark("quiet", "the recipes are the same"),
        side_by_side(document["scores"], a, b),
        differences(document["scores"], a, b),
        both_courses(document),
    )


def recipe_changes(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What differs; another method first, and a dash for the options that only one of two methods has."""
    methods = any(row["key"] == "tuning.method" for row in rows)

    def shown(row: dict[str, Any], side: str) -> str:
        missing = row[side] is None and methods and row["key"].startswith("tuning.")
        return "–" if missing else _value(row[side])

    ordered = sorted(rows, key=lambda row: row["key"] != "tuning.method")
    return [(base.visible(row["key"]), shown(row, "a"), shown(row, "b")) for row in ordered]


def side_by_side(rows: list[dict[str, Any]], a: str, b: str) -> RenderableType | None:
    """Each result of both runs, with its own interval."""
    known = [row for row in rows if row["a"] is not None or row["b"] is not None]
    shown = [
        (
            _name(row["name"]),
            _score(row["name"], row["a"]), scores.interval(row["a_ci95"]),
            _score(row["name"], row["b"]), scores.interval(row["b_ci95"]),
        )
        for row in known
    ]  # fmt: skip
    return base.table(["result", a, "95%", b, "95%"], shown, right=[1, 3]) if shown else None


def differences(rows: list[dict[str, Any]], a: str, b: str) -> RenderableType | None:
    """b against a over the same items: the only fair way to say that one is better."""
    shown = [
        (
            _name(row["name"]),
            Text(base.signed(row["paired"]["change"]), VERDICTS[row["paired"]["verdict"]][1]),
            signed_span(row["paired"]["ci95"]),
            Text(*VERDICTS[row["paired"]["verdict"]]),
        )
        for row in rows
        if row.get("paired")
    ]
    if not shown:
        return None
    return base.table(["same items, paired", f"{b} - {a}", "95%", b], shown, right=[1])


def signed_span(ci95: Sequence[float]) -> Text:
    """The interval of a difference."""
    if not ci95:
        return Text("–", "quiet")
    return Text(f"{base.signed(ci95[0])}\u00a0…\u00a0{base.signed(ci95[1])}", "quiet")


def course_chart(document: dict[str, Any]) -> RenderableType | None:
    """Training and held-out losses over the steps; None where there is no course to see."""
    steps, losses = document["curve"]["step"], smooth(document["curve"]["loss_nats"])
    if len(steps) < 3:
        return None
    held = [(point["step"], point["loss_nats"]) for point in document["heldout"]]
    lines = [Line("training loss", list(zip(steps, losses)), "accent"), Line("held-out", held, "warn", "●")]
    return base.indent(chart(lines))


def both_courses(document: dict[str, Any]) -> RenderableType | None:
    """Held-out losses of two runs over one pair of axes; training losses where they are missing."""
    lines = []
    for side, style in (("a", "accent"), ("b", "warn")):
        curve, held = document["curves"][side]["curve"], document["curves"][side]["heldout"]
        held_points = [(point["step"], point["loss_nats"]) for point in held]
        points = held_points if len(held_points) > 1 else list(zip(curve["step"], smooth(curve["loss_nats"])))
        what = "held-out" if len(held_points) > 1 else "training"
        lines.append(Line(f"{Path(document[side]['run']).name}: {what} loss", points, style))
    return base.indent(chart(lines)) if all(len(line.points) > 1 for line in lines) else None


def status(name: str) -> Text:
    """A run's status in its colour."""
    return Text(name, STATUS.get(name, "default"))


def method(run: dict[str, Any]) -> str:
    """lora, or with a 4-bit base: lora, nf4."""
    held = f", {run['base']}" if run["base"] not in (None, "none") else ""
    return (run["method"] or "–") + held


def steps(run: dict[str, Any]) -> str:
    """Where a run stands: 60, or 12/60."""
    if run["steps"] and run["step"] != run["steps"]:
        return f"{run['step']}/{run['steps']}"
    return base.count(run["step"])


def when(moment: float | None) -> str:
    """A time as a person writes it."""
    return datetime.fromtimestamp(moment).strftime("%b %d %H:%M") if moment else "–"


def next_words(document: dict[str, Any]) -> RenderableType | None:
    """What can be done with this run now."""
    run = base.typed(document["run"])
    if document["status"] in ("done", "stopped"):
        return scores.next_steps([f"tunesmith chat {run}", export_words(document["run"], run)])
    if document["status"] in ("interrupted", "killed", "failed") and document["resumable"]:
        return scores.next_steps([f"tunesmith train {base.typed(document['run'] + '/recipe.yaml')} --resume"])
    return None


def _started(run: dict[str, Any]) -> str:
    took = f", took {base.duration(run['seconds'])}" if run["seconds"] else ""
    return when(run["started"]) + took


def _name(name: str) -> str:
    plain = {"seconds": "training time", "peak memory (bytes)": "peak memory"}
    return plain.get(name) or base.visible(name).replace("_", " ")


def _score(name: str, value: float | None) -> str:
    if "(bytes)" in name:
        return base.size(value)
    return base.duration(value) if name == "seconds" else base.number(value)


def _value(value: Any) -> str:
    value = _bare(value)
    text = "null" if value is None else str(value)
    return base.visible(text if len(text) <= 60 else text[:59] + "…")


def _bare(value: Any) -> Any:
    """[{"path": "a.jsonl", "format": None, "group": "domain"}]  ->  a.jsonl: as a person would write it."""
    if isinstance(value, list):
        items = [_bare(item) for item in value]
        return items[0] if len(items) == 1 else items
    if isinstance(value, dict):
        usual = {
            key: field.get_default(call_default_factory=True) for key, field in Source.model_fields.items()
        }
        said = {key: item for key, item in value.items() if key not in usual or item != usual[key]}
        return said["path"] if list(said) == ["path"] else said
    return value
