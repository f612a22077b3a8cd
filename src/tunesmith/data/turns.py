"""Read dialogues however their turns are written: OpenAI's messages, ShareGPT's, typed parts, tools.

{"role": "user", "content": "Hi"}            {"from": "human", "value": "Hi"}          -> user "Hi"
{"role": "assistant", "tool_calls": [..]}    {"from": "function_call", "value": ".."}  -> a call
{"role": "tool", "content": ".."}            {"from": "observation", "value": ".."}    -> what the tool gave
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.faults import Unfit, is_blank, kind_of, list_at, loads, text_at, value_at
from tunesmith.data.records import Chat, Message, Role, ToolCall

# Names that people give the roles; those of ShareGPT are FastChat's, ShareGPT's own and LLaMA-Factory's.
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")
# Weights beyond are slips (a date, a count); what is to count less than the least is not to count at all.
LEAST_WEIGHT, MOST_WEIGHT = 1e-4, 1e3
_EMPTY = {"user": "empty_prompt", "assistant": "empty_answer", "tool": "empty_tool_output"}


def read_chat(row: Mapping[str, Any], key: str, names: Mapping[str, str]) -> Chat:
    """The dialogue at `key`, with the row's system turn and tools. Raises Unfit."""
    messages = read_turns(row, key, names)
    system = text_at(row, names["system"], names["system"], required=False)
    if not is_blank(system) and (not messages or messages[0].role != "system"):
        messages = (Message("system", system), *messages)
    check_order(messages, key)
    return Chat(messages, read_tools(row, names["tools"]))


