"""`tunesmith import`: a file of another tool -> a recipe file, and the account of every key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import FolderError
from tunesmith.folder import write_atomically
from tunesmith.foreign.read import read
from tunesmith.foreign.text import text
from tunesmith.recipe import values_of


def import_file(source: str, dataset_info: str | None, out: str | None, tool: str | None) -> dict[str, Any]:
    """Convert, and write to `out` if named; an existing file is never replaced."""
    if out is not None and Path(out).exists():
        raise FolderError.at(out, "exists already", "choose another --out, or move it away")
    found = read(Path(source), Path(dataset_info) if dataset_info else None, tool)
    written = text(found, Path(source).name)
    if out is not None:
        write_atomically(Path(out), written)
    return {
        "source": source,
        "tool": found.tool,
        "why": found.why,
        "out": out,
        "recipe": values_of(found.recipe),
        "text": written,
        "translated": [asdict(note) for note in found.translated],
        "assumed": [asdict(note) for note in found.assumed],
        "left": [asdict(note) for note in found.left],
    }
