"""The cache of prepared data as pages.

kind     of              rows       tokens    size   used
tokens   train.jsonl   3,000,000   141.0M   670 MB   2 hours ago
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base


def list_page(document: dict[str, Any]) -> RenderableType:
    """Each entry with what it is of, its size and its age."""
    entries = document["entries"]
    total = f"{base.size(document['bytes'])} in {_entries(len(entries))}"
    return base.page(
        base.heading("cache", base.visible(document["folder"])),
        _table(entries) if entries else None,
        base.mark("quiet", total if entries else "nothing is kept"),
    )


def cleared_page(document: dict[str, Any]) -> RenderableType:
    """What went, and what stayed because a run is using it."""
    gone, kept = document["cleared"], document["in_use"]
    words = f"{_entries(len(gone))} deleted, {base.size(document['freed_bytes'])} freed"
    stayed = base.mark("warn", f"{_entries(len(kept))} in use by a run, left alone")
    return base.page(
        base.heading("cache", base.visible(document["folder"])),
        base.mark("good", words),
        stayed if kept else None,
    )


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{base.count(number)} entries"


def _table(entries: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            entry["kind"],
            Text(base.address(entry["what"], 44), "strong" if entry["complete"] else "warn"),
            base.count(entry["rows"]),
            base.count(entry["tokens"]),
            base.size(entry["bytes"]),
            f"{base.duration(max(0.0, time.time() - entry['used']))} ago",
        )
        for entry in entries
    ]
    return base.table(["kind", "of", "rows", "tokens", "size", "used"], rows, right=[2, 3, 4, 5])
