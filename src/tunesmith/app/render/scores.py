"""Scores as pages: an evaluation, before against after, what was forgotten.

task        before   after   change   95% interval       verdict
sums         0.010   0.910   +0.900   +0.85 .. +0.94     gain
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base, stages
from tunesmith.evaluation.interval import task_interval
from tunesmith.tuning.handover import export_words

VERDICTS = {
    "gain": ("gain", "good"),
    "loss": ("loss", "bad"),
    "within_margin": ("no change", "default"),
    "cannot_tell": ("cannot tell", "warn"),
}


def page(document: dict[str, Any]) -> RenderableType:
    """The contracted document of `eval`."""
    after, before = document["results"], document.get("baseline_results")
    if not after.get("heldout") and not after.get("tasks") and not after.get("probes"):
        words = "nothing was scored: it brings no held-out rows of its own; name a file with --tasks FILE"
        return base.page(base.heading("eval", document["model"]), base.mark("warn", words))
    note = document["model"] + (f"  against {document['baseline']}" if document.get("baseline") else "")
    return base.page(
        base.heading("eval", note),
        heldout(before, after),
        forgetting(document["forgetting"]) if document.get("forgetting") else tasks(after),
        probes(before, after),
    )


def heldout(before: dict[str, Any] | None, after: dict[str, Any] | None) -> RenderableType | None:
    """Loss, perplexity and bits per byte of the held-out rows, before and after where both are known."""
    after_held = (after or {}).get("heldout")
    before_held = (before or {}).get("heldout")
    if not after_held and not before_held:
        return None
    known = after_held or before_held or {}
    rows = []
    for name, key in (
        ("loss (nats a token)", "loss_nats"),
        ("perplexity", "perplexity"),
        ("bits a byte", "bits_per_byte"),
    ):
        values = [held[key] if held else None for held in (before_held, after_held)]
        rows.append(
            (name, *(base.number(value) for value in values))
            if before_held
            else (name, base.number(values[1]))
        )
    title = f"held-out: {base.many(known['rows'], 'row')}, {base.many(known['targets'], 'target')}"
    columns = [title, "before", "after"] if before_held else [title, ""]
    return base.table(columns, rows, right=[1, 2])


def tasks(scores: dict[str, Any]) -> RenderableType | None:
    """Each task with its value, its interval and n."""
    if not scores.get("tasks"):
        return None
    rows = [
        (
            base.visible(name),
            task["metric"],
            base.number(task["value"]),
            interval(task_interval(task)),
            base.count(task["n"]),
            Text(task.get("group") or "", "quiet"),
        )
        for name, task in scores["tasks"].items()
    ]
    return base.table(["task", "metric", "value", "95%", "n", "group"], rows, right=[2, 4])


def interval(ci95: Sequence[float]) -> Text:
    """An interval, quietly, never broken over two lines; nothing where there is none."""
    return Text("\u00a0…\u00a0".join(map(base.number, ci95)), "quiet")


def forgetting(found: dict[str, Any]) -> RenderableType:
    """Paired changes with their intervals: gained, lost, or not to be told from this many items."""
    rows = []
    for name, item in found.items():
        words, style = VERDICTS.get(item["verdict"], (item["verdict"], "default"))
        low, high = item["ci95"] if item.get("ci95") else (None, None)
        rows.append(
            (
                base.visible(name),
                base.number(item["before"]),
                base.number(item["after"]),
                Text(base.signed(item["change"]), style),
                Text(f"{base.signed(low)} … {base.signed(high)}" if low is not None else "–", "quiet"),
                Text(words, style),
            )
        )
    return base.table(["task", "before", "after", "change", "95% interval", "verdict"], rows, right=[1, 2, 3])


def probes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> RenderableType | None:
    """The same questions, answered before and after."""
    answered = (after or before or {}).get("probes") or []
    if not answered:
        return None
    earlier = {probe["id"]: probe["answer"] for probe in (before or {}).get("probes", [])}
    lines: list[RenderableType] = []
    for probe in answered:
        lines += exchange(probe["question"], earlier.get(probe["id"]) if after else None, probe["answer"])
    return Group(*lines)


def exchange(question: str, before: str | None, after: str) -> list[RenderableType]:
    """A question with its answers."""
    lines: list[RenderableType] = [_line("you", question, "strong")]
    if before is not None:
        lines.append(_line("before", before, "quiet"))
    lines.append(_line("after" if before is not None else "answer", after, "good"))
    return lines


def _line(who: str, words: str, style: str) -> RenderableType:
    shown = base.visible(words.strip())
    if len(shown) > 240:
        shown = shown[:240] + " …"
    return base.indent(base.bullet(Text(f"{who:>7} ", "key"), Text(shown or "(nothing)", style)))


def trained(document: dict[str, Any], report: dict[str, Any] | None) -> RenderableType:
    """What `train` says at the end: where the run stands, what was gained, what was forgotten, what next."""
    run = base.visible(document["run"])
    if document["status"] == "interrupted":
        steps = document["steps"]
        where = (
            f"interrupted after step {steps}, saved: {run}" if steps else f"interrupted before step 1: {run}"
        )
        recipe = base.typed(f"{document['run']}/recipe.yaml")
        return base.page(base.mark("warn", where), next_steps([f"tunesmith train {recipe} --resume"]))
    words = {"done": "trained", "stopped": "stopped early, the best step was kept"}
    said = words.get(document["status"], document["status"])
    head = base.mark("good", f"{said}: {run}")
    if report is None:
        return head
    typed = base.typed(document["run"])
    change, remedy = report.get("heldout_change"), list[str]()
    if change and change["verdict"] == "loss":
        low, high = map(base.signed, change["ci95"])
        rose = f"its held-out loss rose by {base.number(change['change'])} nats ({low} … {high})"
        head = base.mark("warn", f"{said}, and worse than before; {rose}: {run}")
        remedy = [f"tunesmith lr-find {base.typed(document['run'] + '/recipe.yaml')}"]
    nexts = remedy + [
        f"tunesmith chat {typed}",
        export_words(document["run"], typed),
        f"tunesmith runs show {typed}",
    ]
    return base.page(
        head,
        stages.came_to(report["stages"]) if report.get("stages") else None,
        spent(report),
        heldout(report.get("before"), report.get("after")),
        forgetting(report["forgetting"]) if report.get("forgetting") else None,
        probes(report.get("before"), report.get("after")),
        next_steps(nexts),
    )


def spent(report: dict[str, Any]) -> RenderableType:
    """Steps, time and memory, against what the plan had said."""
    training, plan = report["training"], report.get("plan") or {}
    seconds = f"{base.duration(training['seconds'])}"
    if plan.get("predicted_seconds"):
        seconds += f" (plan: {base.duration(plan['predicted_seconds'])})"
    memory = base.size(plan.get("measured_peak_bytes"))
    if plan.get("predicted_peak_bytes"):
        memory += f" (plan: {base.size(plan['predicted_peak_bytes'])})"
    best = f", best at {training['best_step']}" if training.get("best_step") else ""
    return base.facts(
        [
            ("steps", f"{base.count(training['steps'])}{best}"),
            ("tokens", f"{base.count(training['tokens'])} read, {base.count(training['targets'])} learnt"),
            ("time", seconds),
            ("memory", memory),
        ]
    )


def next_steps(commands: list[str]) -> RenderableType:
    """Commands to try now."""
    return Group(Text("  next", "key"), *(Text(f"    {command}", "accent") for command in commands))
