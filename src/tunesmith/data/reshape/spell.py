"""Spell a record as a row of a format, and say what the row cannot hold: the way back of formats.to_record.

user "1+1?", assistant "2"  --alpaca-->      {"instruction": "1+1?", "input": "", "output": "2"}
a preference pair           --messages-->    prompt and chosen answer; lost: the rejected one
a document                  --messages-->    nothing; lost: no_question
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.judged import LETTERS, turns_in
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Text, as_chats
from tunesmith.recipe import DataFormat

# What a row of the target cannot say, in words; those of the first group leave no row at all.
LEFT_OUT: Mapping[str, str] = {
    "no_question": "a document asks nothing and answers nothing",
    "no_pair": "there is only one answer, and a preference needs a better and a worse one",
    "no_judgement": "nobody has judged this answer",
    "no_options": "there are no options to choose from",
    "undesirable": "the answer was found bad, and would be learnt as a good one",
    "tool_turns": "calls of tools and what they gave have no place in these rows",
}
REDUCED: Mapping[str, str] = {
    "judgement": "that the answer was found good",
    "rejected": "the rejected answer",
    "pairing": "which two rows were a pair: one row becomes two",
    "options": "the options as such: they become lines of the question, the answer a letter",
    "roles": "who said what: the turns become one text",
    "tools": "the list of tools",
    "reasoning": "what the assistant thought before it answered",
    "weights": "how much each answer counts; an answer of weight 0 would be learnt",
    "earlier_turns": "the rounds before the last",
}


@dataclass(frozen=True, slots=True)
class Spelt:
    """The rows a record becomes, and the reasons (of LEFT_OUT or REDUCED) why they are not the whole of it."""

    rows: tuple[dict[str, Any], ...]
    lost: tuple[str, ...] = ()


def spell(record: Record, format: DataFormat) -> Spelt:
    """The record as rows of `format`. Without a reason in `lost`, reading them gives the record again."""
    match record, format:
        case Text(), "text":
            return Spelt(({"text": record.text},))
        case Preference(), "preference":
            return Spelt((_preference(record),))
        case Judged(), "kto":
            return Spelt((_judged(record),))
        case Choice(), "choice":
            return Spelt((_choice(record),))
        case Preference(), "kto":
            sides = zip(as_chats(record), (True, False))
            return Spelt(tuple(_judged(Judged(chat, good)) for chat, good in sides), ("pairing",))
        case _, "preference" | "kto" | "choice":
            return Spelt(
                (), ({"preference": "no_pair", "kto": "no_judgement", "choice": "no_options"}[format],)
            )
        case Text(), _:
            return Spelt((), ("no_question",))
        case Judged(desirable=False), _:
            return Spelt((), ("undesirable",))
    chat, reasons = as_chats(record)[0], _OTHERS.get(type(record), ())
    spelt = _AS_CHAT[format](chat)
    return replace(spelt, lost=(*reasons, *spelt.lost) if spelt.rows else spelt.lost)


_OTHERS: Mapping[type, tuple[str, ...]] = {
    Preference: ("rejected",),
    Judged: ("judgement",),
    Choice: ("options",),
}


def _with_tools(row: dict[str, Any], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**row, "tools": list(tools)} if tools else row


def _turn(message: Message) -> dict[str, Any]:
    """OpenAI's way: {"role", "content"}, and what else the turn has."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    return turn | _calls(message) | _weight(message)


