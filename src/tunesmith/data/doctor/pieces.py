"""A record as the texts in it, each with where it stands and who says it; what the rules look at.

Chat(user "Hi", assistant "Hello")  ->  Piece("turn 0", "user", "Hi"), Piece("turn 1", "assistant", "Hello")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Role, Text

Speaker = Role | Literal["text"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of a row; `role` is who says it, "text" in a document."""

    where: str
    role: Speaker
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch `text[start:end]` that a rule points at; `instead` is what would mend it, None if nothing can."""

    start: int
    end: int
    what: str
    instead: str | None = None


Finder = Callable[[Piece], Iterator[Mark]]


def pieces_of(record: Record) -> tuple[Piece, ...]:
    """Every text of a record; the prompt of a pair once."""
    match record:
        case Text():
            return (Piece("text", "text", record.text),)
        case Chat():
            return tuple(_turns("turn", record.messages))
        case Judged():
            return tuple(_turns("turn", record.chat.messages))
        case Preference():
            parts = (("prompt turn", record.prompt), ("chosen turn", record.chosen))
            return tuple(
                piece
                for name, turns in (*parts, ("rejected turn", record.rejected))
                for piece in _turns(name, turns)
            )
        case Choice():
            options = (Piece(f"option {i}", "user", text) for i, text in enumerate(record.options))
            return (Piece("question", "user", record.question), *options)


def _turns(name: str, messages: tuple[Message, ...]) -> Iterator[Piece]:
    return (Piece(f"{name} {i}", m.role, m.content) for i, m in enumerate(messages))


def apply(text: str, marks: Iterator[Mark]) -> str:
    """The text with every mark mended that can be; marks that overlap an earlier one are passed over."""
    parts, at = [], 0
    for mark in sorted(marks, key=lambda mark: (mark.start, mark.end)):
        if mark.instead is not None and mark.start >= at:
            parts += [text[at : mark.start], mark.instead]
            at = mark.end
    return "".join([*parts, text[at:]])
