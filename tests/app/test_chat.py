"""Talking to a model; the model itself is faked."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tunesmith import run
from tunesmith.app import cli


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the model was given, turn by turn; it answers with its number."""
    given: list[list[str]] = []

    def answer(opened: object, messages: list[Any], max_new_tokens: int = 256) -> str:
        given.append([f"{message.role}: {message.content}" for message in messages])
        return f"answer {len(given)}"

    monkeypatch.setattr(run, "open_model", lambda target: object())
    monkeypatch.setattr(run, "answer", answer)
    return given


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_one_question_one_answer(heard: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "runs/x", "--prompt", "hello"]) == 0
    assert capsys.readouterr().out == "answer 1\n"
    assert cli.main(["chat", "runs/x", "--prompt", "hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "runs/x", "prompt": "hello", "answer": "answer 2"}


def test_a_question_may_begin_with_a_minus(heard: list[list[str]]) -> None:
    assert cli.main(["chat", "runs/x", "--prompt", "-5 + 3 = ?"]) == 0
    assert heard == [["user: -5 + 3 = ?"]]


# mutation tried: not appending the answer to what was said
def test_the_whole_talk_is_given_each_time(
    heard: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "one", "", "two")
    assert cli.main(["chat", "runs/x"]) == 0
    assert heard == [["user: one"], ["user: one", "assistant: answer 1", "user: two"]]
    assert capsys.readouterr().out == "answer 1\nanswer 2\n"


def test_new_begins_again_and_quit_ends(heard: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "one", "/new", "two", "/quit", "three")
    assert cli.main(["chat", "runs/x"]) == 0
    assert heard == [["user: one"], ["user: two"]]


def test_json_without_a_question_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "runs/x", "--json"]) == 2
    assert "--prompt" in json.loads(capsys.readouterr().out)["error"]["problems"][0]["fix"]


def test_an_answer_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "open_model", lambda target: object())
    monkeypatch.setattr(run, "answer", lambda *_, **__: "a\x1b[2Jb")
    assert cli.main(["chat", "runs/x", "--prompt", "hello"]) == 0
    assert "\x1b" not in capsys.readouterr().out
