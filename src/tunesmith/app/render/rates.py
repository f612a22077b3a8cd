"""The learning-rate range test as a page and as a picture: the gain of each step over the rate it was taken with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.app.render.curve import Line, chart
from tunesmith.app.render.picture import COLOURS, INK, QUIET, draw_png, plain_axes

TITLE = "loss of each step against the weights of the beginning (nats)"


def page(document: dict[str, Any], note: str = "") -> RenderableType:
    """What the test suggests, and the curve that says so."""
    suggestion = document["suggestion"]
    if suggestion is None:
        verdict = base.mark("warn", f"no suggestion: {document['reason']}")
    else:
        verdict = base.mark("good", Text.assemble((f"{document['key']}={suggestion:g}", "accent")))
    notes = [("why", document["reason"])] if suggestion is not None else []
    if document.get("caution"):
        notes.append(("but", document["caution"]))
    notes.append(("usual", f"{document['usual']:g} for this method; the recipe has {document['recipe_lr']}"))
    if document.get("starts"):
        notes.append(("starts", document["starts"]))
    if document.get("png"):
        notes.append(("picture", document["png"]))
    return base.page(
        base.heading("lr-find", note),
        curve(document),
        verdict,
        base.facts([(name, base.visible(value)) for name, value in notes]),
    )


def curve(document: dict[str, Any]) -> RenderableType | None:
    """The smoothed course over the rate, in powers of ten."""
    points = document["points"]
    if len(points) < 2 or not document["smooth"]:
        return None
    powers = [math.log10(point["lr"]) for point in points]
    ceiling = _ceiling(document)
    shown = [(power, gain) for power, gain in zip(powers, document["smooth"]) if gain <= ceiling]
    lines = [Line("gain, smoothed", shown, "accent")]
    if document["suggestion"]:
        at = min(powers, key=lambda power: abs(power - math.log10(document["suggestion"])))
        lines.append(Line("suggested", [(at, document["smooth"][powers.index(at)])], "good", "●"))
    first, last = points[0]["lr"], points[-1]["lr"]
    below = Text(
        f"  below: the power of ten of the rate, from {first:.1e} to {last:.1e}, a step each", "quiet"
    )
    return base.page(base.indent(chart(lines)), below)


def _ceiling(document: dict[str, Any]) -> float:
    """Above this the course is not shown: it may rise without end, and the dip is what matters."""
    return max(0.3, -0.6 * min(document["smooth"]))


def save(document: dict[str, Any], file: Path, name: str) -> None:
    """Draw the test into a PNG. Raises UserError where it cannot be written."""
    draw_png(file, (8.0, 4.4), lambda figure: _draw(figure, document, name))


def _draw(figure: Any, document: dict[str, Any], name: str) -> None:
    axes = plain_axes(figure.add_axes((0.09, 0.13, 0.87, 0.66)), "", "learning rate")
    axes.set_title(TITLE, loc="left", fontsize=9.5, color=INK, pad=22)
    figure.text(0.035, 0.94, f"lr-find  {name}", fontsize=13, fontweight="bold", color=INK, va="center")
    rates = [point["lr"] for point in document["points"]]
    axes.set_xscale("log")
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.plot(
        rates, [point["gain"] for point in document["points"]], color=COLOURS[0], alpha=0.28, linewidth=0.9
    )
    if document["smooth"]:
        axes.plot(rates, document["smooth"], color=COLOURS[0], linewidth=2.0)
        axes.set_ylim(1.15 * min(document["smooth"]) - 0.05, _ceiling(document))
    for value, words, colour in (
        (document["suggestion"], "suggested", COLOURS[1]),
        (document["usual"], "usual", QUIET),
    ):
        if value is not None and rates and rates[0] <= value <= rates[-1]:
            axes.axvline(value, color=colour, linewidth=1.4, linestyle=(0, (3, 2)))
            axes.annotate(f"{words} {value:g}", (value, 1), xycoords=("data", "axes fraction"), ha="center",
                          va="bottom", fontsize=8.5, color=colour)  # fmt: skip
