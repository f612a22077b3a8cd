"""What a row means, whatever shape it came in: a chat, a text, a comparison, a judgement or a question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """An assistant asks for a tool; `arguments` are the JSON object it is called with."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is what an assistant thought before `content`, where the row keeps it apart.

    `weight` is how much the loss of each of an answer's tokens counts; 0 takes it as given: read, not learnt.
    """

    role: Role
    content: str
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Chat:
    """A dialogue: an optional system turn, then user and assistant in turn, ending with the assistant.

    Between the call of a tool and what the assistant makes of it stand the tool's answers.
    `tools` are JSON schemas as OpenAI writes them: {"type": "function", "function": {..}}.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    original: bytes | None = None
    """Of an augmented row: the key of the row it was made of (marks.py); b"" where it does not say."""


@dataclass(frozen=True, slots=True)
class Text:
    """A document: every token is learnt."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to the same prompt, one better than the other."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    original: bytes | None = None
    """As in Chat."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A dialogue whose last answer was found good or bad (KTO)."""

    chat: Chat
    desirable: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple-choice question; `answer` is an index into `options`."""

    question: str
    options: tuple[str, ...]
    answer: int


Record = Chat | Text | Preference | Judged | Choice


def original_of(record: Record) -> bytes | None:
    """The key of the row that an augmented row was made of; None for any other row."""
    match record:
        case Chat() | Preference():
            return record.original
        case Judged():
            return record.chat.original
        case Text() | Choice():
            return None


def as_chats(record: Record) -> tuple[Chat, ...]:
    """The dialogues in a record, as a person would read them; a text has none."""
    match record:
        case Chat():
            return (record,)
        case Judged():
            return (record.chat,)
        case Preference():
            return tuple(
                Chat((*record.prompt, *answer), record.tools, record.original)
                for answer in (record.chosen, record.rejected)
            )
        case Choice():
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            lines = [record.question, *(f"{a}. {option}" for a, option in zip(letters, record.options))]
            return (Chat((Message("user", "\n".join(lines)), Message("assistant", letters[record.answer]))),)
        case Text():
            return ()
