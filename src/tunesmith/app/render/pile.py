"""A pile of data as one PNG: how long rows are, how many turns they have, what sources bring, what was found.

┌─ lengths ───┐ ┌─ questions a row ─┐
├─ sources ───┤ ├─ findings ────────┤
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.app.render.check import words
from tunesmith.app.render.data import short_names
from tunesmith.app.render.picture import COLOURS, INK, QUIET, draw_png, plain_axes

WEIGHTS = {"error": "#c0392b", "warning": "#c99a2e", "note": "#7b8794"}
MOST_BARS = 14


def save(document: dict[str, Any], file: Path, title: str) -> None:
    """Draw the document of `data check`. UserError where the file cannot be written."""
    bars = max(min(MOST_BARS, len(document["findings"])), min(MOST_BARS, len(document["budget"])), 2)
    draw_png(file, (9.6, 3.9 + 0.26 * bars), lambda figure: _draw(figure, document, title, bars))


def _draw(figure: Any, document: dict[str, Any], title: str, bars: int) -> None:
    height = figure.get_size_inches()[1]
    figure.text(
        0.035, 1 - 0.32 / height, Path(title).name, fontsize=14, fontweight="bold", color=INK, va="center"
    )
    figure.text(0.035, 1 - 0.58 / height, words(document), fontsize=9, color=QUIET, va="center")
    top = figure.add_gridspec(
        1, 2, left=0.06, right=0.975, top=1 - 1.05 / height, bottom=1 - 2.75 / height, wspace=0.16
    )
    below = figure.add_gridspec(
        1, 2, left=0.16, right=0.975, top=1 - 3.45 / height, bottom=0.3 / height, wspace=0.55
    )
    unit = document["lengths"]["unit"]
    _histogram(plain_axes(figure.add_subplot(top[0]), f"rows by length ({unit})", ""), document["lengths"])
    _histogram(plain_axes(figure.add_subplot(top[1]), "rows by number of questions", ""), document["turns"])
    budget = sorted(document["budget"], key=lambda share: -share["size"])[:MOST_BARS]
    names = short_names([share["path"] for share in budget])
    shown = [f"{100 * share['share']:.0f}%  {share['size']:,}" for share in budget]
    axes = plain_axes(figure.add_subplot(below[0]), f"{unit} a source", "")
    _bars(axes, names, [share["size"] for share in budget], shown, [COLOURS[0]] * len(budget), bars)
    found = document["findings"][:MOST_BARS]
    axes = plain_axes(figure.add_subplot(below[1]), "findings (rows)", "")
    counts = [item["count"] for item in found]
    colours = [WEIGHTS[item["severity"]] for item in found]
    rules = [item["rule"].replace("_", " ") for item in found]
    _bars(axes, rules, counts, [f"{count:,}" for count in counts], colours, bars)


def _histogram(axes: Any, found: dict[str, Any]) -> None:
    bins = found["histogram"]
    if not bins:
        axes.text(0.5, 0.5, "none", ha="center", color=QUIET, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.bar(range(len(bins)), [item["count"] for item in bins], color=COLOURS[0], width=0.86)
    axes.set_xticks(range(len(bins)), [_edge(item["from"]) for item in bins])
    axes.grid(False, axis="x")
    about = f"half up to {found['median']:,}, 95% up to {found['p95']:,}, longest {found['max']:,}"
    axes.set_title(about, loc="right", fontsize=8, color=QUIET)
    axes.set_ylim(0, 1.15 * max(item["count"] for item in bins))


def _edge(value: int) -> str:
    return f"{value // 1024}k" if value >= 1024 else str(value)


def _bars(
    axes: Any,
    names: Sequence[str],
    values: Sequence[int],
    words: Sequence[str],
    colours: Sequence[str],
    bars: int,
) -> None:
    """Horizontal bars with their values behind them; all charts of a row have bars of one thickness."""
    axes.barh(range(len(values)), values, color=colours, height=0.66)
    for place, (value, word) in enumerate(zip(values, words)):
        axes.annotate(
            word,
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=QUIET,
        )
    axes.set_yticks(
        range(len(names)), [name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}" for name in names]
    )
    axes.tick_params(axis="y", labelsize=8.5, labelcolor=INK)
    axes.set_ylim(bars - 0.4, -0.6)
    axes.set_xlim(0, 1.45 * max([1, *values]))
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
