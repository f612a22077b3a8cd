"""How a verb answers: one document, shown as one JSON object or as a page for a person.

Answer({"fits": True}, plan.page)  --json->  {"fits": true}        otherwise->  the page
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from tunesmith.app.render.base import console

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb found: the contracted document, how a person sees it, and the exit code."""

    document: Document
    page: Callable[[Document], Any]
    json: bool
    code: int = 0

    def show(self) -> int:
        """Print it on standard output in the form that was asked for; returns the exit code."""
        if self.json:
            write_json(self.document)
        else:
            console().print(self.page(self.document))
        return self.code


def document_of(value: object) -> Document:
    """The contracted document of what run.py gives."""
    if isinstance(value, dict):
        return value
    if hasattr(value, "to_json"):
        found: Document = value.to_json()
        return found
    assert is_dataclass(value), f"{type(value).__name__} has no document"
    return {field.name: getattr(value, field.name) for field in fields(value)}


def clean(value: Any) -> Any:
    """Plain JSON values: a number that is not finite becomes null, a tuple a list, a path its text."""
    if isinstance(value, dict):
        return {str(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)


def write_json(document: Document) -> None:
    """One JSON object and a newline on standard output, in UTF-8 whatever the terminal speaks."""
    text = json.dumps(clean(document), ensure_ascii=False, allow_nan=False) + "\n"
    data = text.encode("utf-8", errors="backslashreplace")  # a lone surrogate becomes its JSON escape
    buffer = getattr(sys.stdout, "buffer", None)
    try:
        if buffer is None:
            sys.stdout.write(data.decode("utf-8"))
        else:
            sys.stdout.flush()
            buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever asked has gone: a traceback would tell nobody anything
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
