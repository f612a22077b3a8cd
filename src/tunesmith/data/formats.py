r"""Tell what a row's columns mean, and turn it into a record.

{"instruction": "Add", "input": "1+1", "output": "2"}    alpaca          -> user "Add\n1+1", assistant "2"
{"question": "1+1?", "answer": "2"}                      prompt_response -> user "1+1?", assistant "2"
{"prompt": .., "response": .., "history": [[p, r], ..]}  history         -> p, r, .., prompt, response
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, get_args

from tunesmith.data.faults import Fault, Unfit, fix_of, is_blank, kind_of, list_at, text_at
from tunesmith.data.judged import LABELS, is_label, read_choice, read_kto, read_preference
from tunesmith.data.marks import MARK, marked
from tunesmith.data.records import Chat, Message, Record, Text, with_identity
from tunesmith.data.splits import split_keys
from tunesmith.data.tags import tagged
from tunesmith.data.turns import read_chat, read_tools
from tunesmith.errors import DataError
from tunesmith.recipe import DataFormat, Tags

__all__ = ["Fault", "Recognition", "check_columns", "explain", "fix_of", "recognise", "to_record"]


@dataclass(frozen=True, slots=True)
class Recognition:
    """The format of a file and what gave it away."""

    format: DataFormat
    why: str


# What prompt and response may be called when `columns` does not say.
PAIRS: tuple[tuple[str, str], ...] = (
    ("prompt", "response"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
)
TEXTS = ("text", "paragraphs", "content")
DIALOGUES = ("conversations", "conversation", "dialogue", "dialog")
_TURN = ("system", "tools")
COLUMNS: Mapping[DataFormat, tuple[str, ...]] = {
    "messages": ("messages", "role", "content", "reasoning_content", *_TURN),
    "sharegpt": ("conversations", "from", "value", "reasoning_content", *_TURN),
    "alpaca": ("instruction", "input", "output", "history", *_TURN),
    "prompt_response": ("prompt", "response", "history", *_TURN),
    "history": ("prompt", "response", "history", *_TURN),
    "text": ("text",),
    "preference": ("prompt", "chosen", "rejected", "role", "content", "reasoning_content", *_TURN),
    "kto": ("messages", "prompt", "completion", "label", "role", "content", "reasoning_content", *_TURN),
    "choice": ("question", "options", "answer"),
}
# Sets of keys that speak for a format; each by itself is enough.
NEEDED: Mapping[DataFormat, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "sharegpt": tuple((name,) for name in DIALOGUES),
    "alpaca": (("instruction", "output"),),
    "prompt_response": PAIRS,
    "history": (("prompt", "response", "history"),),
    "text": tuple((name,) for name in TEXTS),
    "preference": (("chosen", "rejected"),),
    "kto": tuple(
        (*keys, label)
        for label in LABELS
        for keys in (("messages",), ("conversations",), ("prompt", "completion"), ("prompt", "response"))
    ),
    "choice": (
        ("question", "options", "answer"),
        ("question", "choices", "answer"),
        ("question", "choices", "answerKey"),
        ("question", "A", "B", "answer"),
        ("Question", "A", "B", "Answer"),
    ),
}
# What else of a row a format reads under other names than its own.
_ALSO: Mapping[DataFormat, tuple[str, ...]] = {
    "preference": ("question", "instruction", "input", "messages", *DIALOGUES[:2]),
    "kto": ("conversations", "instruction", "input", "question"),
    "choice": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}
_Fit = tuple[DataFormat, tuple[str, ...]]


def recognise(rows: Iterable[Any], path: str, columns: Mapping[str, str]) -> DataFormat:
    """The format most of these rows fit. Raises DataError, with the keys found, when none or two do."""
    return explain(rows, path, columns).format


def explain(rows: Iterable[Any], path: str, columns: Mapping[str, str]) -> Recognition:
    """Like `recognise`, with the reason."""
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        raise DataError.at(
            path, "has no row that is a JSON object", 'give rows such as {"prompt": .., "response": ..}'
        )
    of_rows = [_fits(row, columns) for row in objects]
    fits = Counter(chain.from_iterable(of_rows))
    if not fits:
        _raise_unknown(objects, path, columns)
    (best, count), *others = fits.most_common()
    for other, times in others:
        together = sum(best in found and other in found for found in of_rows)
        if times == count or 2 * together > count:
            _raise_ambiguous(path, best, other)
    rows = "rows" if count == len(objects) else f"{count} of the first {len(objects)} rows"
    read = {*best[1], *_known(best[0], columns)}
    unread = dict.fromkeys(key for row in objects for key in row if key not in read)
    rest = f"; not read: {', '.join(f'{key!r:.40}' for key in list(unread)[:8])}" if unread else ""
    return Recognition(best[0], f"{rows} have {_listed(best[1])}{rest}")


def _fits(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[_Fit]:
    """(format, the keys that speak for it) for each format this row could be; the more telling ones only."""
    keys = {key for key, value in row.items() if value is not None}
    found = _candidates(row, keys, columns) or _candidates(row, row.keys(), columns)
    return [fit for fit in found if not any(_beats(other, fit, columns) for other in found)]


def _beats(one: _Fit, other: _Fit, columns: Mapping[str, str]) -> bool:
    """Whether one is the more telling: it reads all that speaks for the other, and more."""
    if one[0] == other[0]:
        return set(one[1]) > set(other[1])
    reads, others = ({*needed, *_known(name, columns)} for name, needed in (one, other))
    return set(one[1]) > set(other[1]) or (reads >= set(other[1]) and not others >= set(one[1]))


def _candidates(row: Mapping[str, Any], keys: Iterable[str], columns: Mapping[str, str]) -> list[_Fit]:
    keys = set(keys)
    found: list[_Fit] = []
    for format in get_args(DataFormat):
        if not set(columns) <= set(COLUMNS[format]):
            continue
        for names in NEEDED[format]:
            needed = tuple(columns.get(name, name) for name in _renamed(format, names, columns))
            label = set(LABELS) & set(names)
            if keys >= set(needed) and (not label or any(is_label(row[key]) for key in needed[-1:])):
                found.append((format, needed))
    return list(dict.fromkeys(found))


def _renamed(format: DataFormat, names: Sequence[str], columns: Mapping[str, str]) -> Sequence[str]:
    """Where `columns` says one of the format's names, its usual other names do not count."""
    first = NEEDED[format][0]
    return first if set(first) & set(columns) else names


