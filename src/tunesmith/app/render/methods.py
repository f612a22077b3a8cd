"""Tuning methods as a page: what each trains, when to take it, how it leaves."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base


def page(document: dict[str, Any], note: str = "") -> RenderableType:
    """The contracted document of `methods`."""
    blocks = [one(method) for method in document["methods"]]
    return base.page(
        base.heading("tuning methods", note),
        *blocks,
        Text("  tunesmith train RECIPE tuning.method=NAME tuning.OPTION=VALUE", "accent"),
    )


def one(method: dict[str, Any]) -> RenderableType:
    """A method: its name and what it trains, then the facts that decide."""
    head = Text.assemble((method["name"], "title"), "  ", base.visible(method["trains"]))
    options = ", ".join(f"{name}={_short(value)}" for name, value in method["options"].items())
    pairs: list[tuple[str, RenderableType]] = [("when", Text(base.visible(method["when"])))]
    if method.get("parameters") is not None:
        pairs.append(("parameters", base.count(method["parameters"])))
    pairs.append(("options", Text(base.visible(options) or "none")))
    able = [
        f"lr {_rate(method['default_lr'])}",
        f"merge: {method['merge']}",
        "packing" if method["packing"] else "no packing",
        "quantised base" if method["quantised_base"] else "16-bit base",
    ]
    pairs.append(("defaults", Text(", ".join(able))))
    if method.get("source"):
        pairs.append(("source", Text(base.visible(method["source"]), "quiet")))
    return Group(base.indent(head, 2), base.indent(base.facts(pairs), 2))


def _short(value: Any) -> str:
    """An option's default: {"default": 16, "help": ...} or the value itself."""
    inner = value.get("default") if isinstance(value, dict) else value
    return "null" if inner is None else str(inner)


def _rate(value: Any) -> str:
    """A learning rate, or one for each objective."""
    if isinstance(value, dict):
        return ", ".join(f"{_rate(rate)} ({name})" for name, rate in value.items())
    return f"{value:g}" if isinstance(value, int | float) else str(value)
