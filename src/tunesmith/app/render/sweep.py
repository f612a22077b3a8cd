"""A sweep as a page and as a picture: what each run came to, which differences are more than chance, at what price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.app.render.picture import COLOURS, INK, QUIET, draw_png, plain_axes
from tunesmith.app.render.runs import VERDICTS

MOST_TASKS = 3  # beside each other in a terminal


def page(document: dict[str, Any]) -> RenderableType:
    """The whole sweep."""
    tokens = document["tokens"]
    equal = f", {base.short_count(tokens)} tokens each" if tokens else ""
    return base.page(
        base.heading("sweep", f"{document['sweep']}{equal}"),
        base.mark("warn", f"starts {base.visible(document['starts'])}") if document.get("starts") else None,
        results(document),
        prices(document),
        differences(document),
        failures(document),
        *cross(document["cross"]),
        verdict(document),
    )


def verdict(document: dict[str, Any]) -> RenderableType:
    """The best, if one can be named, and what to do with it."""
    best = next((run for run in document["runs"] if run["name"] == document["best"]), None)
    if best is None:
        why = (
            "they held out other rows, or cut them otherwise"
            if len(document["runs"]) > 1
            else "one run alone"
        )
        return base.mark("quiet", f"no best by held-out loss: {why}")
    words = Text.assemble("lowest held-out loss: ", (base.visible(best["name"]), "strong"))
    return Group(base.mark("good", words), Text(f"  tunesmith runs show {base.typed(best['run'])}", "accent"))


def results(document: dict[str, Any]) -> RenderableType:
    """Scores of each run."""
    runs = document["runs"]
    names = list(dict.fromkeys(name for run in runs for name in run["tasks"]))[:MOST_TASKS]
    lost = sorted({name for run in runs for name in run["forgetting"]})[:1]
    columns = ["run", "held-out loss, 95%", *names, *(f"{name}: change" for name in lost)]
    rows = []
    for run in runs:
        row = [Text(base.visible(run["name"]), "strong"), _loss(run["heldout"] or {})]
        row += [_score(run["tasks"].get(name)) for name in names]
        row += [_change(run["forgetting"].get(name)) for name in lost]
        rows.append(row)
    return base.table(columns, rows)


def prices(document: dict[str, Any]) -> RenderableType:
    """What each run read and cost; what is the same for all is left out."""
    columns = {
        "rows": lambda run: base.count(run["rows"]),
        "passes": lambda run: base.number(run["passes"], 1),
        "steps": lambda run: base.count(run["steps"]),
        "learnt": lambda run: base.short_count(run["targets"]),
        "trains": lambda run: base.short_count(run["trainable"]),
        "time": lambda run: base.duration(run["seconds"]),
        "memory": lambda run: base.size(run["peak_bytes"]),
    }
    runs = document["runs"]
    if len({run["trainable"] for run in runs}) == 1:
        del columns["trains"]
    rows = [[Text(base.visible(run["name"])), *(told(run) for told in columns.values())] for run in runs]
    return base.table(["run", *columns], rows, right=range(1, len(columns) + 1))


def differences(document: dict[str, Any]) -> RenderableType | None:
    """Against the first run, over the same items: what is more than chance."""
    rows = [
        [Text(base.visible(run["name"])), name.replace("heldout", "held-out loss"), *_difference(change)]
        for run in document["runs"]
        for name, change in run["against_first"].items()
        if change and change["ci95"]
    ]
    if not rows:
        return None
    first = base.visible(document["first"])
    return base.table([f"against {first}, paired", "", "change", "95%", ""], rows, right=[2])


def _difference(change: dict[str, Any]) -> list[Text | str]:
    word, style = VERDICTS[change["verdict"]]
    low, high = change["ci95"]
    return [base.signed(change["change"]), f"{base.signed(low)} … {base.signed(high)}", Text(word, style)]


def failures(document: dict[str, Any]) -> RenderableType | None:
    """Runs that did not end well."""
    lines = [
        base.mark("bad", f"{base.visible(run['name'])}: {base.visible(problem['what'])}")
        for run in document["runs"]
        if run["status"] == "failed"
        for problem in run["problems"]
    ]
    return Group(*lines) if lines else None


def cross(found: dict[str, Any] | None) -> list[RenderableType]:
    """Every model on every cut, as served, and by depth of the dialogue."""
    if found is None:
        return []
    parts = [_columns(found["cuts"], found["losses"])]
    if found["as_served"]:
        rows = [
            [Text(base.visible(name), "strong"), _loss(one), *_against(one)]
            for name, one in found["as_served"].items()
        ]
        any_of = next(iter(found["as_served"].values()))
        title = f"as served: last answers of {base.many(any_of['rows'], 'row')}"
        parts.append(base.table([title, "loss, 95%", "change", "95%", ""], rows, right=[2]))
    if any(buckets for cut in found["by_depth"].values() for buckets in cut.values()):
        parts += [_depths(cut, runs) for cut, runs in found["by_depth"].items()]
    return parts


def _columns(cuts: list[dict[str, Any]], losses: dict[str, Any]) -> RenderableType:
    titles = [f"cut at {cut['name']}: {base.many(cut['rows'], 'row')}" for cut in cuts]
    rows = []
    for name in next(iter(losses.values())):
        cells = []
        for cut in cuts:
            one = losses[cut["name"]][name]
            change = one["against_first"]
            cell = _loss(one)
            if change:
                word, style = VERDICTS[change["verdict"]]
                cell.append(f"  {word}", style)
            cells.append(cell)
        rows.append([Text(base.visible(name), "strong"), *cells])
    return base.table(["each model on each cut", *titles], rows)


def _depths(cut: str, runs: dict[str, Any]) -> RenderableType:
    buckets = next(iter(runs.values()))
    titles = [f"{bucket['answers']} ({bucket['rows']})" for bucket in buckets]
    rows = [
        [Text(base.visible(name)), *(base.number(bucket["loss_nats"]) for bucket in found)]
        for name, found in runs.items()
    ]
    return base.table(
        [f"cut at {cut}, by answers a row (rows)", *titles], rows, right=range(1, len(titles) + 1)
    )


def _against(one: dict[str, Any]) -> list[Text | str]:
    return (
        _difference(one["against_first"])
        if one["against_first"] and one["against_first"]["ci95"]
        else ["", "", ""]
    )


def _loss(held: dict[str, Any]) -> Text:
    if held.get("loss_nats") is None:
        return Text("–", "quiet")
    ends = "–".join(base.number(bound) for bound in held["ci95"])
    return Text(base.number(held["loss_nats"])).append(f" {ends}" if ends else "", "quiet")


def _score(score: dict[str, Any] | None) -> Text:
    if score is None:
        return Text("–", "quiet")
    ends = "–".join(f"{bound:.2f}" for bound in score["ci95"])
    return Text(base.number(score["value"])).append(f" {ends}" if ends else "", "quiet")


def _change(change: dict[str, Any] | None) -> Text:
    if change is None:
        return Text("–", "quiet")
    styles = {"gain": "good", "loss": "bad", "within_margin": "default", "cannot_tell": "warn"}
    return Text(base.signed(change["change"]), styles[change["verdict"]])


# --- the picture --------------------------------------------------------------------------------------------


def save(document: dict[str, Any], file: Path) -> None:
    """Draw the sweep into a PNG: losses with intervals, time and memory, a line a run."""
    height = 1.9 + 0.42 * len(document["runs"])
    draw_png(file, (9.6, height), lambda figure: _draw(figure, document))


def _draw(figure: Any, document: dict[str, Any]) -> None:
    height, runs = figure.get_size_inches()[1], document["runs"][::-1]
    top, bottom = 1 - 1.05 / height, 0.62 / height
    grid = figure.add_gridspec(
        1, 3, width_ratios=(2.4, 1, 1), left=0.24, right=0.975, top=top, bottom=bottom, wspace=0.12
    )
    title = f"sweep  {Path(document['sweep']).name}"
    figure.text(0.035, 1 - 0.32 / height, title, fontsize=14, fontweight="bold", color=INK, va="center")
    losses = plain_axes(figure.add_subplot(grid[0, 0]), "held-out loss, 95%", "nats a token")
    for index, (label, column) in enumerate(_series(document)):
        points = [(column[run["name"]], place) for place, run in enumerate(runs) if column.get(run["name"])]
        shift = 0.12 * (index - (len(_series(document)) - 1) / 2)
        for held, place in points:
            low, high = held["ci95"] or (held["loss_nats"], held["loss_nats"])
            losses.plot([low, high], [place - shift] * 2, color=COLOURS[index % 4], linewidth=1.6, alpha=0.5)
        losses.plot([held["loss_nats"] for held, _ in points], [place - shift for _, place in points], "o",
                    color=COLOURS[index % 4], markersize=5.5, label=label)  # fmt: skip
    if len(_series(document)) > 1:
        figure.legend(*losses.get_legend_handles_labels(), frameon=False, fontsize=8.5, loc="upper right",
                      bbox_to_anchor=(0.985, 1 - 0.12 / height), ncols=len(_series(document)))  # fmt: skip
    losses.set_yticks(range(len(runs)), [run["name"][-34:] for run in runs])
    losses.set_ylim(-0.6, len(runs) - 0.4)
    prices = (("time", "seconds", "seconds", 1), ("memory", "peak_bytes", "MiB", 2**20))
    for place, (name, key, unit, scale) in enumerate(prices, start=1):
        axes = plain_axes(figure.add_subplot(grid[0, place]), name, unit)
        axes.barh(
            range(len(runs)), [(run[key] or 0) / scale for run in runs], color=QUIET, alpha=0.55, height=0.5
        )
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(runs) - 0.4)


def _series(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What is drawn as losses: on every cut where that was measured, else each run's own."""
    if document["cross"]:
        return [(f"cut at {cut}", column) for cut, column in document["cross"]["losses"].items()]
    return [("held-out", {run["name"]: run["heldout"] for run in document["runs"]})]
