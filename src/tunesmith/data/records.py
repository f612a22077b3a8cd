"""What a row means, whatever shape it came in: a chat, a text, or a multiple-choice question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is what an assistant thought before `content`, where the row keeps it apart."""

    role: Role
    content: str
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A dialogue: an optional system turn, then user and assistant in turn, ending with the assistant."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A document: every token is learnt."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question; `answer` is an index into `options`."""

    question: str
    options: tuple[str, ...]
    answer: int


Record = Chat | Text
