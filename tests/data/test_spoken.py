"""What rows are made of, for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.data.spoken import describe_rows
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