def read_turns(row: Mapping[str, Any], key: str, names: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns at `key` in their order, whatever it is. Raises Unfit."""
    turns = list_at(row, key, key, "a list of turns")
    if not turns:
        raise Unfit("empty_messages", f"{key} is an empty list")
    messages = tuple(read_message(turn, f"{key}[{i}]", names) for i, turn in enumerate(turns))
    # a system turn without words says nothing; a table has one in each row
    return messages[1:] if messages[0].role == "system" and is_blank(messages[0].content) else messages


def read_message(turn: Any, where: str, names: Mapping[str, str]) -> Message:
    """One turn. Raises Unfit."""
    if not isinstance(turn, dict):
        raise Unfit("wrong_type", f"{where} is {kind_of(turn)}, an object is needed")
    role_key, content_key = _keys(turn, names)
    name = text_at(turn, role_key, f"{where}.{role_key}").strip().lower()
    if name in _CALLS:
        calls = _calls_in(text_at(turn, content_key, f"{where}.{content_key}"), f"{where}.{content_key}")
        return Message("assistant", "", None, calls, _weight(turn, where))
    role = ROLES.get(name)
    if role is None:
        raise Unfit("unknown_role", f"{where} has the role {name!r:.40}; {', '.join(ROLES)} are known")
    content, thought, calls = _content(turn, content_key, f"{where}.{content_key}", role)
    if role == "assistant":
        calls += _tool_calls(turn, where)
        thought = text_at(turn, names["reasoning_content"], where, required=False) or thought
    elif calls or thought or turn.get("tool_calls"):
        raise Unfit("wrong_type", f"{where} is a {role} turn; only an assistant thinks and calls tools")
    if is_blank(content) and role in _EMPTY and not calls:
        raise Unfit(_EMPTY[role], f"{where}.{content_key} is empty")
    weight = _weight(turn, where) if role == "assistant" else 1.0
    return Message(role, content, thought or None, calls, weight)


def _keys(turn: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, str]:
    """Under which keys role and content stand: the named ones, or those of the other way of writing."""
    role, content = names["role"], names["content"]
    other = ("from", "value") if role == "role" else ("role", "content")
    plain = {role, content} <= {"role", "content", "from", "value"}
    return other if plain and role not in turn and other[0] in turn else (role, content)


def _weight(turn: Mapping[str, Any], where: str) -> float:
    """How much an answer counts: its weight or loss_weight, and 0 where it has train: false. Raises Unfit."""
    train = turn.get("train")
    if train is not None and not isinstance(train, bool):
        raise Unfit("wrong_type", f"{where}.train is {kind_of(train)}, a boolean is needed")
    given = {key: turn[key] for key in ("weight", "loss_weight") if turn.get(key) is not None}
    for key, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise Unfit("wrong_weight", f"{where}.{key} is {kind_of(weight)}, a number is needed")
        if weight != 0 and not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            what = f"0 or a number from {LEAST_WEIGHT} to {MOST_WEIGHT:.0f} is needed"
            raise Unfit("wrong_weight", f"{where}.{key} is {weight!r:.20}, {what}")
    if len(set(given.values())) > 1:
        raise Unfit("wrong_weight", f"{where} has a weight and another loss_weight")
    return 0.0 if train is False else float(next(iter(given.values()), 1.0))


def _content(
    turn: Mapping[str, Any], key: str, where: str, role: Role
) -> tuple[str, str, tuple[ToolCall, ...]]:
    """(content, reasoning, calls) of a string or of typed parts."""
    value = turn.get(key)
    if value is None and role == "assistant" and turn.get("tool_calls"):
        return "", "", ()  # OpenAI's way: a turn that only calls has a null content
    value = value_at(turn, key, where)
    if not isinstance(value, list):
        return text_at(turn, key, where), "", ()
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for i, part in enumerate(value):
        at = f"{where}[{i}]"
        if not isinstance(part, dict):
            raise Unfit("wrong_type", f"{at} is {kind_of(part)}, an object is needed")
        kind = text_at(part, "type", f"{at}.type")
        if kind not in _PARTS:
            raise Unfit("unknown_part", f"{at} is of type {kind!r:.40}; only {', '.join(_PARTS)} are read")
        name = next((name for name in _PARTS[kind] if part.get(name) is not None), "value")
        text = text_at(part, name, f"{at}.{name}")
        if kind == "tool_call":
            calls += _calls_in(text, at)
        else:
            (texts if kind == "text" else thoughts).append(text)
    return "".join(texts), "\n".join(thoughts), tuple(calls)


# Types of content parts that can be read, and where their text stands.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "value"),
    "reasoning": ("reasoning", "value", "text"),
    "thinking": ("thinking", "value", "text"),
    "tool_call": ("value",),
}


def _calls_in(text: str, where: str) -> tuple[ToolCall, ...]:
    """Calls written as JSON text: one object or a list of them."""
    found = loads(text)
    items = found if isinstance(found, list) and found else [found]
    return tuple(_call(item, where) for item in items)


def _tool_calls(turn: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    """OpenAI's tool_calls."""
    if not turn.get("tool_calls"):
        return ()
    items = list_at(turn, "tool_calls", f"{where}.tool_calls", "a list of calls")
    return tuple(_call(item, f"{where}.tool_calls[{i}]") for i, item in enumerate(items))


def _call(item: Any, where: str) -> ToolCall:
    """{"name": .., "arguments": {..}}, or the same under "function", as OpenAI has it."""
    outer = item if isinstance(item, dict) else {}
    inner = outer.get("function") if isinstance(outer.get("function"), dict) else outer
    assert isinstance(inner, dict)
    name, arguments = inner.get("name"), inner.get("arguments")
    if isinstance(arguments, str):
        arguments = loads(arguments) if arguments.strip() else {}
    if arguments is None and "arguments" not in inner:
        arguments = inner.get("parameters", {})
    if not isinstance(name, str) or is_blank(name) or not isinstance(arguments, dict):
        raise Unfit("broken_tool_call", f"{where} is no call with a name and a JSON object of arguments")
    id = outer.get("id")
    return ToolCall(name, arguments, id if isinstance(id, str) and id else None)


def read_tools(row: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row, each as {"type": "function", "function": {..}}. Raises Unfit."""
    tools = row.get(key)
    if isinstance(tools, str):
        tools = loads(tools) if not is_blank(tools) else None
        if tools is None and not is_blank(row[key]):
            raise Unfit("broken_tools", f"{key} is a string, but no JSON")
    if not tools:
        return ()
    found = []
    for i, tool in enumerate(tools if isinstance(tools, list) else [tools]):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise Unfit("broken_tools", f"{key}[{i}] is no function with a name")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(found)


def check_order(messages: Sequence[Message], key: str) -> None:
    """System first or not at all, then user and assistant in turn, the assistant last. Raises Unfit.

    A call is followed by what the tools gave, then by the assistant.
    """
    if not any(message.role == "assistant" for message in messages):
        raise Unfit("no_answer", f"{key} has no assistant turn")
    check_prompt(messages, key)
    if messages[-1].role != "assistant":
        raise Unfit("roles_out_of_order", f"{key} ends with a {messages[-1].role} turn that nothing answers")


def check_prompt(messages: Sequence[Message], key: str) -> None:
    """The order alone, whoever ends. Raises Unfit."""
    before: Message | None = None
    for i, message in enumerate(messages):
        due = _due(before)
        if message.role not in due:
            raise Unfit(
                "roles_out_of_order", f"{key}[{i}] has the role {message.role} where {due[-1]} is due"
            )
        before = message


def _due(before: Message | None) -> tuple[str, ...]:
    """Who may speak after this turn; the last is the usual."""
    if before is None:
        return ("system", "user")
    if before.role == "assistant":
        return ("tool",) if before.calls else ("user",)
    return {"system": ("user",), "user": ("assistant",), "tool": ("tool", "assistant")}[before.role]
