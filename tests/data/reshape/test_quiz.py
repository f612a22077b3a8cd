"""A test set of one's own: right answers stay right, wrong ones come from elsewhere, and evaluation takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.records import Chat, Choice
from tunesmith.data.reshape.quiz import REVIEW, build_choices, build_sheet
from tunesmith.errors import DataError
from tunesmith.evaluation.tasks import read_items
from tunesmith.recipe import Source, Task

CAPITALS = (
    "Paris France|Rome Italy|Berlin Germany|Madrid Spain|Lisbon Portugal|Vienna Austria|Athens Greece|Dublin Ireland|"
    "Oslo Norway|Warsaw Poland"
)
FACTS = [tuple(item.split()) for item in CAPITALS.split("|")]
ROWS = [
    {"id": i, "question": f"What is the capital of {land}?", "answer": city}
    for i, (city, land) in enumerate(FACTS)
]
LONG = {"question": "Tell me a story.", "answer": "Once upon a time. " * 20}
NUMBER = {"question": "How many capitals are there?", "answer": "195"}


def write(path: Path, *rows: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), "utf-8")
    return Source(path=str(path))


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


# mutation tried: the letter of the first option as the answer
def test_the_right_option_is_the_answer_and_the_others_are_other_answers(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        *ROWS,
        LONG,
        NUMBER,
        {"question": "Which city is on the Seine?", "answer": "paris"},
    )
    report = build_choices([source], 8, str(tmp_path / "c.jsonl"), rest=str(tmp_path / "rest.jsonl"))
    truth = {row["question"]: row["answer"] for row in ROWS} | {"Which city is on the Seine?": "paris"}
    cities = {city.casefold() for city, _ in FACTS}
    items = lines(tmp_path / "c.jsonl")
    for item in items:
        right = item["options"]["ABCD".index(item["answer"])]
        assert right == truth[item["question"]]
        assert len({option.casefold() for option in item["options"]}) == 4
        assert {option.casefold() for option in item["options"]} <= cities
        assert item["review"] == REVIEW
        assert len(item["options_from"]) == 3
    assert report["to_review"] == report["rows"] == 8
    asked = {item["question"] for item in items}
    rest = {row["question"] for row in lines(tmp_path / "rest.jsonl")}
    assert asked.isdisjoint(rest)
    assert len(rest) == report["rest"]["rows"] == 13 - 8
    assert {loss["reason"] for loss in report["losses"]} <= {"too_long_for_an_option", "no_distractors"}


def test_evaluation_takes_the_choices(tmp_path: Path) -> None:
    build_choices([write(tmp_path / "a.jsonl", *ROWS)], 10, str(tmp_path / "c.jsonl"))
    items = read_items(Task(name="capitals", kind="choice", path=str(tmp_path / "c.jsonl"), shots=2))
    assert len(items) == 8
    assert all(isinstance(item.record, Choice) for item in items)


def test_rows_with_options_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}", "A": "x", "B": "y", "C": "z", "answer": "B"} for i in range(6)]
    report = build_choices([write(tmp_path / "a.jsonl", *rows)], 4, str(tmp_path / "c.csv"))
    assert report["to_review"] == 0
    items = read_items(Task(name="own", kind="choice", path=str(tmp_path / "c.csv")))
    assert {item.record for item in items} <= {Choice(f"Q{i}", ("x", "y", "z"), 1) for i in range(6)}


def test_the_same_seed_gives_the_same_test(tmp_path: Path) -> None:
    texts = []
    for name, rows, seed in (("1", ROWS, 0), ("2", ROWS, 0), ("3", ROWS, 5)):
        write(tmp_path / "a.jsonl", *rows)
        build_choices([Source(path=str(tmp_path / "a.jsonl"))], 6, str(tmp_path / f"{name}.jsonl"), seed=seed)
        texts.append((tmp_path / f"{name}.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_too_few_items_are_told_with_the_reasons(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS[0], LONG)
    with pytest.raises(
        DataError, match=r"gives 0 items, 5 are asked for .*1 too_long_for_an_option.*1 no_distractors"
    ):
        build_choices([source], 5, str(tmp_path / "c.jsonl"))


@pytest.mark.parametrize("name", ["open.csv", "open.md"])
def test_the_sheet_holds_questions_and_references(tmp_path: Path, name: str) -> None:
    odd = {"question": "Mend: ```f(x)```, please", "answer": '"quoted", and\ntwo lines | # no heading'}
    report = build_sheet([write(tmp_path / "a.jsonl", *ROWS, odd)], 11, str(tmp_path / name))
    text = (tmp_path / name).read_text("utf-8")
    assert report["rows"] == 11
    for row in ROWS:
        assert str(row["question"]) in text
    if name.endswith(".md"):
        assert "````text\nMend: ```f(x)```, please\n````" in text
        return
    items = read_items(Task(name="open", kind="generate", path=str(tmp_path / name)))
    assert len(items) == 11
    chats = [item.record for item in items]
    assert all(isinstance(chat, Chat) for chat in chats)
    assert odd["answer"] in [chat.messages[-1].content for chat in chats]  # type: ignore[union-attr]


def test_a_sheet_is_md_or_csv(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither \.md nor \.csv"):
        build_sheet([write(tmp_path / "a.jsonl", *ROWS)], 3, str(tmp_path / "open.docx"))
