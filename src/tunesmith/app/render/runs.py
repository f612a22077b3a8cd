"""Runs as pages: the list, one run, two side by side."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base, scores
from tunesmith.app.render.curve import Line, chart
from tunesmith.app.render.picture import smooth

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
    rows = [
        (
            Text(base.visible(run["run"]), "strong"),
            status(run["status"]),
            steps(run),
            run["method"] or "–",
            base.visible(Path(run["model"]).name if run["model"] else "–"),
            base.number(run["heldout_loss_nats"]),
            Text(when(run["started"]), "quiet"),
        )
        for run in document["runs"]
    ]
    columns = ["run", "status", "steps", "method", "model", "held-out", "started"]
    return base.page(
        base.heading("runs", f"in {document['folder']}"), base.table(columns, rows, right=[2, 5])
    )


def show_page(document: dict[str, Any]) -> RenderableType:
    """One run."""
    pairs: list[tuple[str, RenderableType]] = [
        ("status", status(document["status"])),
        ("steps", steps(document)),
        ("model", base.visible(document["model"] or "–")),
        ("method", document["method"] or "–"),
        ("started", when(document["started"])),
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
        course_chart(document),
        scores.heldout(report.get("before"), report.get("after")),
        scores.forgetting(report["forgetting"]) if report.get("forgetting") else None,
        next_words(document),
    )


def compare_page(document: dict[str, Any]) -> RenderableType:
    """Two runs: what was done differently, and what came of it."""
    a, b = (base.visible(Path(document[side]["run"]).name) for side in ("a", "b"))
    changed = [(base.visible(row["key"]), _value(row["a"]), _value(row["b"])) for row in document["recipe"]]
    judged = [
        (
            base.visible(row["name"]),
            _score(row["name"], row["a"]),
            _score(row["name"], row["b"]),
            difference(row),
            *interval(row),
        )
        for row in document["scores"]
        if row["a"] is not None or row["b"] is not None
    ]
    return base.page(
        base.heading("compare", f"{document['a']['run']}  {document['b']['run']}"),
        base.table(["recipe", a, b], changed) if changed else base.mark("quiet", "the recipes are the same"),
        base.table(["result", a, b, "b - a", "95%", ""], judged, right=[1, 2, 3]) if judged else None,
        both_courses(document),
    )


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


def interval(row: dict[str, Any]) -> tuple[Text, Text]:
    """95% of b - a over the same items, and what it says; a dash where they were not paired."""
    paired = row.get("paired")
    if not paired or not paired["ci95"]:
        return Text("–", "quiet"), Text("")
    low, high = paired["ci95"]
    verdict = paired["verdict"]
    style = {"gain": "good", "loss": "bad"}.get(verdict, "quiet")
    return Text(f"{base.signed(low)} … {base.signed(high)}"), Text(verdict.replace("_", " "), style)


def status(name: str) -> Text:
    """A run's status in its colour."""
    return Text(name, STATUS.get(name, "default"))


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
    run = base.visible(document["run"])
    if document["status"] in ("done", "stopped"):
        return scores.next_steps([f"tunesmith chat {run}", f"tunesmith export {run} --to merged"])
    if document["status"] in ("interrupted", "killed", "failed") and document["resumable"]:
        return scores.next_steps([f"tunesmith train {run}/recipe.yaml --resume"])
    return None


def difference(row: dict[str, Any]) -> Text:
    """b - a, where both are known."""
    if row["a"] is None or row["b"] is None:
        return Text("–", "quiet")
    change = row["b"] - row["a"]
    if "bytes" in row["name"]:
        return Text(("-" if change < 0 else "+") + base.size(abs(change)))
    return Text(base.signed(change))


def _score(name: str, value: float | None) -> str:
    return base.size(value) if "bytes" in name else base.number(value)


def _value(value: Any) -> str:
    text = "null" if value is None else str(value)
    return base.visible(text if len(text) <= 60 else text[:59] + "…")
