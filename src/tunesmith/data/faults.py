"""Why a row means nothing: short countable reasons, what to do about each, and the reading that finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row is no record: a short countable reason, and the detail in words."""

    reason: str
    detail: str


class Unfit(Exception):
    """A row that is no record; carries the fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(reason, detail)


FIXES: Mapping[str, str] = {
    "broken_json": "write the row as valid JSON",
    "broken_csv": "quote cells that hold quotes, commas or line breaks",
    "wrong_columns": "give each row as many cells as the header has",
    "duplicate_key": "keep one of the two",
    "not_a_number": "use null, or leave the key out",
    "wrong_encoding": "save the file as UTF-8",
    "lone_surrogate": "write the whole character, or remove it",
    "nul_character": "remove it",
    "row_too_large": "split the row",
    "missing_key": "add it, or map the names: columns",
    "wrong_type": "give what is needed there",
    "empty_messages": "fill in the dialogue, or remove the row",
    "empty_prompt": "fill in the question, or remove the row",
    "empty_answer": "fill in the answer, or remove the row",
    "empty_tool_output": "fill in what the tool gave back, or remove the row",
    "empty_text": "remove the row",
    "no_answer": "add an answer, or use objective: pretrain",
    "roles_out_of_order": "let user and assistant take turns, tools after their call; the assistant ends",
    "unknown_role": "use system, user, assistant and tool",
    "unknown_part": "only text, reasoning and tool_call parts can be read; leave the row out",
    "broken_tools": "write tools as a JSON list of {name, description, parameters}",
    "broken_tool_call": 'write the call as {"name": .., "arguments": {..}}',
    "wrong_weight": "use 0 (or train: false) or a number near 1, or remove the row",
    "equal_answers": "remove the row: it prefers nothing",
    "no_such_option": "name one of the options, by its letter, its number from 0 or its text",
    "tools_lost": "name a template that writes tools, such as data.template: qwen, or leave the row out",
    "calls_lost": "name a template that writes calls, such as data.template: qwen, or leave the row out",
    "too_long": "raise data.max_length, or choose another data.overlength",
}


def fix_of(reason: str) -> str:
    """What to do about a bad row."""
    return FIXES.get(reason, "leave the row out, or set data.template: plain")


def kind_of(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {
        dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null",
        int: "a number", float: "a number",
    }  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space."""
    return not text.strip()


def value_at(row: Mapping[str, Any], key: str, where: str) -> Any:
    """What stands at `key`. Raises Unfit where the key is missing."""
    if key not in row:
        raise Unfit(
            "missing_key", f"{where} is missing; the row has {', '.join(map(repr, list(row)[:8]))[:200]}"
        )
    return row[key]


def text_at(row: Mapping[str, Any], key: str, where: str, required: bool = True) -> str:
    """The string at `key`. A missing or null optional one is empty."""
    value = value_at(row, key, where) if required else row.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise Unfit("wrong_type", f"{where} is {kind_of(value)}, a string is needed")
    return value


def list_at(row: Mapping[str, Any], key: str, where: str, needed: str) -> list[Any]:
    """The list at `key`, which a table's cell may hold as JSON text."""
    value = value_at(row, key, where)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = loads(value)
    if not isinstance(value, list):
        raise Unfit("wrong_type", f"{where} is {kind_of(value)}, {needed} is needed")
    return value


def loads(text: str) -> Any:
    """JSON inside a string; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
