"""The demo's pages: a rule before each step, and the card at the end.

── 3 plan ─────────────────────────────────────────
╭─ demo passed ───────────────────────────────────╮
│ ✓ 1 data check     1,204 rows, all readable     │
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tunesmith.app.render import base, scores


def opening(recipe: str) -> RenderableType:
    """What is about to happen."""
    words = "A small model learns the work of a shop's desk: from raw rows to a merged model, offline."
    return Group(Text.assemble(("tunesmith demo", "title"), (f"  recipe: {recipe}", "quiet")), Text(words))


def step(number: int, name: str, why: str) -> RenderableType:
    """The line that opens a step."""
    title = Text.assemble((f"{number} {name}", "title"), (f"  {why}", "quiet"))
    return Group(Text(""), Rule(title, align="left", style="quiet"))


def verdict(passed: bool, note: str) -> RenderableType:
    """How a step ended."""
    return base.mark("good" if passed else "bad", Text(base.visible(note), "default" if passed else "bad"))


def card(document: dict[str, Any]) -> RenderableType:
    """What passed, how long it took, and what to try now."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_column(justify="right", no_wrap=True, style="quiet")
    for number, item in enumerate(document["steps"], 1):
        sign = {True: "good", False: "bad", None: "quiet"}[item["passed"]]
        grid.add_row(
            base.mark(sign, str(number)),
            Text(item["name"], "strong"),
            Text(base.visible(item["note"]), "default" if item["passed"] else "quiet"),
            base.duration(item["seconds"]) if item["seconds"] is not None else "",
        )
    passed = document["passed"]
    spent = f"{base.duration(document['seconds'])}, peak memory {base.size(document['peak_bytes'])}"
    panel = Panel(
        grid,
        title=Text("demo passed" if passed else "demo failed", "good" if passed else "bad"),
        title_align="left",
        subtitle=Text(spent, "quiet"),
        subtitle_align="right",
        border_style="green" if passed else "red",
        box=box.ROUNDED,
        padding=(0, 1),
    )
    return Group(Text(""), panel, Text(""), scores.next_steps(document["next"]))
