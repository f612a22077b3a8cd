r"""Tell what a row's columns mean, and turn it into a record.

{"instruction": "Add", "input": "1+1", "output": "2"}    alpaca          -> user "Add\n1+1", assistant "2"
{"question": "1+1?", "answer": "2"}                      prompt_response -> user "1+1?", assistant "2"
{"prompt": .., "response": .., "history": [[p, r], ..]}  history         -> p, r, .., prompt, response
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, cast, get_args

from tunesmith.data.records import Chat, Message, Record, Role, Text
from tunesmith.errors import DataError
from tunesmith.recipe import DataFormat


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row is no record: a short countable reason, and the detail in words."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Recognition:
    """The format of a file and what gave it away."""

    format: DataFormat
    why: str


# What prompt and response may be called when `columns` does not say; the first pair a row has is taken.
PAIRS: tuple[tuple[str, str], ...] = (
    ("prompt", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
)
COLUMNS: Mapping[DataFormat, tuple[str, ...]] = {
    "messages": ("messages", "role", "content", "reasoning_content"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "prompt_response": ("prompt", "response", "system", "history"),
    "history": ("prompt", "response", "history", "system"),
    "text": ("text",),
}
REQUIRED: Mapping[DataFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "prompt_response": ("prompt", "response"),
    "history": ("prompt", "response", "history"),
    "text": ("text",),
}
# Known by what their rows have, but not read yet: better a clear word than a wrong guess.
_LATER: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen", "rejected"),),
    "kto": (("messages", "label"), ("prompt", "completion", "label")),
    "sharegpt": (("conversations",), ("conversation",)),
    "choice": (("question", "options"), ("question", "choices")),
}
_ORDER = (*_LATER, "messages", "alpaca", "history", "prompt_response", "text")


def recognise(rows: Iterable[Any], path: str, columns: Mapping[str, str]) -> DataFormat:
    """The format most of these rows fit. Raises DataError, with the keys found, when none does."""
    return explain(rows, path, columns).format


def explain(rows: Iterable[Any], path: str, columns: Mapping[str, str]) -> Recognition:
    """Like `recognise`, with the reason."""
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        raise DataError.at(
            path, "has no row that is a JSON object", 'give rows such as {"prompt": .., "response": ..}'
        )
    fits: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for row in objects:
        fits.update(_candidates(row.keys(), columns))
    if not fits:
        shown = Counter(key for row in objects for key in row).most_common(12)
        raise DataError.at(
            path,
            f"is in no known format; rows have the keys {', '.join(f'{key!r:.40}' for key, _ in shown)}"
            + (f" (columns: looks for {', '.join(sorted(columns.values()))})" if columns else ""),
            "name the columns, such as columns: {prompt: question, response: answer}; the formats want "
            + "; ".join(f"{name}: {', '.join(needed)}" for name, needed in REQUIRED.items()),
        )
    # most rows decide; among equals the more telling format, which is the one that stands first
    (name, needed), count = max(fits.items(), key=lambda item: (item[1], -_ORDER.index(item[0][0])))
    rows = "rows" if count == len(objects) else f"{count} of the first {len(objects)} rows"
    why = f"{rows} have {_listed(needed)}"
    if name in _LATER:
        raise DataError.at(
            path,
            f"looks like {name} ({why}), which is not read yet",
            f"convert it to one of {', '.join(get_args(DataFormat))}, or map its names with columns:",
        )
    return Recognition(cast(DataFormat, name), why)


def _candidates(keys: Set[str], columns: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(format, the keys that speak for it) for each format that a row with these keys could be."""
    for name, choices in {} if columns else _LATER.items():
        yield from ((name, needed) for needed in choices if keys >= set(needed))
    for format in get_args(DataFormat):
        if not set(columns) <= set(COLUMNS[format]):
            continue
        names = _columns(format, columns)
        wanted = [names]
        if "prompt" in names and not {"prompt", "response"} & set(columns):
            wanted = [{**names, "prompt": prompt, "response": response} for prompt, response in PAIRS]
        for chosen in wanted:
            needed = tuple(chosen[name] for name in REQUIRED[format])
            if keys >= set(needed):
                yield format, needed


