"""Who speaks, told in the prompt: columns of a row put before its first question (note 001, point 22).

{"age": 31, "region": "Wuhan", "prompt": "Hi", ..}  ->  user "[age: 31, region: Wuhan]\\nHi"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Text
from tunesmith.recipe import Tags


def tagged(record: Record, row: Mapping[str, Any], tags: Tags) -> Record:
    """The record with the row's tags in it. A row without any stays as it is, and so does a document."""
    if not (words := tag_words(row, tags)):
        return record
    match record:
        case Chat():
            return replace(record, messages=_put(record.messages, words, tags))
        case Judged():
            return replace(
                record, chat=replace(record.chat, messages=_put(record.chat.messages, words, tags))
            )
        case Preference():
            return replace(record, prompt=_put(record.prompt, words, tags))
        case Choice():
            return replace(record, question=with_tags(record.question, words, tags))
        case Text():
            return record


def tag_words(row: Mapping[str, Any], tags: Tags) -> str:
    """All tags of a row in words: "age: 31, region: Wuhan"; those that are missing or empty are left out."""
    items = []
    for column, name in tags.columns.items():
        if value := _spell(row.get(column)):
            items.append(tags.item.replace("{name}", name).replace("{value}", value))
    return tags.between.join(items)


def with_tags(text: str, words: str, tags: Tags) -> str:
    """A prompt with tags. A prompt that has them already stays as it is."""
    before, after = (part.replace("{tags}", words) for part in tags.template.split("{prompt}", 1))
    alone = f"{before}{after}".strip()
    if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
        return text
    return f"{before}{text}{after}" if text and text != alone else alone


def _put(messages: tuple[Message, ...], words: str, tags: Tags) -> tuple[Message, ...]:
    role = "user" if tags.place == "question" else "system"
    for i, message in enumerate(messages):
        if message.role == role:
            changed = replace(message, content=with_tags(message.content, words, tags))
            return (*messages[:i], changed, *messages[i + 1 :])
    return (Message("system", with_tags("", words, tags)), *messages) if role == "system" else messages


def _spell(value: Any) -> str:
    """A cell as a person writes it: 31, not 31.0; lists by commas; nothing for null, NaN, objects and blanks."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return " ".join(value.split())
        case int():
            return str(value)
        case float():
            return "" if not math.isfinite(value) else f"{value:.15g}"
        case list():
            return "/".join(filter(None, map(_spell, value)))
        case _:
            return ""
