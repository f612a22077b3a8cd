"""The recipe as commented YAML: each value with what it came from, and at the end every key that was left.

# lora_rank: 8
rank: 8
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.foreign.draft import UNSET, Imported
from tunesmith.recipe.plain_yaml import write_yaml

WIDTH = 80
ORDER = (
    "model",
    "data",
    "tuning",
    "objective",
    "optim",
    "budget",
    "compute",
    "evaluation",
    "checkpoint",
    "track",
    "seed",
    "output",
)


def text(imported: Imported, source: str) -> str:
    """The whole file."""
    lines = [f"# From {source}, a file of {imported.tool}. Next: tunesmith plan RECIPE"]
    comments = _comments(imported)
    values = imported.values
    for key in (*ORDER, *(key for key in values if key not in ORDER)):
        if key in values:
            lines += [""] if isinstance(values[key], Mapping) else []
            lines += _entry(key, values[key], key, comments, 0)
    told = [left for left in imported.left if left.meaning != UNSET]
    if told:
        lines += ["", f"# Without a counterpart ({len(told)}):"]
        for left in told:
            lines += _wrapped(f"{left.key}: {_plain(left.value)} -- {left.meaning}", 0, "    ")
    return "\n".join(lines) + "\n"


def _comments(imported: Imported) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for note in imported.translated:
        keys = ", ".join(f"{key}: {_plain(value)}" for key, value in note.keys.items())
        if note.to:
            found.setdefault(note.to, []).append(f"{keys} -- {note.how}" if note.how else keys)
    for assumed in imported.assumed:
        found.setdefault(assumed.to, []).append(assumed.why)
    return found


def _entry(key: str, value: Any, dotted: str, comments: Mapping[str, list[str]], depth: int) -> Iterator[str]:
    for comment in comments.get(dotted, ()):
        yield from _wrapped(comment, depth)
    pad = "  " * depth
    if isinstance(value, Mapping) and value:
        yield f"{pad}{key}:"
        for name, inner in value.items():
            yield from _entry(name, inner, f"{dotted}.{name}", comments, depth + 1)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        yield f"{pad}{key}:"
        yield from (f"{pad}  - {write_yaml(item, flow=True)}" for item in value)
    else:
        yield f"{pad}{key}: {write_yaml(value, flow=True)}"


def _plain(value: Any) -> str:
    shown = write_yaml(value, flow=True) if not isinstance(value, str) else value
    shown = " ".join(shown.split())
    return shown if len(shown) <= 70 else shown[:69] + "…"


def _wrapped(words: str, depth: int, hanging: str = "  ") -> list[str]:
    pad = "  " * depth
    return textwrap.wrap(words, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# {hanging}",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
