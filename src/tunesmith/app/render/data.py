"""Data as pages: how long rows are, what became of each.

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


def stats_page(document: dict[str, Any], note: str = "") -> RenderableType:
    """The document of `data stats`: lengths, sources with their share, the ledger."""
    book = document["ledger"]
    rows = [
        (
            Text(base.visible(name), "strong"),
            base.count(source["samples"]),
            base.count(source["tokens"]),
            base.count(source["targets"]),
            f"{100 * source['share']:.0f}%",
            "–" if source["weight"] is None else f"{source['weight']:g}",
            f"{100 * source['budget_share']:.0f}%",
            f"{source['repeats']:.3g} ×",
        )
        for name, source in zip(short_names([s["path"] for s in document["sources"]]), document["sources"])
    ]
    columns = ["train source", "samples", "tokens", "learnt", "size", "weight", "epoch", "seen"]
    return base.page(
        base.heading("data stats", note),
        base.table(columns, rows, right=range(1, 8)),
        spoken(document["rows"]),
        splits(book),
        lengths(document["lengths"]["train"]),
        ledger(book),
        reasons(book),
    )


def spoken(found: list[dict[str, Any]]) -> RenderableType:
    """What the rows of each source are made of: rounds, and characters a question, answer and document."""
    kinds = [
        kind for kind in ("rounds", "questions", "answers", "documents") if any(kind in row for row in found)
    ]
    rows = [
        (
            Text(base.visible(name), "strong"),
            base.count(row["rows"]),
            *(f"{row[kind]['median']:,} … {row[kind]['max']:,}" if kind in row else "–" for kind in kinds),
        )
        for name, row in zip(short_names([row["path"] for row in found]), found)
    ]
    columns = ["half up to … longest, characters", "rows", *kinds]
    return base.table(columns, rows, right=range(1, len(columns)))


def lengths(found: dict[str, Any]) -> RenderableType:
    """How long samples are: quantiles in a line, a histogram by powers of two."""
    largest = max((item["count"] for item in found["histogram"]), default=0)
    rows = [
        (
            f"{item['from']:,} – {item['to']:,}",
            base.count(item["count"]),
            Text(base.bar(item["count"], largest, BAR), "accent"),
        )
        for item in found["histogram"]
    ]
    words = f"shortest {found['min']:,}, half up to {found['median']:,}, "
    words += f"95% up to {found['p95']:,}, longest {found['max']:,}"
    return Group(
        base.table([found["unit"], "samples", ""], rows, right=[0, 1]), base.indent(Text(words, "quiet"))
    )
