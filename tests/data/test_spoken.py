"""What rows are made of, and what each source gives of an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.spoken import add_budget, describe_rows
from tunesmith.recipe import Data


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rounds_questions_and_answers_are_counted(tmp_path: Path) -> None:
    chats = write(
        tmp_path / "a.jsonl",
        {"prompt": "qqqq", "response": "aa", "history": [["q", "a"], ["qq", "aaa"]]},
        {"prompt": "", "response": "x", "history": []},
        {"prompt": "q", "response": "a", "history": []},
    )
    text = write(tmp_path / "b.jsonl", {"text": "abc"}, {"text": "abcdef"})
    first, second = describe_rows(Data(train=[chats, text]))
    assert first["rows"] == 2
    assert (first["rounds"]["max"], first["rounds"]["total"]) == (3, 4)
    assert (first["questions"]["total"], first["answers"]["total"]) == (8, 7)
    assert "documents" not in first
    assert (second["documents"]["total"], "rounds" in second) == (9, False)
    limited = describe_rows(Data(train=[chats, text], limit=4))
    assert [each["rows"] for each in limited] == [2, 1]


@pytest.mark.parametrize(
    ("weights", "shares", "repeats"),
    [
        ((None, None), (0.75, 0.25), (1, 1)),
        ((1, 3), (0.25, 0.75), (0.333, 3)),
        ((None, 1), (0.5, 0.5), (0.667, 2)),
    ],
)
def test_the_budget_follows_the_weights(weights: Any, shares: Any, repeats: Any) -> None:
    sources = [{"tokens": 300, "weight": weights[0]}, {"tokens": 100, "weight": weights[1]}]
    add_budget(sources)
    assert tuple(source["budget_share"] for source in sources) == shares
    assert tuple(source["repeats"] for source in sources) == repeats
    assert sum(source["budget_tokens"] for source in sources) == 400
