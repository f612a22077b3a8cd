"""What a row means: recognised by its columns, or a fault with a reason; never an exception."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import Fault, check_columns, explain, recognise, to_record
from tunesmith.data.records import Chat, Message, Record, Text
from tunesmith.errors import DataError
from tunesmith.recipe import DataFormat


def chat(*turns: tuple[str, str]) -> Chat:
    return Chat(tuple(Message(role, content) for role, content in turns))  # type: ignore[arg-type]


def messages(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


U, A, S, OUT = ("user", "Q"), ("assistant", "R"), ("system", "S"), ("assistant", "O")
GOOD: list[tuple[str, dict[str, Any], dict[str, str], Record]] = [
    ("messages", messages(U, A), {}, chat(U, A)),
    ("messages", messages(S, U, A, U, A), {}, chat(S, U, A, U, A)),
    ("messages", {"turns": messages(U, A)["messages"]}, {"messages": "turns"}, chat(U, A)),
    ("alpaca", {"instruction": "I", "input": "X", "output": "O"}, {}, chat(("user", "I\nX"), OUT)),
    ("alpaca", {"instruction": "I", "input": "", "output": "O"}, {}, chat(("user", "I"), OUT)),
    ("alpaca", {"instruction": "I", "input": None, "output": "O"}, {}, chat(("user", "I"), OUT)),
    ("alpaca", {"instruction": "Q", "output": "R", "system": "S"}, {}, chat(S, U, A)),
    ("prompt_response", {"prompt": "Q", "response": "R"}, {}, chat(U, A)),
    ("prompt_response", {"question": "Q", "answer": "R", "id": 7}, {}, chat(U, A)),
    ("prompt_response", {"ask": "Q", "say": "R"}, {"prompt": "ask", "response": "say"}, chat(U, A)),
    ("history", {"prompt": "Q", "response": "R", "history": []}, {}, chat(U, A)),
    ("text", {"text": " a\n"}, {}, Text(" a\n")),
    ("text", {"body": "a"}, {"text": "body"}, Text("a")),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "columns", "record"), GOOD)
def test_rows_are_recognised_and_read(
    format: DataFormat, row: dict[str, Any], columns: dict[str, str], record: Record
) -> None:
    assert recognise([row], "a.jsonl", columns) == format
    assert to_record(row, format, columns) == record


# mutation tried: reversed(rounds)
def test_history_is_oldest_first() -> None:
    row = {"prompt": "3", "response": "c", "history": [["1", "a"], ["2", "b"]]}
    record = to_record(row, "history", {})
    assert isinstance(record, Chat)
    assert [message.content for message in record.messages] == ["1", "a", "2", "b", "3", "c"]


def test_reasoning_is_kept_apart() -> None:
    row = messages(U, A)
    row["messages"][1]["reasoning_content"] = "because"
    record = to_record(row, "messages", {})
    assert isinstance(record, Chat)
    assert record.messages[1].reasoning == "because"


FAULTS: list[tuple[DataFormat, Any, str, str]] = [
    ("messages", [1], "wrong_type", "the row is a list"),
    ("messages", {"a": 1}, "missing_key", "messages is missing; the row has 'a'"),
    ("messages", {"messages": "hi"}, "wrong_type", "messages is a string"),
    ("messages", {"messages": []}, "empty_messages", "messages"),
    ("messages", {"messages": ["hi"]}, "wrong_type", "messages[0] is a string"),
    ("messages", {"messages": [{"role": "user"}]}, "missing_key", "messages[0].content"),
    ("messages", {"messages": [{"content": "user"}]}, "missing_key", "messages[0].role"),
    ("messages", messages(("user", None), A), "wrong_type", "messages[0].content is null"),
    ("messages", messages(U, ("assistant", 3)), "wrong_type", "messages[1].content is a number"),
    ("messages", messages(U, ("assistant", True)), "wrong_type", "messages[1].content is a boolean"),
    ("messages", messages(("user", " \n"), A), "empty_prompt", "messages[0]"),
    ("messages", messages(U, ("assistant", "")), "empty_answer", "messages[1]"),
    ("messages", messages(S), "no_answer", "no assistant"),
    ("messages", messages(U), "no_answer", "no assistant"),
    ("messages", messages(U, U, A), "roles_out_of_order", "messages[1] has the role user"),
    ("messages", messages(A, U, A), "roles_out_of_order", "messages[0] has the role assistant"),
    ("messages", messages(U, A, S, U, A), "roles_out_of_order", "messages[2] has the role system"),
    ("messages", messages(U, A, U), "roles_out_of_order", "ends with a user turn"),
    ("messages", messages(("narrator", "x"), A), "unknown_role", "'narrator'"),
    ("messages", messages(U, ("tool", "x"), A), "roles_out_of_order", "messages[1] has the role tool"),
    ("messages", messages((["user"], "x"), A), "wrong_type", "messages[0].role is a list"),
    ("messages", {**messages(U, A), "tools": [{}]}, "broken_tools", "tools[0]"),
    ("alpaca", {"instruction": "I"}, "missing_key", "output is missing"),
    ("alpaca", {"instruction": "I", "output": ""}, "empty_answer", "empty answer"),
    ("alpaca", {"instruction": " ", "input": "", "output": "O"}, "empty_prompt", "empty prompt"),
    ("alpaca", {"instruction": "I", "input": [1], "output": "O"}, "wrong_type", "input is a list"),
    ("prompt_response", {"prompt": "Q"}, "missing_key", "response is missing"),
    ("prompt_response", {"prompt": 1, "response": "R"}, "wrong_type", "prompt is a number"),
    ("history", {"prompt": "Q", "response": "R", "history": "x"}, "wrong_type", "history is a string"),
    ("history", {"prompt": "Q", "response": "R", "history": [["a"]]}, "wrong_type", "history[0]"),
    ("history", {"prompt": "Q", "response": "R", "history": [["a", ""]]}, "empty_answer", "history[0]"),
    ("text", {"text": " \n"}, "empty_text", "text"),
    ("text", {"text": None}, "wrong_type", "text is null"),
]  # fmt: skip


# mutation tried: dropping any one check of _message and _check_order
@pytest.mark.parametrize(("format", "row", "reason", "detail"), FAULTS)
def test_a_row_that_means_nothing_says_why(format: DataFormat, row: Any, reason: str, detail: str) -> None:
    fault = to_record(row, format, {})
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert detail in fault.detail


AMBIGUOUS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "i", "output": "o", "text": "t"}, r"alpaca .* and text .*format: "),
    ({"messages": [], "text": "t"}, r"messages .* and text"),
    ({"prompt": "p", "response": "r", "completion": "c"}, r"'prompt' and 'response'.*columns: \{prompt"),
    ({"messages": [], "conversations": []}, r"messages .* and sharegpt"),
]


# mutation tried: taking the first of two fits
@pytest.mark.parametrize(("row", "what"), AMBIGUOUS)
def test_two_fits_are_told_and_never_guessed(row: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=f"(?s)fits two formats: .*{what}"):
        recognise([row], "a.jsonl", {})


def test_two_kinds_of_rows_of_one_number_are_not_guessed() -> None:
    with pytest.raises(DataError, match="fits two formats"):
        recognise([{"text": "x"}, {"messages": []}], "a.jsonl", {})


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"instruction": "", "input": "", "output": ""}, "alpaca"),
        ({"prompt": "", "response": "", "history": []}, "history"),
        ({"prompt": "", "response": "", "history": None}, "prompt_response"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "preference"),
        ({"messages": [], "label": False}, "kto"),
        ({"messages": [], "label": "sports"}, "messages"),
        ({"prompt": "", "completion": "", "label": True}, "kto"),
        ({"question": "q", "choices": [], "answer": 0}, "choice"),
        ({"Question": "q", "A": "", "B": "", "C": "", "D": "", "Answer": "A"}, "choice"),
        ({"messages": None, "text": "t"}, "text"),
    ],
)
def test_the_more_telling_format_wins(row: dict[str, Any], format: str) -> None:
    assert recognise([row], "a.jsonl", {}) == format


def test_nothing_fitting_lists_the_keys_and_the_formats() -> None:
    with pytest.raises(DataError, match=r"(?s)keys 'title', 'body'.*columns: .*text: text"):
        recognise([{"title": "x", "body": "y"}], "a.jsonl", {})
    with pytest.raises(DataError, match="looks for nope"):
        recognise([{"title": "x"}], "a.jsonl", {"text": "nope"})
    with pytest.raises(DataError, match="no row that is a JSON object"):
        recognise([1, "a"], "a.jsonl", {})


def test_recognition_says_what_gave_it_away() -> None:
    assert explain([{"question": "q", "answer": "a"}], "a", {}).why == "rows have 'question' and 'answer'"
    assert explain([{"text": "q", "id": 1}], "a", {}).why == "rows have 'text'; not read: 'id'"


# mutation tried: the order of formats before the number of rows
def test_most_rows_decide() -> None:
    rows = [{"text": "x"}] + [{"instruction": "i", "output": "o"}] * 3
    assert recognise(rows, "a.jsonl", {}) == "alpaca"
    rows = [{"messages": []}] + [{"text": "x"}] * 2
    assert explain(rows, "a.jsonl", {}).why.startswith("2 of the first 3 rows have 'text'")


def test_unknown_column_names_are_refused() -> None:
    with pytest.raises(DataError, match="'quesiton'"):
        check_columns("prompt_response", {"quesiton": "q"}, "a.jsonl")


texts = st.text(max_size=5) | st.sampled_from(["user", "assistant", "system", "gpt", "function_call", ""])
NAMES = "messages role content prompt response history text output tools instruction input system weight"
MORE = "tool_calls question answer options choices chosen rejected label conversations from value completion"
keys = st.sampled_from([*NAMES.split(), *MORE.split()])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | texts, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(
    value=json_values,
    format=st.sampled_from(get_args(DataFormat)),
    columns=st.dictionaries(keys, keys, max_size=2),
)
def test_no_value_crashes_the_conversion(value: Any, format: DataFormat, columns: dict[str, str]) -> None:
    result = to_record(value, format, columns)
    assert isinstance(result, Record) or (result.reason and result.detail)
    if isinstance(result, Chat):
        assert result.messages[-1].role == "assistant"
        assert all(m.content.strip() or m.calls for m in result.messages if m.role != "system")
    with contextlib.suppress(DataError):
        recognise([value], "a.jsonl", columns)
