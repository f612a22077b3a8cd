"""What a row means, whatever shape it came in: a chat, a text, a comparison, a judgement or a question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    identity: tuple[bytes, ...] | None = None
    """What it is split by, where that is not its own content: of an augmented or tagged row (marks.py, tags.py)."""


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
    identity: tuple[bytes, ...] | None = None
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


def identity_of(record: Record) -> tuple[bytes, ...] | None:
    """What a record is split by, where that is not its own content."""
    match record:
        case Chat() | Preference():
            return record.identity
        case Judged():
            return record.chat.identity
        case Text() | Choice():
            return None


def with_identity(record: Record, keys: tuple[bytes, ...]) -> Record:
    """The same record, split by these keys. Documents and questions are always split by their content."""
    match record:
        case Chat() | Preference():
            return replace(record, identity=keys)
        case Judged(chat=chat):
            return replace(record, chat=replace(chat, identity=keys))
        case Text() | Choice():
            return record


def as_chats(record: Record) -> tuple[Chat, ...]:
    """The dialogues in a record, as a person would read them; a text has none."""
    match record:
        case Chat():
            return (record,)
        case Judged():
            return (record.chat,)
        case Preference():
            return tuple(
                Chat((*record.prompt, *answer), record.tools, record.identity)
                for answer in (record.chosen, record.rejected)
            )
        case Choice():
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            lines = [record.question, *(f"{a}. {option}" for a, option in zip(letters, record.options))]
            return (Chat((Message("user", "\n".join(lines)), Message("assistant", letters[record.answer]))),)
        case Text():
            return ()
