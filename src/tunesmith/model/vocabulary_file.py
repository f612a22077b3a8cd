"""vocabulary.json beside the weights of a model whose vocabulary was extended: what was added, and what it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "vocabulary.json"


def read_vocabulary(folder: Path | None) -> dict[str, Any] | None:
    """The report of an extension; None where the folder holds none that can be read."""
    try:
        value = json.loads((folder / FILE).read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def new_ids(folder: Path | None) -> tuple[int, ...]:
    """Ids whose rows nobody has trained since they were added."""
    found = read_vocabulary(folder)
    return tuple(int(token["id"]) for token in found.get("new", ())) if found else ()
