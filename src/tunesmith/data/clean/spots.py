"""Where the texts of a raw row stand, whatever its format; a text is changed without touching what is around it.

{"messages": [{"role": "user", "content": "Hi"}], "id": 7}  ->  Spot(("messages", 0, "content"), "user", "Hi")
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.data.formats import DIALOGUES, PAIRS, TEXTS
from tunesmith.data.records import Role
from tunesmith.data.turns import ROLES
from tunesmith.recipe import DataFormat

Path = tuple[str | int, ...]
Speaker = Role | Literal["text", "dialogue"]


@dataclass(frozen=True, slots=True)
class Spot:
    """One text of a row. A "dialogue" is several turns in one text, as hh-rlhf has them."""

    path: Path
    role: Speaker
    text: str


_TURNS: Mapping[str, Speaker] = dict.fromkeys(("messages", *DIALOGUES), "user")
_PAIRS: Mapping[str, Speaker] = {
    **{asked: "user" for asked, _ in PAIRS},
    **{said: "assistant" for _, said in PAIRS},
}
# The columns that hold texts, the earlier in a dialogue the earlier here. `columns` may rename the first names.
_COLUMNS: Mapping[DataFormat, Mapping[str, Speaker]] = {
    "messages": {"system": "system", "messages": "user"},
    "sharegpt": {"system": "system", **_TURNS},
    "alpaca": {
        "system": "system", "history": "user", "instruction": "user", "input": "user", "output": "assistant",
    },
    "prompt_response": {"system": "system", "history": "user", **_PAIRS},
    "history": {"system": "system", "history": "user", **_PAIRS},
    "text": dict.fromkeys(TEXTS, "text"),
    "preference": {
        "system": "system", **_TURNS, "prompt": "user", "question": "user", "instruction": "user",
        "input": "user", "chosen": "assistant", "rejected": "assistant",
    },
    "kto": {
        "system": "system", **_TURNS, "prompt": "user", "question": "user", "instruction": "user",
        "input": "user", "completion": "assistant", "response": "assistant", "output": "assistant",
    },
    "choice": {
        "question": "user", "Question": "user", "options": "user", "choices": "user",
        **dict.fromkeys("ABCDEFGH", "user"),
    },
}  # fmt: skip


def spots(row: Mapping[str, Any], format: DataFormat, columns: Mapping[str, str]) -> list[Spot]:
    """Every text that the format reads, in the order in which it is said. Calls of tools are left alone."""
    names = {columns.get(name, name): role for name, role in _COLUMNS[format].items()}
    keys = (columns.get("role", "role"), columns.get("content", "content"))
    return [spot for key, role in names.items() if key in row for spot in _walk(row[key], (key,), role, keys)]


def _walk(value: Any, path: Path, role: Speaker, keys: tuple[str, str]) -> Iterator[Spot]:
    match value:
        case str():
            yield Spot(path, "dialogue" if value.startswith("\n\nHuman:") else role, value)
        case [str(), str()] if path[0] == "history" or len(path) > 1:
            yield Spot((*path, 0), "user", value[0])
            yield Spot((*path, 1), "assistant", value[1])
        case list():
            for i, inner in enumerate(value):
                yield from _walk(inner, (*path, i), role, keys)
        case dict():
            yield from _turn(value, path, role, keys)


def _turn(turn: Mapping[str, Any], path: Path, role: Speaker, keys: tuple[str, str]) -> Iterator[Spot]:
    """A turn by its role; ARC's options; options by letter."""
    pairs = (keys, ("role", "content"), ("from", "value"))
    who, what = next((pair for pair in pairs if pair[0] in turn), ("", ""))
    if who:
        name = turn[who].strip().lower() if isinstance(turn[who], str) else ""
        if name not in ROLES:  # a call of a tool, or a role nobody knows
            return
        for key in ("reasoning_content", what):
            content = turn.get(key)
            if isinstance(content, str):
                yield Spot((*path, key), ROLES[name], content)
            elif isinstance(content, list):
                for i, part in enumerate(content):
                    if isinstance(part, dict) and isinstance(part.get("text"), str):
                        yield Spot((*path, key, i, "text"), ROLES[name], part["text"])
        return
    inner = ["text"] if isinstance(turn.get("label"), list) else [key for key in turn if len(key) == 1]
    for key in inner:
        if key in turn:
            yield from _walk(turn[key], (*path, key), role, keys)


def put(value: Any, path: Path, text: str) -> None:
    """Set the text at a path, in place."""
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = text


_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]')


def string_spans(text: str) -> dict[Path, tuple[int, int]]:
    """Where each string of a JSON text stands, its quotes included; keys are no strings here."""
    spans: dict[Path, tuple[int, int]] = {}
    path: list[str | int] = []
    key_is_next = False
    for found in _TOKEN.finditer(text):
        match found.group():
            case "{":
                path.append("")
                key_is_next = True
            case "[":
                path.append(0)
                key_is_next = False
            case "}" | "]":
                path.pop()
                key_is_next = False
            case ",":
                if isinstance(path[-1], int):
                    path[-1] += 1
                else:
                    key_is_next = True
            case ":":
                pass
            case string if key_is_next:
                path[-1] = json.loads(string)
                key_is_next = False
            case _:
                spans[tuple(path)] = found.span()
    return spans


def rewrite(text: str, changed: Mapping[Path, str]) -> str:
    """The JSON of a row with some of its strings replaced; all else stays as it was written."""
    spans = string_spans(text)
    parts, at = [], 0
    for path in sorted(changed, key=lambda path: spans[path]):
        start, end = spans[path]
        escaped = text[start:end].isascii() and "\\u" in text
        parts += [text[at:start], json.dumps(changed[path], ensure_ascii=escaped)]
        at = end
    return "".join([*parts, text[at:]])


def rewrite_whole(text: str, value: Any) -> str:
    """The JSON of a row that has something new in it, in the manner of the old one."""
    indent = re.search(r"^\{\s*?\n( +|\t+)", text)
    tight = not re.search(r'": ', text)
    manner: dict[str, Any] = {"ensure_ascii": text.isascii() and "\\u" in text}
    if indent:
        manner["indent"] = indent.group(1) if "\t" in indent.group(1) else len(indent.group(1))
    elif tight:
        manner["separators"] = (",", ":")
    return json.dumps(value, **manner)
