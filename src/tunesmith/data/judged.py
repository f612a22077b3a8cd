"""Read rows that compare, judge or ask: preference pairs, kto judgements, multiple-choice questions.

{"prompt": "Q", "chosen": "A", "rejected": "B"}         {"chosen": "\\n\\nHuman: Q\\n\\nAssistant: A", ..}
{"messages": [..], "label": true}                       {"question": "Q", "choices": ["x", "y"], "answer": 1}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.faults import Unfit, is_blank, kind_of, list_at, loads, text_at, value_at
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record
from tunesmith.data.turns import check_order, check_prompt, read_chat, read_message, read_tools, read_turns

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABELS = ("label", "kto_tag")
# Anthropic's hh-rlhf writes whole dialogues as one text.
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def read_preference(row: Mapping[str, Any], names: Mapping[str, str], _: Mapping[str, str]) -> Record:
    """A pair of answers and what they answer. Raises Unfit."""
    keys = (names["chosen"], names["rejected"])
    answers = [_answer(value_at(row, key, key), key, names) for key in keys]
    prompt = _prompt(row, names)
    if not prompt:  # both hold the whole dialogue: what they share is the prompt
        shared = 0
        while shared < min(map(len, answers)) - 1 and answers[0][shared] == answers[1][shared]:
            shared += 1
        prompt, answers = answers[0][:shared], [answer[shared:] for answer in answers]
        if not prompt:
            raise Unfit("missing_key", f"there is no prompt, and {keys[0]} and {keys[1]} begin differently")
    elif all(answer[: len(prompt)] == prompt for answer in answers):
        answers = [answer[len(prompt) :] for answer in answers]
    system = text_at(row, names["system"], names["system"], required=False)
    if not is_blank(system) and prompt[0].role != "system":
        prompt = (Message("system", system), *prompt)
    for key, answer in zip(keys, answers):
        check_order((*prompt, *answer), key)
    if answers[0] == answers[1]:
        raise Unfit("equal_answers", f"{keys[0]} and {keys[1]} are the same")
    return Preference(prompt, answers[0], answers[1], read_tools(row, names["tools"]))


def _answer(value: Any, key: str, names: Mapping[str, str]) -> tuple[Message, ...]:
    """An answer as text, as a turn, as turns, or a whole dialogue of hh-rlhf."""
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return _spoken(value, key)
    if isinstance(value, str) and (turns := turns_in(value)):
        value = turns
    if isinstance(value, str):
        if is_blank(value):
            raise Unfit("empty_answer", f"{key} is empty")
        return (Message("assistant", value),)
    if isinstance(value, dict):
        return (read_message(value, key, names),)
    if isinstance(value, list):
        return read_turns({key: value}, key, names)
    raise Unfit("wrong_type", f"{key} is {kind_of(value)}, a string or turns are needed")


def turns_in(text: str) -> list[Any] | None:
    """The turns that a table's cell holds as JSON; None for any other text, other JSON included."""
    if not text.lstrip().startswith("[{"):
        return None
    found = loads(text)
    keys = ({"role", "content"}, {"from", "value"}, {"role", "tool_calls"})
    return (
        found
        if isinstance(found, list)
        and all(isinstance(turn, dict) and any(turn.keys() >= needed for needed in keys) for turn in found)
        else None
    )


def _spoken(text: str, key: str) -> tuple[Message, ...]:
    r"""\n\nHuman: Q\n\nAssistant: A -> user Q, assistant A"""
    _, *parts = _SPEAKER.split(text)
    turns: list[Message] = []
    for i, (who, said) in enumerate(zip(parts[::2], parts[1::2])):
        if is_blank(said):
            reason = "empty_prompt" if who == "Human" else "empty_answer"
            raise Unfit(reason, f"{key}: turn {i + 1}, {who}, is empty")
        turns.append(Message("user" if who == "Human" else "assistant", said.strip()))
    return tuple(turns)


