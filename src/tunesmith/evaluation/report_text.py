"""report.md: what a person wants to know, in the order they would ask.

one sentence -> scores -> what was forgotten -> answers side by side -> the course of training -> data -> cost
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.tuning.handover import export_words

if TYPE_CHECKING:
    from tunesmith.folder import RunFolder
    from tunesmith.recipe import Recipe

Json = Mapping[str, Any]

LONGEST_ANSWER = 500
_BARS = "▁▂▃▄▅▆▇█"
_VERDICTS = {
    "gain": "**better**",
    "loss": "**worse**",
    "within_margin": "no change that matters",
    "cannot_tell": "cannot tell",
}
_STATUS = {
    "done": "ran to its end",
    "stopped": "stopped early, when the held-out loss no longer fell",
    "interrupted": "was interrupted and can be resumed",
}


def to_markdown(report: Json, recipe: Recipe, folder: RunFolder, events: Sequence[Json]) -> str:
    """The whole page."""
    parts = [
        f"# {folder.path.name}",
        _summary(report, recipe),
        _stages(report),
        _scores(report),
        _forgotten(report),
        _probes(report),
        _course(report, events),
        _data(report["ledger"]),
        _cost(report),
        _measured_how(report),
        _next(report, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---- words and numbers ------------------------------------------------------------------------------


def _amount(metric: str, value: float | None) -> str:
    """A score as people write it."""
    match metric:
        case _ if value is None:
            return "-"
        case "accuracy" | "exact_match":
            return f"{100 * value:.1f}%"
        case "bleu" | "chrf":
            return f"{value:.1f}"
        case _ if value >= 100:
            return f"{value:,.0f}"
        case _:
            return f"{value:.3f}"


def _change(row: Json) -> str:
    """+12.0 points (+8.1 to +15.9)."""
    share = row["metric"] in ("accuracy", "exact_match")
    factor, digits = (100, 1) if share else (1, 1 if row["metric"] in ("bleu", "chrf") else 3)
    said = f"{factor * row['change']:+.{digits}f}" + (" points" if share else "")
    if not row["ci95"]:
        return said
    low, high = (f"{factor * bound:+.{digits}f}" for bound in row["ci95"])
    return f"{said} ({low} to {high})"


def _bytes(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "KB") else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table; columns in `right` are set to the right."""
    right = set(right)
    lines = [head, ["--:" if at in right else "---" for at in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Any text as one cell: nothing in it is markup."""
    cut = text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER] + " …"
    for letter, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;")):
        cut = cut.replace(letter, safe)
    for letter in "\\*_[]~":
        cut = cut.replace(letter, "\\" + letter)
    return "<br>".join(cut.strip().splitlines()) or "*(nothing)*"


# ---- parts ------------------------------------------------------------------------------------------


def _summary(report: Json, recipe: Recipe) -> str:
    """The page in three sentences."""
    training, parameters = report["training"], report["parameters"]
    share = parameters["trainable"] / parameters["total"]
    model = recipe.model.path or "a new model"
    said = [
        f"`{model}`, tuned by **{recipe.tuning.method}** ({recipe.objective}): "
        f"{parameters['trainable']:,} of {parameters['total']:,} parameters trained ({share:.1%}).",
        f"The run {_STATUS[report['status']]}: {training['steps']:,} steps, "
        f"{training['targets']:,} learnt tokens of {training['tokens']:,}, {_seconds(training['seconds'])}.",
    ]
    if training["best_step"] is not None and report["status"] != "interrupted":
        said.append(f"The held-out loss was lowest at step {training['best_step']:,}.")
    return " ".join(said) + _headline(report["forgetting"])


def _stages(report: Json) -> str:
    """Each of several stages in a line."""
    rows = []
    for stage in report.get("stages") or ():
        training, found = stage.get("training"), stage.get("vocabulary")
        losses = [
            ((stage.get(when) or {}).get("heldout") or {}).get("loss_nats") for when in ("before", "after")
        ]
        held = " -> ".join(_amount("loss", loss) for loss in losses) if training else ""
        if found:
            gain = f"{found['before']:.3f} -> {found['after']:.3f} tokens a character"
            held = f"{found['new_tokens']:,} new tokens; {gain}"
        numbers = [f"{training['steps']:,}", f"{training['tokens']:,}"] if training else ["", ""]
        rows.append([stage["name"], stage["status"], *numbers, held])
    head = ["stage", "", "steps", "tokens", "held-out loss, on its own rows"]
    return "## The stages\n\n" + _table(head, rows, (2, 3)) if rows else ""


def _headline(table: Mapping[str, Json]) -> str:
    """What was proven, in one line; nothing where nothing was."""
    said = []
    for name, row in table.items():
        if row["verdict"] in ("gain", "loss"):
            word = "rose" if row["change"] > 0 else "fell"
            old, new = (_amount(row["metric"], row[when]) for when in ("before", "after"))
            said.append(f"**{name}** {word} from {old} to {new} ({_VERDICTS[row['verdict']].strip('*')})")
    return f"\n\nMore than chance can explain: {'; '.join(said)}." if said else ""


def _scores(report: Json) -> str:
    """Before and after: held-out loss, and tasks of the domain."""
    before, after = (report[when] or {} for when in ("before", "after"))
    rows = _heldout_rows(before, after, report.get("heldout_change"))
    rows += [_task_row(name, row) for name, row in report["forgetting"].items() if row["group"] == "domain"]
    if not report["forgetting"]:
        rows += _unpaired(before, after)
    if not rows:
        return ""
    head = ["", "before", "after", "change (95% interval)", "verdict", "items"]
    return "\n\n".join(part for part in ("## Scores", _table(head, rows, (1, 2, 5)), _test(report)) if part)


def _heldout_rows(before: Json, after: Json, change: Json | None) -> list[list[str]]:
    """Loss with its interval; perplexity and bits a byte say the same in other units."""
    rows = []
    names = {"loss_nats": "held-out loss", "perplexity": "perplexity", "bits_per_byte": "bits a byte"}
    for key, name in names.items():
        old, new = ((scores.get("heldout") or {}).get(key) for scores in (before, after))
        if old is None and new is None:
            continue
        more = ["", "", ""]
        if key == "loss_nats" and change is not None:
            more = [_change(change), _VERDICTS[change["verdict"]], str(change["n"])]
        rows.append([name, _amount("loss", old), _amount("loss", new), *more])
    return rows


def _task_row(name: str, row: Json) -> list[str]:
    amounts = [_amount(row["metric"], row[when]) for when in ("before", "after")]
    label = f"{name} ({row['metric'].replace('_', ' ')})"
    return [label, *amounts, _change(row), _VERDICTS[row["verdict"]], str(row["n"])]


def _unpaired(before: Json, after: Json) -> list[list[str]]:
    """Tasks of an interrupted run, measured on one side only."""
    rows = []
    for name, task in {**before.get("tasks", {}), **after.get("tasks", {})}.items():
        cells = [
            _amount(task["metric"], scores.get("tasks", {}).get(name, {}).get("value"))
            for scores in (before, after)
        ]
        rows.append([f"{name} ({task['metric']})", *cells, "", "", str(task["n"])])
    return rows


def _test(report: Json) -> str:
    heldout = (report["test"] or {}).get("heldout")
    if not heldout:
        return ""
    return (
        f"On the **test set**, touched once, at the end: loss {heldout['loss_nats']:.3f} nats a token over "
        f"{heldout['rows']:,} rows ({heldout['targets']:,} tokens)."
    )


def _forgotten(report: Json) -> str:
    """What happened to skills that were not trained."""
    general = {name: row for name, row in report["forgetting"].items() if row["group"] == "general"}
    if not general:
        return ""
    head = ["general skill", "before", "after", "change (95% interval)", "verdict", "items"]
    table = _table(head, [_task_row(name, row) for name, row in general.items()], (1, 2, 5))
    worse = [name for name, row in general.items() if row["verdict"] == "loss"]
    unsure = {name: row for name, row in general.items() if row["verdict"] == "cannot_tell"}
    said = []
    if worse:
        remedy = "A lower rate, fewer steps, or general rows mixed in keep more of it."
        said.append(f"**Forgotten: {', '.join(worse)}.** {remedy}")
    elif not unsure:
        said.append("Nothing that matters was forgotten.")
    for name, row in unsure.items():
        more = f"; about {row['n_needed']:,} items would tell" if row.get("n_needed") else ""
        said.append(f"{name}: {row['n']:,} items are too few to tell{more}.")
    return "\n\n".join(["## What was forgotten", table, " ".join(said)])


def _probes(report: Json) -> str:
    """The questions of the recipe, answered before and after."""
    before, after = (((report[when] or {}).get("probes") or []) for when in ("before", "after"))
    later = {probe["id"]: probe["answer"] for probe in after}
    if not before:
        return ""
    rows = [
        [_cell(probe["question"]), _cell(probe["answer"]), _cell(later[probe["id"]]) if later else "-"]
        for probe in before
    ]
    return "## Answers, before and after\n\n" + _table(["question", "before", "after"], rows)


def _course(report: Json, events: Sequence[Json]) -> str:
    """Loss over the run as lines of bars, and what had to be rescued."""
    curves = []
    for name, kind in (("loss", "stepped"), ("held out", "evaluated")):
        found = [event["loss_nats"] for event in events if event.get("kind") == kind]
        losses = [loss for loss in found if loss is not None]
        if len(losses) > 1:
            curves.append(f"{name:9} {bars(losses)}  {losses[0]:.3f} -> {losses[-1]:.3f}")
    if not curves:
        return ""
    lines = ["## The course of training", "", "```", *curves, "```"]
    rescued = [event for event in events if event.get("kind") == "rescued"]
    lines += [f"\nStep {event['step']}: {event['reason']}; {event['action']}." for event in rescued[:20]]
    if len(rescued) > 20:
        lines.append(f"\nAnd {len(rescued) - 20} more rescues; see `events.jsonl`.")
    return "\n".join(lines)


def bars(values: Sequence[float], width: int = 48) -> str:
    """Numbers as bars, the highest full; means of neighbours where there are more than `width`."""
    if len(values) > width:
        cuts = [round(at * len(values) / width) for at in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(7, int(8 * (value - low) / span))] for value in values)


def _data(ledger: Json) -> str:
    """Where every row went."""
    fates = ("rows_in", "whole", "shortened", "split", "expanded", "dropped", "not_read")
    head = ["source", "for", "format", "rows", *(fate.replace("_", " ") for fate in fates[1:])]
    rows = []
    for source in ledger["sources"]:
        counts = [f"{source[fate]:,}" for fate in fates]
        rows.append([f"`{source['path']}`", source.get("use", ""), str(source["format"]), *counts])
    said = []
    for source in ledger["sources"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in source["reasons"].items())
        if reasons:
            said.append(f"`{source['path']}`: {reasons}.")
    splits = "; ".join(
        f"{name}: {split['rows']:,} rows, {split['targets']:,} targets"
        for name, split in ledger["splits"].items()
        if split["rows"]
    )
    parts = ["## The data", _table(head, rows, range(3, 10)), f"{splits}. Every row is accounted for."]
    return "\n\n".join([*parts, *said, *_mixing(ledger)])


def _mixing(ledger: Json) -> list[str]:
    """What each of several train sources was asked to give of the run's tokens, and what it gave."""
    sources = [source for source in ledger["sources"] if source.get("realised_share") is not None]
    streams = [
        f"`{source['path']}` is a stream: {source['learnt_samples']:,} samples of the {source['rows_in']:,} rows "
        "read so far were learnt from; what else it holds is not known."
        for source in sources
        if source.get("learnt_samples") is not None
    ]
    if len(sources) < 2:
        return streams
    rows = [
        [f"`{s['path']}`", f"{s['requested_share']:.1%}", f"{s['realised_share']:.1%}", f"{s['repeats']:.2f}"]
        for s in sources
    ]
    return [_table(["source", "tokens asked", "tokens given", "times read"], rows, range(1, 4)), *streams]


def _cost(report: Json) -> str:
    """The forecast against what was measured."""
    plan = report["plan"]
    rows = [
        [name, show(plan[f"predicted_{key}"]), show(plan[f"measured_{key}"])]
        for name, key, show in (("peak memory", "peak_bytes", _bytes), ("training time", "seconds", _seconds))
    ]
    text = "## The forecast, and what happened\n\n" + _table(["", "planned", "measured"], rows, (1, 2))
    return text + _trunk(report.get("trunk"))


def _trunk(found: Json | None) -> str:
    """What computing the frozen layers once has saved."""
    if not found:
        return ""
    how = "read from the cache" if not found["filled_tokens"] else "computed once"
    text = f"\n\nThe lowest {found['layers']} layers never change: {how} ({_bytes(found['bytes'])} on disk)"
    saved = found["saved_seconds"]
    return text + (f", which saved about {_seconds(saved)}." if saved and saved > 0 else ".")


def _measured_how(report: Json) -> str:
    """Signatures and rules, so that a number can be compared with another."""
    tasks = (report["before"] or report["after"] or {}).get("tasks", {})
    if not tasks and not report.get("heldout_change"):
        return ""
    lines = [
        "## How it was measured",
        "",
        "The same items before and after, compared in pairs; intervals are of 95%. *No change that matters*: "
        "the whole interval lies within the margin, 1 point of a share, BLEU or chrF, or 1% of a loss. "
        "*Cannot tell*: neither a gain nor a loss is shown, nor ruled out.",
        "",
    ]
    lines += [f"- {name}: `{task['signature']}`, n = {task['n']:,}" for name, task in tasks.items()]
    lines += [f"- {name}: {note}" for name, task in tasks.items() for note in task.get("notes", [])]
    return "\n".join(lines)


def _next(report: Json, folder: RunFolder) -> str:
    """What to do with it."""
    path = Path(folder.path)
    if report["status"] == "interrupted":
        return f"## Next\n\n```\n{folder.resume_words}\n```"
    typed = shlex.quote(str(path))
    commands = [f"tunesmith chat {typed}", export_words(path, typed)]
    return "## Next\n\n```\n" + "\n".join(commands) + "\n```\n\nEvery raw answer is in `answers/`."
