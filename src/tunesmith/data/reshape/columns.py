"""Which columns of a row its format reads; the others are carried along where the new row can hold them.

{"id": 7, "question": "1+1?", "answer": "2"}   prompt_response reads question, answer; id is carried
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith.data.formats import DIALOGUES, PAIRS, TEXTS
from tunesmith.data.judged import LABELS, LETTERS
from tunesmith.recipe import DataFormat

# Keys of a turn that are read, or that say nothing a record does not.
_TURN_KEYS = {
    "role",
    "content",
    "from",
    "value",
    "reasoning_content",
    "tool_calls",
    "weight",
    "loss_weight",
    "train",
}


def read_by(row: Mapping[str, Any], format: DataFormat, columns: Mapping[str, str]) -> frozenset[str]:
    """The columns of this row that make up its record."""

    def named(*names: str) -> list[str]:
        return [columns.get(name, name) for name in names]

    def first(names: Sequence[str]) -> list[str]:
        return [name for name in names if row.get(name) is not None][:1]

    read = named("system", "tools")
    match format:
        case "messages":
            read += named("messages")
        case "sharegpt":
            read += named("conversations") if "conversations" in columns else first(DIALOGUES)
        case "alpaca":
            read += named("instruction", "input", "output", "history")
        case "prompt_response" | "history":
            pair = next((pair for pair in PAIRS if set(pair) <= set(row)), ("prompt", "response"))
            chosen = {"prompt", "response"} & set(columns)
            read += [*(named("prompt", "response") if chosen else pair), *named("history")]
        case "text":
            read = named("text") if "text" in columns else first(TEXTS)
        case "preference":
            read += [*named("chosen", "rejected"), *_prompt(row, columns)]
        case "kto":
            read += named("label") if "label" in columns else first(LABELS)
            turns = first([*named("messages"), "conversations", "conversation"])
            answers = [*named("completion"), "response", "output"]
            read += turns or [*_prompt(row, columns), *[name for name in answers if name in row][:1]]
        case "choice":
            read = _choice(row, columns)
    return frozenset(read) & row.keys()


def _prompt(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    name = columns.get("prompt", "prompt")
    names = dict.fromkeys((name, "messages", "conversations", "conversation", "question", "instruction"))
    found = next((name for name in names if row.get(name) is not None), None)
    return [] if found is None else [found, *["input"] * (found == "instruction")]


def _choice(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    def one(name: str, *others: str) -> list[str]:
        return [key for key in (columns.get(name, name), *others) if key in row][:1]

    options = one("options") if "options" in columns else one("options", "choices")
    return [*one("question", "Question"), *(options or LETTERS), *one("answer", "Answer", "answerKey")]


def unread_in_turns(value: Any) -> list[str]:
    """Keys of turns that no record holds, such as name; `value` is a row, or a list of turns."""
    turns = value if isinstance(value, list) else [value]
    found: dict[str, None] = {}
    for turn in turns:
        if isinstance(turn, dict) and ({"role", "from"} & turn.keys()):
            found |= dict.fromkeys(
                key for key, held in turn.items() if held is not None and key not in _TURN_KEYS
            )
    return list(found)


def carry_turn_keys(
    row: dict[str, Any], value: Mapping[str, Any], read: Iterable[str], renamed: Mapping[str, str]
) -> set[str]:
    """Put the unread keys of a dialogue's turns beside the same turns of a new row; which keys were put.

    Only where the turns are the same, one by one (a system turn that became a column aside).
    """
    new: list[Any] = next(
        (row[name] for name in ("messages", "conversations") if isinstance(row.get(name), list)), []
    )
    old: list[Any] = next(
        (value[n] for n in read if isinstance(value.get(n), list) and unread_in_turns(value[n])), []
    )
    if len(old) == len(new) + 1 and _said_by(old[0], renamed) == "system" and not unread_in_turns(old[:1]):
        old = old[1:]
    keys = set(unread_in_turns(old)) - set(renamed.values())
    if len(old) != len(new) or not all(map(_says_the_same, new, old)):
        return set()
    for turn, before in zip(new, old):
        turn.update({key: before[key] for key in keys if before.get(key) is not None and key not in turn})
    return keys


def _said_by(turn: Any, renamed: Mapping[str, str]) -> Any:
    return turn.get(renamed.get("role", "role"), turn.get("from")) if isinstance(turn, dict) else None


def _says_the_same(new: Mapping[str, Any], old: Any) -> bool:
    """Whether two turns hold the same words; one that was put together of parts does not count."""
    said = new.get("content", new.get("value"))
    return isinstance(old, dict) and isinstance(said, str) and said in old.values()


def unread_keys(row: Mapping[str, Any], read: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    """Keys in the turns of the columns that are read, beside those that mean something."""
    known = set(renamed.values())
    keys = (key for name in read for key in unread_in_turns(row.get(name)))
    return [key for key in dict.fromkeys(keys) if key not in known]