def _known(format: DataFormat, columns: Mapping[str, str]) -> set[str]:
    """Keys of a row that a format reads, if they are there."""
    return {columns.get(name, name) for name in COLUMNS[format]} | set(_ALSO.get(format, ())) | {MARK}


def _raise_unknown(objects: Sequence[Mapping[str, Any]], path: str, columns: Mapping[str, str]) -> None:
    shown = Counter(key for row in objects for key in row).most_common(12)
    raise DataError.at(
        path,
        f"is in no known format; rows have the keys {', '.join(f'{key!r:.40}' for key, _ in shown)}"
        + (f" (columns: looks for {', '.join(sorted(columns.values()))})" if columns else ""),
        "name the columns, such as columns: {prompt: question, response: answer}; the formats want "
        + "; ".join(f"{name}: {', '.join(needed[0])}" for name, needed in NEEDED.items()),
    )


def _raise_ambiguous(path: str, one: _Fit, other: _Fit) -> None:
    if one[0] == other[0]:
        wanted = dict(zip(NEEDED[one[0]][0], one[1]))
        fix = f"say which, such as columns: {{{', '.join(f'{a}: {b}' for a, b in wanted.items())}}}"
    else:
        fix = f"say which: format: {one[0]}, or format: {other[0]}"
    fits = " and ".join(f"{name} ({_listed(needed)})" for name, needed in (one, other))
    raise DataError.at(path, f"fits two formats: {fits}", fix)


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


def to_record(
    value: Any, format: DataFormat, columns: Mapping[str, str], tags: Tags | None = None
) -> Record | Fault:
    """What the row means, or why it means nothing. Never raises, whatever the value."""
    try:
        if not isinstance(value, dict):
            raise Unfit("wrong_type", f"the row is {kind_of(value)}, an object is needed")
        record = marked(_READERS[format](value, _columns(format, columns), columns), value)
        if tags is None:
            return record
        return with_identity(
            tagged(record, value, tags), split_keys(record)
        )  # equal but for its tags is equal
    except Unfit as unfit:
        return unfit.fault


def _turns(pairs: Sequence[tuple[str, str, str]], system: str, tools: tuple[Mapping[str, Any], ...]) -> Chat:
    """A chat of (prompt, response, where) rounds, oldest first."""
    messages = [] if is_blank(system) else [Message("system", system)]
    for prompt, response, where in pairs:
        if is_blank(prompt):
            raise Unfit("empty_prompt", f"{where} has an empty prompt")
        if is_blank(response):
            raise Unfit("empty_answer", f"{where} has an empty answer")
        messages += [Message("user", prompt), Message("assistant", response)]
    return Chat(tuple(messages), tools)


def _history(row: Mapping[str, Any], key: str) -> list[tuple[str, str, str]]:
    """Earlier rounds, oldest first (note 001, point 16)."""
    if row.get(key) in (None, ""):
        return []
    rounds = list_at(row, key, key, "a list of [prompt, response]")
    for i, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Unfit("wrong_type", f"{key}[{i}] is no pair of strings [prompt, response]")
    return [(prompt, response, f"{key}[{i}]") for i, (prompt, response) in enumerate(rounds)]


def _read_alpaca(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    instruction = text_at(row, names["instruction"], names["instruction"])
    given = text_at(row, names["input"], names["input"], required=False)
    output = text_at(row, names["output"], names["output"])
    prompt = "\n".join(part for part in (instruction, given) if not is_blank(part))
    system = text_at(row, names["system"], names["system"], required=False)
    rounds = [*_history(row, names["history"]), (prompt, output, "the row")]
    return _turns(rounds, system, read_tools(row, names["tools"]))


def _read_pair(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    prompt, response = names["prompt"], names["response"]
    if not {"prompt", "response"} & set(columns):
        prompt, response = next((pair for pair in PAIRS if set(pair) <= set(row)), (prompt, response))
    last = (text_at(row, prompt, prompt), text_at(row, response, response), "the row")
    system = text_at(row, names["system"], names["system"], required=False)
    return _turns([*_history(row, names["history"]), last], system, read_tools(row, names["tools"]))


def _read_text(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    key = names["text"]
    if "text" not in columns:
        key = next((name for name in TEXTS if row.get(name) is not None), key)
    value = row.get(key)
    if key == "paragraphs" and isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    else:
        value = text_at(row, key, key)
    if is_blank(value):
        raise Unfit("empty_text", f"{key} is empty")
    return Text(value)


def _read_messages(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    return read_chat(row, names["messages"], names)


def _read_sharegpt(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    key = names["conversations"]
    if "conversations" not in columns:
        key = next((name for name in DIALOGUES if row.get(name) is not None), key)
    return read_chat(row, key, {**names, "role": names["from"], "content": names["value"]})


_READERS: Mapping[DataFormat, Callable[[Mapping[str, Any], Mapping[str, str], Mapping[str, str]], Record]] = {
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "prompt_response": _read_pair,
    "history": _read_pair,
    "text": _read_text,
    "preference": read_preference,
    "kto": read_kto,
    "choice": read_choice,
}
