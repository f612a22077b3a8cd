"""Items of a task that stand in training are counted, once each."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.data.doctor import tasks
from tunesmith.data.records import Chat, Choice, Message, Record
from tunesmith.evaluation.tasks import Item
from tunesmith.recipe import Source, Task

LONG = "which of the three rivers that meet below the old stone bridge carries the most water in spring"


def rows(path: Path, *questions: str) -> Source:
    told = [{"prompt": question, "response": "the middle one"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return Source(path=str(path))


def chat(question: str) -> Chat:
    return Chat((Message("user", question), Message("assistant", "the middle one")))


def task(name: str, *items: tuple[str, Record]) -> tuple[Task, list[Item]]:
    return Task(name=name, kind="generate", path="t.jsonl"), [Item(*item) for item in items]


# mutation tried: found as a list of rows
def test_items_in_training_are_counted_once(tmp_path: Path) -> None:
    other = "how many sheep graze on the far side of the long green hill today"
    sky = "what colour does the sky above the northern harbour take on before a winter storm"
    source = rows(
        tmp_path / "a.jsonl", LONG.upper() + "?", LONG, "something that nobody has asked in any task so far"
    )
    asked = [
        task("rivers", ("t:1", chat(LONG)), ("t:2", chat(other))),
        task("choice", ("c:1", Choice(sky, ("a", "b"), 0))),
    ]
    assert tasks.leaked_items(asked, [source]) == (("rivers", 1, 2),)


def test_short_questions_prove_nothing(tmp_path: Path) -> None:
    question = "what is 2 + 2?"
    asked = [task("sums", ("t:1", chat(question)))]
    assert tasks.leaked_items(asked, [rows(tmp_path / "a.jsonl", question)]) == ()


def test_without_tasks_no_row_is_read() -> None:
    assert tasks.leaked_items([], [Source(path="nowhere.jsonl")]) == ()
