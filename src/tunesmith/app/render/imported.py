"""An imported recipe as a page: what was taken over, what was translated, what was left.

micro_batch_size: 2, gradient_accumulation_steps: 4 → optim.batch_tokens: 32768
    2 x 4 x sequence_len 4096 = 32768 tokens if every row were full; ...
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base


def page(document: dict[str, Any]) -> RenderableType:
    """The commented recipe, or, where it was written to a file, the account of every key."""
    title = base.heading("import", f"{document['source']}, {document['tool']}'s: {document['why']}")
    left = [note for note in document["left"] if note["meaning"] != "unset"]
    if document["out"] is None:
        taken = len(document["translated"])
        words = f"{taken} taken over, {len(left)} without a counterpart; --out FILE keeps it"
        recipe = Text(base.visible(document["text"], keep_newlines=True).rstrip())
        return base.page(title, recipe, base.mark("good", words))
    same = [note for note in document["translated"] if not note["how"]]
    told = [note for note in document["translated"] if note["how"]]
    return base.page(
        title,
        base.mark("good", f"taken over as they are: {_keys(same)}") if same else None,
        _part("Translated", ((_change(note), note["how"]) for note in told)) if told else None,
        _part("Written for what the file leaves unsaid", ((_to(n), n["why"]) for n in document["assumed"])),
        _part("Left out", ((_pairs({note["key"]: note["value"]}), note["meaning"]) for note in left))
        if left
        else base.mark("good", "every key has a counterpart"),
        base.mark(
            "good", f"{base.visible(document['out'])}; next: tunesmith plan {base.typed(document['out'])}"
        ),
    )


def _part(title: str, lines: Iterable[tuple[str, str]]) -> RenderableType | None:
    """A title, and under it each line with what is to be said of it."""
    parts: list[RenderableType] = []
    for line, words in lines:
        parts += [base.indent(Text(base.visible(line))), base.indent(Text(base.visible(words), "quiet"), 6)]
    return Group(Text(title, "strong"), *parts) if parts else None


def _change(note: dict[str, Any]) -> str:
    return f"{_pairs(note['keys'])} → {_to(note)}" if note["to"] else _pairs(note["keys"])


def _to(note: dict[str, Any]) -> str:
    return f"{note['to']}: {_short(note['becomes'])}"


def _pairs(keys: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {_short(value)}" for key, value in keys.items())


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _keys(notes: list[dict[str, Any]]) -> str:
    return ", ".join(base.visible(key) for note in notes for key in note["keys"])