def _columns(format: DataFormat, columns: Mapping[str, str]) -> dict[str, str]:
    return {name: columns.get(name, name) for name in COLUMNS[format]}


def check_columns(format: DataFormat, columns: Mapping[str, str], path: str) -> None:
    """Refuse names in `columns` that the format does not have."""
    unknown = sorted(set(columns) - set(COLUMNS[format]))
    if unknown:
        raise DataError.at(
            path,
            f"columns: {_listed(unknown)} unknown to {format}",
            f"{format} has {', '.join(COLUMNS[format])}",
        )


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"{name!r:.40}" for name in names)


_FIXES: Mapping[str, str] = {
    "broken_json": "write the row as valid JSON",
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
    "empty_text": "remove the row",
    "no_answer": "add an answer, or use objective: pretrain",
    "roles_out_of_order": "let user and assistant take turns; the assistant ends",
    "unknown_role": "use system, user and assistant",
    "tools_not_supported": "leave these rows out for now",
    "weight_not_supported": "remove the weight, or the row",
    "too_long": "raise data.max_length, or choose another data.overlength",
}


def fix_of(reason: str) -> str:
    """What to do about a bad row."""
    return _FIXES.get(reason, "leave the row out, or set data.template: plain")


class _Unfit(Exception):
    """A row that is no record; carries the fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(reason, detail)


def to_record(value: Any, format: DataFormat, columns: Mapping[str, str]) -> Record | Fault:
    """What the row means, or why it means nothing. Never raises, whatever the value."""
    try:
        if not isinstance(value, dict):
            raise _Unfit("wrong_type", f"the row is {_kind(value)}, an object is needed")
        if value.get("tools"):
            raise _Unfit(
                "tools_not_supported", "tools are not read yet; leaving them out would change the prompt"
            )
        return _READERS[format](value, _columns(format, columns), columns)
    except _Unfit as unfit:
        return unfit.fault


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _text(row: Mapping[str, Any], key: str, where: str, required: bool = True) -> str:
    """The string at `key`. A missing or null optional one is empty."""
    if key not in row:
        if not required:
            return ""
        raise _Unfit(
            "missing_key", f"{where} is missing; the row has {', '.join(map(repr, list(row)[:8]))[:200]}"
        )
    value = row[key]
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        parts = isinstance(value, list) and all(isinstance(part, dict) and "type" in part for part in value)
        more = " of typed parts, which are not read yet" if value and parts else ""
        raise _Unfit("wrong_type", f"{where} is {_kind(value)}{more}, a string is needed")
    return value


def _is_blank(text: str) -> bool:
    return not text.strip()


def _turns(pairs: Sequence[tuple[str, str, str]], system: str) -> Chat:
    """A chat of (prompt, response, where) rounds, oldest first."""
    messages = [] if _is_blank(system) else [Message("system", system)]
    for prompt, response, where in pairs:
        if _is_blank(prompt):
            raise _Unfit("empty_prompt", f"{where} has an empty prompt")
        if _is_blank(response):
            raise _Unfit("empty_answer", f"{where} has an empty answer")
        messages += [Message("user", prompt), Message("assistant", response)]
    return Chat(tuple(messages))


def _history(row: Mapping[str, Any], key: str) -> list[tuple[str, str, str]]:
    """Earlier rounds, oldest first (note 001, point 16)."""
    rounds = row.get(key)
    if rounds is None:
        return []
    if not isinstance(rounds, list):
        raise _Unfit("wrong_type", f"{key} is {_kind(rounds)}, a list of [prompt, response] is needed")
    for i, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _Unfit("wrong_type", f"{key}[{i}] is no pair of strings [prompt, response]")
    return [(prompt, response, f"{key}[{i}]") for i, (prompt, response) in enumerate(rounds)]


def _read_alpaca(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    instruction = _text(row, names["instruction"], names["instruction"])
    given = _text(row, names["input"], names["input"], required=False)
    output = _text(row, names["output"], names["output"])
    prompt = "\n".join(part for part in (instruction, given) if not _is_blank(part))
    system = _text(row, names["system"], names["system"], required=False)
    return _turns([*_history(row, names["history"]), (prompt, output, "the row")], system)


def _read_pair(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    prompt, response = names["prompt"], names["response"]
    if not {"prompt", "response"} & set(columns):
        prompt, response = next((pair for pair in PAIRS if set(pair) <= set(row)), (prompt, response))
    last = (_text(row, prompt, prompt), _text(row, response, response), "the row")
    return _turns(
        [*_history(row, names["history"]), last], _text(row, names["system"], names["system"], required=False)
    )


def _read_text(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    text = _text(row, names["text"], names["text"])
    if _is_blank(text):
        raise _Unfit("empty_text", f"{names['text']} is empty")
    return Text(text)


def _read_messages(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    key = names["messages"]
    if key not in row:
        raise _Unfit(
            "missing_key", f"{key} is missing; the row has {', '.join(map(repr, list(row)[:8]))[:200]}"
        )
    turns = row[key]
    if not isinstance(turns, list):
        raise _Unfit("wrong_type", f"{key} is {_kind(turns)}, a list of turns is needed")
    if not turns:
        raise _Unfit("empty_messages", f"{key} is an empty list")
    messages = tuple(_message(turn, f"{key}[{i}]", names) for i, turn in enumerate(turns))
    _check_order(messages, key)
    return Chat(messages)


_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_EMPTY = {"user": "empty_prompt", "assistant": "empty_answer"}


def _message(turn: Any, where: str, names: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise _Unfit("wrong_type", f"{where} is {_kind(turn)}, an object is needed")
    name = _text(turn, names["role"], f"{where}.{names['role']}")
    role = _ROLES.get(name)
    if role is None:
        more = "; tool turns are not read yet" if name in ("tool", "function") else ""
        raise _Unfit(
            "unknown_role", f"{where} has the role {name!r:.40}; system, user, assistant exist{more}"
        )
    if turn.get("tool_calls"):
        raise _Unfit("tools_not_supported", f"{where} calls tools, which are not read yet")
    content = _text(turn, names["content"], f"{where}.{names['content']}")
    if _is_blank(content) and role in _EMPTY:
        raise _Unfit(_EMPTY[role], f"{where}.{names['content']} is empty")
    weight = turn.get("loss_weight", turn.get("weight", 1))
    if role == "assistant" and weight not in (None, 1):
        raise _Unfit(
            "weight_not_supported", f"{where} has a weight of {weight!r:.20}; every answer is learnt"
        )
    key = names["reasoning_content"]
    reasoning = _text(turn, key, f"{where}.{key}", required=False) if role == "assistant" else ""
    return Message(role, content, reasoning or None)


def _check_order(messages: Sequence[Message], key: str) -> None:
    """System first or not at all, then user and assistant in turn, the assistant last."""
    first = 1 if messages[0].role == "system" else 0
    if not any(message.role == "assistant" for message in messages):
        raise _Unfit("no_answer", f"{key} has no assistant turn")
    for i, message in enumerate(messages[first:]):
        expected = ("user", "assistant")[i % 2]
        if message.role != expected:
            raise _Unfit(
                "roles_out_of_order", f"{key}[{i + first}] is a {message.role} turn where {expected} is due"
            )
    if messages[-1].role != "assistant":
        raise _Unfit("roles_out_of_order", f"{key} ends with a user turn that nothing answers")


_READERS: Mapping[DataFormat, Callable[[Mapping[str, Any], Mapping[str, str], Mapping[str, str]], Record]] = {
    "messages": _read_messages,
    "alpaca": _read_alpaca,
    "prompt_response": _read_pair,
    "history": _read_pair,
    "text": _read_text,
}
