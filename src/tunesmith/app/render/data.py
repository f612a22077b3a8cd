"""Data as pages: what the check found, how long rows are, what became of each.

source          rows   whole  shortened  split  dropped
a.jsonl          400     398          2      0        0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base

FATES = ("whole", "shortened", "split", "expanded", "dropped", "not_read")
BAR = 30


def ledger(document: dict[str, Any]) -> RenderableType:
    """The contracted ledger: sources with the fate of their rows; fates nobody met are left out."""
    sources = document["sources"]
    met = [fate for fate in FATES if any(source.get(fate) for source in sources)] or ["whole"]
    names = short_names([source["path"] for source in sources])
    rows = [
        (
            Text(base.visible(name), "strong"),
            source["format"] or "–",
            base.count(source["rows_in"]),
            *(_fate(fate, source[fate]) for fate in met),
        )
        for name, source in zip(names, sources)
    ]
    columns = ["source", "format", "rows", *(fate.replace("_", " ") for fate in met)]
    return base.table(columns, rows, right=range(2, len(columns)))


def splits(document: dict[str, Any]) -> RenderableType:
    """Train, validation and test in rows, samples, tokens and targets."""
    rows = [
        (
            Text(name, "strong"),
            *(base.count(part[key]) for key in ("rows", "samples", "tokens", "targets")),
            base.share(part["targets"], part["tokens"]),
        )
        for name, part in document["splits"].items()
        if part["rows"] or part["samples"]
    ]
    return base.table(["split", "rows", "samples", "tokens", "learnt", ""], rows, right=[1, 2, 3, 4, 5])


def reasons(document: dict[str, Any]) -> RenderableType | None:
    """Why rows did not go whole."""
    rows = [
        (base.visible(name), base.visible(reason).replace("_", " "), base.count(n))
        for name, source in zip(short_names([s["path"] for s in document["sources"]]), document["sources"])
        for reason, n in source["reasons"].items()
    ]
    return base.table(["source", "reason", "rows"], rows, right=[2]) if rows else None


def short_names(paths: list[str]) -> list[str]:
    """File names alone where they differ, else the paths as they were given."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(set(paths)) else paths


def _fate(fate: str, rows: int) -> Text:
    style = (
        "quiet" if not rows else {"whole": "default", "dropped": "bad", "not_read": "quiet"}.get(fate, "warn")
    )
    return Text(base.count(rows), style)


def histogram(bins: list[tuple[str, int]]) -> RenderableType:
    """Counts as bars."""
    largest = max((n for _, n in bins), default=0)
    rows = [(name, base.count(n), Text(base.bar(n, largest, BAR), "accent")) for name, n in bins]
    return base.table(["tokens", "rows", ""], rows, right=[0, 1])


def finding(kind: str, title: str, detail: str, fix: str, examples: list[str]) -> RenderableType:
    """One finding of the check: what, how often, where for example, and what to do."""
    lines: list[RenderableType] = [
        base.mark(kind, Text.assemble((title, "strong"), f"  {detail}" if detail else ""))
    ]
    if examples:
        shown = ", ".join(base.visible(example) for example in examples[:4])
        more = f" and {len(examples) - 4} more" if len(examples) > 4 else ""
        lines.append(base.indent(Text(shown + more, "quiet"), 2))
    if fix:
        lines.append(base.indent(Text(f"→ {base.visible(fix)}", "accent"), 2))
    return base.indent(Group(*lines))