def _prompt(row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Message, ...]:
    """What is answered: turns or a text under one of the usual names; () where there is none."""
    for key in dict.fromkeys((names["prompt"], "messages", "conversations", "conversation")):
        value = row.get(key)
        if isinstance(value, str):
            value = turns_in(value) or value
        if isinstance(value, list):
            turns = read_turns({key: value}, key, names)
            check_prompt(turns, key)
            return turns
    for key in dict.fromkeys((names["prompt"], "question", "instruction")):
        if row.get(key) is not None:
            text = text_at(row, key, key)
            given = text_at(row, "input", "input", required=False) if key == "instruction" else ""
            if is_blank(text):
                raise Unfit("empty_prompt", f"{key} is empty")
            return (Message("user", text if is_blank(given) else f"{text}\n{given}"),)
    return ()


def is_label(value: Any) -> bool:
    """Whether a value can say good or bad."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def read_kto(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    """A dialogue and whether its last answer is wanted. Raises Unfit."""
    named = (names["label"],) if "label" in columns else LABELS
    key = next((key for key in named if key in row), named[0])
    label = value_at(row, key, key)
    if not is_label(label):
        raise Unfit("wrong_type", f"{key} is {kind_of(label)}, true or false is needed")
    turns = next((k for k in (names["messages"], "conversations", "conversation") if row.get(k)), None)
    if turns is not None:
        chat = read_chat(row, turns, names)
    else:
        answers = (names["completion"], "response", "output")
        answer = next((k for k in answers if k in row), answers[0])
        prompt = _prompt(row, names)
        if not prompt:
            raise Unfit("missing_key", f"there is no {names['messages']} and no {names['prompt']}")
        messages = (*prompt, *_answer(value_at(row, answer, answer), answer, names))
        check_order(messages, answer)
        chat = Chat(messages, read_tools(row, names["tools"]))
    return Judged(chat, label if isinstance(label, bool) else label.strip().lower() == "true")


def read_choice(row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]) -> Record:
    """A question with its options; the answer is a letter, a number from 0, or an option. Raises Unfit."""
    key = _found(row, ("question", "Question"), names["question"])
    question = text_at(row, key, key)
    if is_blank(question):
        raise Unfit("empty_prompt", f"{key} is empty")
    options, labels = _options(row, names, columns)
    if len(options) < 2 or any(map(is_blank, options)):
        raise Unfit("empty_answer", "at least two options are needed, none of them empty")
    key = _found(row, ("answer", "Answer", "answerKey"), names["answer"])
    answer = value_at(row, key, key)
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer if 0 <= answer < len(options) else None
    else:
        text = text_at(row, key, key).strip()
        index = next((i for i, label in enumerate(labels) if label.upper() == text.upper()), None)
        if index is None and options.count(text) == 1:
            index = options.index(text)
    if index is None:
        raise Unfit("no_such_option", f"{key} is {answer!r:.40}; the options are {', '.join(labels)}")
    return Choice(question, options, index)


def _found(row: Mapping[str, Any], keys: Sequence[str], named: str) -> str:
    return next((key for key in (named, *keys) if key in row), named)


def _options(
    row: Mapping[str, Any], names: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(options, their labels): a list, ARC's {"text": .., "label": ..}, {"A": ..}, or columns A, B, C, .."""
    key = names["options"] if "options" in columns else _found(row, ("choices",), names["options"])
    if key not in row and row.get("A") is not None:
        letters = [letter for letter in LETTERS if row.get(letter) is not None]
        found = [text_at(row, letter, letter) for letter in letters]
        while found and is_blank(found[-1]):  # a table of questions with fewer options
            found.pop()
        return tuple(found), tuple(letters[: len(found)])
    labels: Sequence[Any] = LETTERS
    value = row.get(key)
    if isinstance(value, dict) and isinstance(value.get("label"), list):
        labels, row, key = value["label"], value, "text"
    elif isinstance(value, dict) and value and set(value) <= set(LETTERS):  # {"A": .., "B": ..}
        labels = sorted(value)
        row = {key: [value[letter] for letter in labels]}
    options = list_at(row, key, key, "a list of options")
    if not all(isinstance(option, str) for option in options) or len(options) > len(LETTERS):
        raise Unfit("wrong_type", f"{key} needs to be a list of at most {len(LETTERS)} strings")
    if len(labels) < len(options) or not all(isinstance(label, str) for label in labels[: len(options)]):
        raise Unfit("wrong_type", f"{key} and label are not of the same length")
    return tuple(options), tuple(labels[: len(options)])
