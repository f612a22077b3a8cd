"""Pairs, judgements and questions: read, or refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.data.formats import Fault, to_record
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference
from tunesmith.recipe import DataFormat

Q, A, B = Message("user", "Q"), Message("assistant", "A"), Message("assistant", "B")
TURN = {"role": "user", "content": "Q"}
PAIR = Preference((Q,), (A,), (B,))


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"},
        {"prompt": [TURN], "chosen": [said("assistant", "A")], "rejected": [said("assistant", "B")]},
        {"chosen": [TURN, said("assistant", "A")], "rejected": [TURN, said("assistant", "B")]},
        {"prompt": "Q", "chosen": [TURN, said("assistant", "A")], "rejected": [TURN, said("assistant", "B")]},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
    ],
)
def test_a_pair_is_read_in_each_way_of_writing_it(row: dict[str, Any]) -> None:
    assert to_record(row, "preference", {}) == PAIR


def test_a_judgement_is_a_dialogue_and_a_verdict() -> None:
    judged = Judged(Chat((Q, A)), False)
    assert to_record({"messages": [TURN, said("assistant", "A")], "label": False}, "kto", {}) == judged
    assert to_record({"prompt": "Q", "completion": "A", "label": "false"}, "kto", {}) == judged
    assert (
        to_record({"prompt": [TURN], "completion": [said("assistant", "A")], "kto_tag": False}, "kto", {})
        == judged
    )


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "options": ["x", "y"], "answer": "B"},
        {"question": "Q", "choices": ["x", "y"], "answer": 1},
        {"question": "Q", "choices": ["x", "y"], "answer": "y"},
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        {"Question": "Q", "A": "x", "B": "y", "Answer": "b"},
    ],
)
def test_a_question_is_read_in_each_way_of_writing_it(row: dict[str, Any]) -> None:
    assert to_record(row, "choice", {}) == Choice("Q", ("x", "y"), 1)


FAULTS: list[tuple[DataFormat, dict[str, Any], str]] = [
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": "A"}, "equal_answers"),
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": " "}, "empty_answer"),
    ("preference", {"chosen": "A", "rejected": "B"}, "missing_key"),
    ("preference", {"prompt": "Q", "chosen": 1, "rejected": "B"}, "wrong_type"),
    ("preference", {"chosen": "\n\nHuman: Q\n\nAssistant:", "rejected": "x"}, "empty_answer"),
    ("kto", {"messages": [TURN, said("assistant", "A")], "label": 3}, "wrong_type"),
    ("kto", {"prompt": "Q", "label": True}, "missing_key"),
    ("choice", {"question": "Q", "options": ["x", "y"], "answer": "C"}, "no_such_option"),
    ("choice", {"question": "Q", "options": ["x", "y"], "answer": 2}, "no_such_option"),
    ("choice", {"question": "Q", "options": ["x"], "answer": 0}, "empty_answer"),
    ("choice", {"question": "Q", "options": [1, 2], "answer": 0}, "wrong_type"),
]


@pytest.mark.parametrize(("format", "row", "reason"), FAULTS)
def test_a_row_that_says_nothing_has_a_reason(format: DataFormat, row: dict[str, Any], reason: str) -> None:
    fault = to_record(row, format, {})
    assert isinstance(fault, Fault)
    assert fault.reason == reason
