"""The forecast as a PNG or SVG: stacked bars of each phase against the device; where it does not fit, the ladder too.

loss       ██████▓▓▓▓▓▓▒▒▒░    │        bars: terms in GiB; line: the device's memory
as asked   ████████████████████│██      rungs: what fits is filled, with the slow-down of a step
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.app.render import base
from tunesmith.app.render.memory import COLOURS, phases
from tunesmith.app.render.picture import GRID, INK, QUIET
from tunesmith.errors import UserError

GIB = 2**30


def save(plan: Mapping[str, Any], file: Path, title: str) -> None:
    """Draw a plan's document. Raises UserError where the file cannot be written or is of another kind."""
    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError.at("--picture", f"{file} is neither .png nor .svg", "name it such as memory.svg")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rungs = [] if plan["fits"] else plan["largest"].get("ladder", [])
    rows = len(plan["memory"]["phases"]) + len(rungs)
    settings: Any = {"font.size": 9, "text.color": INK, "svg.fonttype": "none", "svg.hashsalt": "tunesmith"}
    settings |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), QUIET)
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.6, 2.3 + 0.34 * rows), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        _draw(figure, plan, title, rungs)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
        except OSError as error:
            what = f"{file} cannot be written: {error.strerror}"
            raise UserError.at("--picture", what, "choose another place") from error


def _draw(figure: Any, plan: Mapping[str, Any], title: str, rungs: list[dict[str, Any]]) -> None:
    height = figure.get_size_inches()[1]
    found, room = phases(plan), plan["device"]["memory_bytes"] / GIB
    grid = figure.add_gridspec(
        2 if rungs else 1, 1, height_ratios=[len(found), len(rungs)] if rungs else None, left=0.235,
        right=0.9, top=1 - 1.2 / height, bottom=0.5 / height, hspace=2.2 / (len(found) or 1),
    )  # fmt: skip
    figure.text(
        0.03, 1 - 0.3 / height, f"memory forecast  {title}", fontsize=13, fontweight="bold", va="center"
    )
    verdict = "fits" if plan["fits"] else "does not fit"
    words = (
        f"{verdict}: {base.size(plan['memory']['peak_bytes'])} ±{100 * plan['memory']['error_share']:.0f}% of "
        f"{base.size(plan['device']['memory_bytes'])}, {plan['device']['name']}"
    )
    figure.text(0.03, 1 - 0.55 / height, words, fontsize=9, color=QUIET, va="center")
    axes = _plain(figure.add_subplot(grid[0]))
    _stack(axes, found, plan["memory"]["phase"])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.02, 1 - 0.68 / height), ncols=9, frameon=False,
        fontsize=8, handlelength=0.9, columnspacing=1.1, handletextpad=0.4,
    )  # fmt: skip
    parts = [axes]
    if rungs:
        parts.append(_plain(figure.add_subplot(grid[1])))
        _rungs(parts[1], rungs)
    widest = max(patch.get_x() + patch.get_width() for part in parts for patch in part.patches)
    for part in parts:
        if room < 4 * widest:
            part.axvline(room, color="#c0392b", linewidth=1.2)
        part.set_xlim(0, 1.13 * max(widest, room if room < 4 * widest else 0))
    parts[-1].set_xlabel("GiB", fontsize=8.5)


def _plain(axes: Any) -> Any:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5)
    axes.invert_yaxis()
    return axes


def _stack(axes: Any, found: list[tuple[str, dict[str, int]]], dearest: str) -> None:
    """A row a phase; the dearest one's name is dark."""
    names = [name for name, _ in found]
    begin = [0.0] * len(found)
    for term, (_, colour) in COLOURS.items():
        widths = [terms.get(term, 0) / GIB for _, terms in found]
        if not any(widths):
            continue
        axes.barh(range(len(found)), widths, left=begin, color=colour, height=0.66, label=term)
        begin = [a + b for a, b in zip(begin, widths)]
    for place, end in enumerate(begin):
        axes.annotate(base.size(end * GIB), (end, place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8, color=INK if names[place] == dearest else QUIET)  # fmt: skip
    axes.set_yticks(range(len(found)), names)
    for label in axes.get_yticklabels():
        label.set_color(INK if label.get_text() == dearest else QUIET)


def _rungs(axes: Any, rungs: list[dict[str, Any]]) -> None:
    """A row a rung: filled where it fits, with the time of a step against the quickest."""
    for place, rung in enumerate(rungs):
        size, fits = rung["peak_bytes"] / GIB, rung["fits"]
        edge = "#588157" if fits else "#c0392b"
        axes.barh(place, size, height=0.6, color=edge if fits else "white", edgecolor=edge, linewidth=1)
        words = f"{base.size(rung['peak_bytes'])}   x{rung['slowdown']:.2f} time"
        axes.annotate(words, (size, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                      color=INK if fits else "#c0392b")  # fmt: skip
    axes.set_yticks(range(len(rungs)), [rung["name"] for rung in rungs])
    axes.set_title("ways to need less, in order of what they cost", loc="left", fontsize=9, color=INK)