def _calls(message: Message) -> dict[str, Any]:
    if not message.calls:
        return {}
    calls = [
        ({"id": call.id} if call.id else {})
        | {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
        for call in message.calls
    ]
    return {"tool_calls": calls}


def _weight(message: Message) -> dict[str, Any]:
    return {} if message.weight == 1 else {"weight": message.weight}


def _messages(chat: Chat) -> Spelt:
    return Spelt((_with_tools({"messages": [_turn(message) for message in chat.messages]}, chat.tools),))


_NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(chat: Chat) -> Spelt:
    """ShareGPT's way: {"from", "value"}; a thought or calls stand beside, as in messages."""
    turns = []
    for message in chat.messages:
        turn: dict[str, Any] = {"from": _NAMES[message.role], "value": message.content}
        if message.reasoning is not None:
            turn["reasoning_content"] = message.reasoning
        turns.append(turn | _calls(message) | _weight(message))
    return Spelt((_with_tools({"conversations": turns}, chat.tools),))


def _rounds(chat: Chat) -> tuple[str, list[list[str]], tuple[str, ...]] | None:
    """(system, [[prompt, response], ..], what these lose), or None where tools take part."""
    turns = list(chat.messages)
    if any(message.role == "tool" or message.calls for message in turns):
        return None
    system = turns.pop(0).content if turns[0].role == "system" else ""
    lost = [name for name, met in (
        ("reasoning", any(message.reasoning is not None for message in turns)),
        ("weights", any(message.weight != 1 for message in turns)),
    ) if met]  # fmt: skip
    pairs = [[asked.content, told.content] for asked, told in zip(turns[::2], turns[1::2])]
    return system, pairs, tuple(lost)


def _flat(chat: Chat, row: Callable[[list[list[str]]], dict[str, Any]], last_only: bool = False) -> Spelt:
    """A row whose last round stands in columns of its own."""
    if (found := _rounds(chat)) is None:
        return Spelt((), ("tool_turns",))
    system, pairs, lost = found
    if last_only and len(pairs) > 1:
        pairs, lost = pairs[-1:], (*lost, "earlier_turns")
    spelt = row(pairs) | ({"system": system} if system else {})
    return Spelt((_with_tools(spelt, chat.tools),), lost)


def _alpaca(chat: Chat) -> Spelt:
    def row(pairs: list[list[str]]) -> dict[str, Any]:
        *earlier, (prompt, response) = pairs
        spelt = {"instruction": prompt, "input": "", "output": response}
        return {**spelt, "history": earlier} if earlier else spelt

    return _flat(chat, row)


def _history(chat: Chat) -> Spelt:
    return _flat(chat, lambda pairs: dict(zip(("prompt", "response"), pairs[-1])) | {"history": pairs[:-1]})


def _prompt_response(chat: Chat) -> Spelt:
    return _flat(chat, lambda pairs: dict(zip(("prompt", "response"), pairs[-1])), last_only=True)


def _text(chat: Chat) -> Spelt:
    """Turn after turn with an empty line between: for questions and answers mixed into pre-training."""
    if any(message.role == "tool" or message.calls for message in chat.messages):
        return Spelt((), ("tool_turns",))
    thinks = any(message.reasoning is not None for message in chat.messages)
    lost = ["roles", *["tools"] * bool(chat.tools), *["reasoning"] * thinks]
    lost += ["weights"] * any(message.weight != 1 for message in chat.messages)
    return Spelt(({"text": "\n\n".join(message.content for message in chat.messages)},), tuple(lost))


_AS_CHAT: Mapping[DataFormat, Callable[[Chat], Spelt]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "history": _history,
    "prompt_response": _prompt_response,
    "text": _text,
}


def _is_text(answer: Sequence[Message]) -> bool:
    """Whether an answer is a single plain turn whose text is not read as a dialogue."""
    first = answer[0]
    text = first.content
    plain = len(answer) == 1 and first == Message(first.role, text)
    return plain and not text.startswith("\n\nHuman:") and not turns_in(text)


def _preference(record: Preference) -> dict[str, Any]:
    """Texts where one user turn is answered by one turn; turns where there is more, or a text would be misread."""
    prompt, answers = record.prompt, (record.chosen, record.rejected)
    said: dict[str, Any] = {"prompt": [_turn(message) for message in prompt]}
    if len(prompt) == 1 and prompt[0].role == "user" and not turns_in(prompt[0].content):
        said["prompt"] = prompt[0].content
    for key, answer in zip(("chosen", "rejected"), answers):
        said[key] = answer[0].content if _is_text(answer) else [_turn(message) for message in answer]
    return _with_tools(said, record.tools)


def _judged(record: Judged) -> dict[str, Any]:
    row = {"messages": [_turn(message) for message in record.chat.messages], "label": record.desirable}
    return _with_tools(row, record.chat.tools)


def _choice(record: Choice) -> dict[str, Any]:
    return {
        "question": record.question,
        "options": list(record.options),
        "answer": LETTERS[record.answer],
    }
