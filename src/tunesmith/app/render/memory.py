"""Memory as stacked bars: a bar a phase of the step, a colour a term, the device's size as the end of the scale.

loss                 ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▒▒▒▒▒▒▒▒▒▒▒▒▒▒░░░░│  2.1 GiB
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.plan.peak import BESIDE

WIDTH = 44
# In the order in which they are stacked; the same colours in the terminal and in a file.
COLOURS: Mapping[str, tuple[str, str]] = {
    "weights": ("blue", "#2a6f97"),
    "adapters": ("cyan", "#61a5c2"),
    "optimiser states": ("magenta", "#7b4f8a"),
    "gradients": ("yellow", "#c99a2e"),
    "saved activations": ("green", "#588157"),
    "live layer": ("bright_green", "#a3b18a"),
    "keys and values": ("bright_cyan", "#90be6d"),
    "head": ("red", "#c8553d"),
    "batch": ("bright_yellow", "#e9c46a"),
    "checkpoint copy": ("bright_blue", "#4a7fb0"),
    "allocator": ("bright_black", "#9aa5b1"),
    "compiled products": ("bright_magenta", "#b392ac"),
    "framework": ("white", "#c9d1d9"),
}


def phases(plan: Mapping[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Each phase with its terms, what libraries hold beside tensors included."""
    beside = {term["name"]: term["bytes"] for term in plan["memory"]["terms"] if term["name"] in BESIDE}
    return [
        (phase["name"], {**{term["name"]: term["bytes"] for term in phase["terms"]}, **beside})
        for phase in plan["memory"].get("phases", [])
    ]


def stacked(plan: Mapping[str, Any]) -> RenderableType | None:
    """A bar for each phase, on one scale, and what the colours mean."""
    found = phases(plan)
    if not found:
        return None
    most = max(sum(terms.values()) for _, terms in found)
    rows = [
        (
            Text(name, "strong" if name == plan["memory"]["phase"] else ""),
            bar(terms, most, WIDTH),
            Text(base.size(sum(terms.values()))),
        )
        for name, terms in found
    ]
    return Group(base.table(["phase", "", ""], rows, right=[2]), base.indent(legend(found)))


def bar(terms: Mapping[str, int], whole: int, width: int) -> Text:
    """One stacked bar: each term as many characters as its share, rounded so that the sum is right."""
    drawn, sofar = Text(no_wrap=True), 0
    for name, (style, _) in COLOURS.items():
        begin = round(width * sofar / whole) if whole else 0
        sofar += terms.get(name, 0)
        end = round(width * sofar / whole) if whole else 0
        drawn.append("█" * (end - begin), style)
    return drawn


def legend(found: list[tuple[str, dict[str, int]]]) -> Text:
    """The terms that are there, each in its colour."""
    seen = {name for _, terms in found for name, count in terms.items() if count}
    words = Text()
    for name, (style, _) in COLOURS.items():
        if name in seen:
            # spaces that do not break: a colour stays with its word
            words.append("█\u00a0", style).append(name.replace(" ", "\u00a0"), "quiet").append("  ")
    return words
