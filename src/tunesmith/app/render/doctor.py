"""The doctor's findings as a page."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.app.render import base


def page(document: dict[str, Any]) -> RenderableType:
    """Each check with its sign, and what helps."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in document["checks"]:
        value = Text(base.visible(check["value"]))
        if check["fix"]:
            value.append(f"\n→ {base.visible(check['fix'])}", "accent")
        grid.add_row(base.mark(check["status"], Text(check["name"], "key")), value)
    verdict = (
        base.mark("good", "ready")
        if document["ok"]
        else base.mark("bad", "something here will make runs fail")
    )
    return base.page(
        base.heading("doctor", "this machine"), base.indent(grid), beside(document.get("extras", [])), verdict
    )


def beside(extras: list[dict[str, Any]]) -> RenderableType | None:
    """Optional parts that are missing: what for, what they cost, the words to type."""
    lines: list[RenderableType] = []
    for extra in extras:
        if not extra["missing"]:
            continue
        body = Text(f"{extra['for']}: {', '.join(extra['missing'])}")
        body.append(f"\nabout {extra['megabytes']} MB, {base.duration(extra['seconds'])} to fetch", "quiet")
        body.append(f"\n→ {extra['install']}", "accent")
        lines.append(base.indent(base.bullet(Text("·", "quiet"), body)))
    return Group(Text("  can be added", "key"), *lines) if lines else None
