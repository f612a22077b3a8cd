"""What `data check` found as a page: files, findings with the grave first, sources, lengths and turns.

! near duplicate  12 rows
    a.jsonl:7  95% the same as row 3
               …how do I boil an egg…
    → keep one of each group
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.app.render.data import BAR, lengths, short_names

EXAMPLES = 3
SIGNS = {"error": "bad", "warning": "warn", "note": "quiet"}


def page(document: dict[str, Any], note: str = "", examples: int = EXAMPLES) -> RenderableType:
    """The document of `data check`: files, findings with the grave first, lengths, and the verdict."""
    turns = document.get("turns") or {}
    return base.page(
        base.heading("data check", note),
        files(document["files"]),
        findings(document["findings"], min(examples, EXAMPLES) if examples == 5 else examples),
        sources(document.get("budget") or [], document["lengths"]["unit"]),
        lengths(document["lengths"]) if document["lengths"]["count"] else None,
        lengths(turns) if turns.get("max", 0) > 1 else None,
        base.mark("good" if document["ok"] else "bad", words(document)),
    )


def files(found: list[dict[str, Any]]) -> RenderableType:
    """What each file is, and how many of its rows are good."""
    rows = [
        (
            Text(base.visible(name), "strong"),
            file["use"],
            file["format"] or "–",
            base.count(file["rows"]),
            Text(base.count(file["bad_rows"]), "bad" if file["bad_rows"] else "quiet"),
        )
        for name, file in zip(short_names([file["path"] for file in found]), found)
    ]
    return base.table(["file", "use", "format", "rows", "bad"], rows, right=[3, 4])


def findings(found: list[dict[str, Any]], examples: int = EXAMPLES) -> RenderableType | None:
    """What is wrong or odd: in how many rows, where for example, and what to do."""
    if not found:
        return None
    blocks: list[RenderableType] = []
    for item in found:
        title = base.visible(item["rule"]).replace("_", " ")
        count = f"  {base.count(item['count'])} ×"
        blocks.append(base.mark(SIGNS[item["severity"]], Text.assemble((title, "strong"), (count, "quiet"))))
        for example in item["examples"][:examples]:
            where = base.address(example["where"], 36)
            said = Text.assemble((where, "accent"), "  ", base.visible(example["what"]))
            blocks.append(base.indent(said, 4))
            if example.get("excerpt"):
                blocks.append(base.indent(Text(base.visible(example["excerpt"]), "quiet"), 8))
        blocks.append(base.indent(Text(f"→ {base.visible(item['fix'])}", "default"), 4))
    return base.indent(Group(*blocks))


def sources(budget: list[dict[str, Any]], unit: str) -> RenderableType | None:
    """What each train source brings of what is read and learnt, and in which languages."""
    if not budget or not any(share["rows"] for share in budget):
        return None
    weighted = any(share["weight"] is not None for share in budget)
    rows = [
        (
            Text(base.short(base.visible(name), 26), "strong"),
            base.short_count(share["size"]),
            base.short_count(share["learnt"]),
            f"{100 * share['share']:.0f}%",
            Text(base.bar(share["share"], 1, BAR // 3), "accent"),
            *(["–" if share["weight"] is None else f"{share['weight']:g}"] if weighted else []),
            " ".join(f"{name} {n:,}" for name, n in list(share["languages"].items())[:2]),
        )
        for name, share in zip(short_names([share["path"] for share in budget]), budget)
    ]
    columns = ["source", unit, "learnt", "share", "", *(["weight"] if weighted else []), "languages (rows)"]
    return base.table(columns, rows, right=[1, 2, 3, 5] if weighted else [1, 2, 3])


def words(document: dict[str, Any]) -> str:
    """The check in a line: 1,204 rows in 7 files, 4 formats; 3 findings to look at."""
    found = document["findings"]
    bad = sum(item["count"] for item in found if item["severity"] == "error")
    odd = sum(1 for item in found if item["severity"] == "warning")
    said = f"{base.many(document['rows'], 'row')} in {base.many(len(document['files']), 'file')}"
    if len(document["formats"]) > 1:
        said += f", {len(document['formats'])} formats"
    if not document["ok"]:
        return f"{said}; a run would stop: {base.many(bad, 'thing')} to mend"
    left_out = sum(file["bad_rows"] for file in document["files"])
    said += f", {base.many(left_out, 'bad one')} left out" if left_out else ", all readable"
    return said + (f"; {base.many(odd, 'thing')} to look at" if odd else "")
