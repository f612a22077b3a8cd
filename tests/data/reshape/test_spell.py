"""Spelling is the way back of reading: what is spelt without a loss reads as the same record."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.reshape.records import records
from tunesmith.data.formats import Fault, recognise, to_record
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Text, ToolCall
from tunesmith.data.reshape.spell import LEFT_OUT, REDUCED, spell
from tunesmith.recipe import DataFormat

FORMATS = get_args(DataFormat)
OWN: dict[type, tuple[str, ...]] = {
    Chat: ("messages", "sharegpt"), Text: ("text",), Preference: ("preference",), Judged: ("kto",),
    Choice: ("choice",),
}  # fmt: skip


# mutations tried: calls without their id, weights left out
@settings(max_examples=300, deadline=None)
@given(records(), st.sampled_from(FORMATS))
def test_a_row_without_loss_is_recognised_and_reads_as_the_same_record(
    record: Record, format: DataFormat
) -> None:
    spelt = spell(record, format)
    assert spelt.rows or spelt.lost
    assert set(spelt.lost) <= (set(REDUCED) if spelt.rows else set(LEFT_OUT))
    for row in spelt.rows:
        assert recognise([row], "x", {}) == format
        read = to_record(row, format, {})
        assert not isinstance(read, Fault)
        if not spelt.lost:
            assert read == record


@settings(max_examples=150, deadline=None)
@given(records())
def test_a_format_for_this_kind_of_record_loses_nothing(record: Record) -> None:
    for format in OWN[type(record)]:
        assert not spell(record, format).lost  # type: ignore[arg-type]


def chat(*turns: Message) -> Chat:
    return Chat(turns)


U, A = Message("user", "Q"), Message("assistant", "R")
CALL = Message("assistant", "", calls=(ToolCall("f", {"a": 1}),))
PAIR = Preference((U,), (A,), (Message("assistant", "S"),))
CASES: list[tuple[Record, DataFormat, tuple[str, ...], int]] = [
    (Text("t"), "messages", ("no_question",), 0),
    (chat(U, A), "preference", ("no_pair",), 0),
    (chat(U, A), "kto", ("no_judgement",), 0),
    (chat(U, A), "choice", ("no_options",), 0),
    (chat(U, CALL, Message("tool", "x"), A), "alpaca", ("tool_turns",), 0),
    (chat(U, CALL, Message("tool", "x"), A), "text", ("tool_turns",), 0),
    (chat(U, Message("assistant", "R", "why", weight=0)), "history", ("reasoning", "weights"), 1),
    (chat(U, A, U, A), "prompt_response", ("earlier_turns",), 1),
    (chat(U, A), "text", ("roles",), 1),
    (PAIR, "messages", ("rejected",), 1),
    (PAIR, "kto", ("pairing",), 2),
    (Judged(chat(U, A), False), "messages", ("undesirable",), 0),
    (Judged(chat(U, A), True), "alpaca", ("judgement",), 1),
    (Choice("Q", ("x", "y"), 1), "prompt_response", ("options",), 1),
]


@pytest.mark.parametrize(("record", "format", "lost", "rows"), CASES)
def test_what_a_row_cannot_say_is_named(
    record: Record, format: DataFormat, lost: tuple[str, ...], rows: int
) -> None:
    spelt = spell(record, format)
    assert spelt.lost == lost
    assert len(spelt.rows) == rows


# mutation tried: no case for Judged(desirable=False)
def test_a_bad_answer_never_becomes_one_to_learn() -> None:
    for format in ("messages", "sharegpt", "alpaca", "history", "prompt_response", "text"):
        assert spell(Judged(chat(U, A), False), format).rows == ()
