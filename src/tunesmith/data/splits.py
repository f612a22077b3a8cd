"""Which rows are equal: a digest of each row's content, and of each beginning of it that ends with an answer.

q1 a1            ->  (d1,)
q1 a1 q2 a2      ->  (d1, d2)      the second continues the first (note 001, point 16): they count as equal
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tunesmith.data.marks import AUGMENTED
from tunesmith.data.records import Chat, Message, Record, Text, as_chats, identity_of

Split = Literal["train", "validation", "test"]
Key = bytes


def row_keys(record: Record) -> tuple[Key, ...]:
    """A digest for each beginning of the row that ends with an answer; the last is the whole row's."""
    if isinstance(record, Text):
        return (_digest(record.text.encode("utf-8", "surrogatepass")),)
    if not isinstance(record, Chat):
        chats = as_chats(record)
        name = f"{type(record).__name__} {getattr(record, 'desirable', '')}"
        return (_digest(b"".join([name.encode(), *(_spell_all(chat, chat.messages) for chat in chats)])),)
    running = hashlib.blake2b(b"chat", digest_size=16)
    running.update(_spell_all(record, ()))
    keys = []
    for message in record.messages:
        running.update(_spell(message))
        if message.role == "assistant":
            keys.append(running.digest())
    return tuple(keys)


def split_keys(record: Record) -> tuple[Key, ...]:
    """Like `row_keys`, but those of an augmented row are (AUGMENTED, its original's): they never part.

    A row with tags has the keys it has without them.
    """
    return identity_of(record) or row_keys(record)


def is_augmented(keys: Sequence[Key]) -> bool:
    """Whether these are the keys of an augmented row: the last of them is its original's."""
    return keys[0] == AUGMENTED


def prompt_key(chat: Chat) -> Key:
    """A digest of all that stands before the last answer."""
    return _digest(_spell_all(chat, chat.messages[:-1]))


def answer_key(chat: Chat) -> Key:
    """A digest of the last answer. Spaces and what cannot be seen make no other answer."""
    answer = chat.messages[-1]
    seen = "".join(filter(str.isprintable, "".join(answer.content.split())))
    return _digest(_spell(replace(answer, content=seen)))


def _spell_all(chat: Chat, messages: Sequence[Message]) -> bytes:
    tools = _json(list(chat.tools)) if chat.tools else b""
    return b"".join([tools, *map(_spell, messages)])


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _spell(message: Message) -> bytes:
    """Sizes before texts: no two different messages, nor rows of them, are spelt alike."""
    thought = "" if message.reasoning is None else f"{len(message.reasoning)} {message.reasoning}"
    text = f"{message.role} {len(message.content)} {len(thought)} {message.content}{thought}"
    calls = _json([(call.name, dict(call.arguments)) for call in message.calls]) if message.calls else b""
    return text.encode("utf-8", "surrogatepass") + calls


def _digest(data: bytes) -> Key:
    return hashlib.blake2b(data, digest_size=16).digest()


class HeldOut:
    """The rows of held-out files: what equals one, begins one or continues one must not be learnt."""

    def __init__(self) -> None:
        self._whole: dict[Key, Split] = {}
        self._beginnings: dict[Key, Split] = {}

    def add(self, split: Split, keys: Sequence[Key]) -> None:
        """One more row of a held-out file, by its `row_keys`."""
        self._whole.setdefault(keys[-1], split)
        for key in keys:
            self._beginnings.setdefault(key, split)

    def find(self, split: Split, keys: Sequence[Key]) -> Split | None:
        """The held-out split, other than its own, that a row of `split` would give away."""
        found = [self._beginnings.get(keys[-1]), *(self._whole.get(key) for key in keys)]
        return next((other for other in found if other not in (None, split)), None)
