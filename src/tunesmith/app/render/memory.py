"""Memory as stacked bars: a bar a phase of the step, a colour a term, the dearest phase as the end of the scale.

loss                 ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▒▒▒▒▒▒▒▒▒▒▒▒▒▒░░░░  2.1 GiB
Where nothing has a colour (a file, NO_COLOR) each term is drawn with its letter: wwwwwwwooooooogggg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
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
    "products": ("bright_red", "#d08c60"),
    "checkpoint copy": ("bright_blue", "#4a7fb0"),
    "allocator": ("bright_black", "#9aa5b1"),
    "compiled products": ("bright_magenta", "#b392ac"),
    "framework": ("white", "#c9d1d9"),
}
FULL = "█"
LETTERS: Mapping[str, str] = {name: name[0] for name in COLOURS} | {
    "allocator": ".",
    "compiled products": "p",
    "products": "x",
}


def phases(plan: Mapping[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Each phase with its terms, what libraries hold beside tensors included."""
    beside = {term["name"]: term["bytes"] for term in plan["memory"]["terms"] if term["name"] in BESIDE}
    return [
        (phase["name"], {**{term["name"]: term["bytes"] for term in phase["terms"]}, **beside})
        for phase in plan["memory"].get("phases", [])
    ]


def stacked(plan: Mapping[str, Any]) -> Stacked | None:
    """A bar for each phase, on one scale, and what the colours mean."""
    return Stacked(plan) if phases(plan) else None


@dataclass(frozen=True, slots=True)
class Stacked:
    """Drawn when the console is known: in colours where it has some."""

    plan: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found, coloured = phases(self.plan), bool(console.color_system) and not console.no_color
        most = max(sum(terms.values()) for _, terms in found)
        rows = [
            (
                Text(name, "strong" if name == self.plan["memory"]["phase"] else ""),
                bar(terms, most, WIDTH, coloured),
                Text(base.size(sum(terms.values()))),
            )
            for name, terms in found
        ]
        table = base.table(["phase", "", ""], rows, right=[2])
        yield Group(table, base.indent(legend(found, coloured)))


def bar(terms: Mapping[str, int], whole: int, width: int, coloured: bool = True) -> Text:
    """One stacked bar: each term as many characters as its share, rounded so that the sum is right."""
    drawn, sofar = Text(no_wrap=True), 0
    for name, (style, _) in COLOURS.items():
        begin = round(width * sofar / whole) if whole else 0
        sofar += terms.get(name, 0)
        end = round(width * sofar / whole) if whole else 0
        drawn.append((FULL if coloured else LETTERS[name]) * (end - begin), style)
    return drawn


def legend(found: list[tuple[str, dict[str, int]]], coloured: bool = True) -> Text:
    """The terms that are there, each in its colour or with its letter."""
    seen = {name for _, terms in found for name, count in terms.items() if count}
    words = Text()
    for name, (style, _) in COLOURS.items():
        if name in seen:
            # spaces that do not break: a colour stays with its word
            sign = FULL if coloured else LETTERS[name]
            words.append(f"{sign}\u00a0", style).append(name.replace(" ", "\u00a0"), "quiet").append("  ")
    return words
