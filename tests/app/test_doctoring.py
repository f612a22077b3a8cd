"""data check and data clean through the command line: one JSON object, a picture, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.app.cli import main

ROW = {"prompt": "a question\u200b", "response": "an answer"}


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["data", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_check_clean_and_undo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW))
    code, found = told(capsys, "check", str(path), str(path), "--png", str(tmp_path / "a.png"))
    assert code == 0
    assert {"invisible_character", "duplicate_row"} <= {item["rule"] for item in found["findings"]}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    code, done = told(capsys, "clean", str(path), "--out", str(tmp_path / "out"), "--without", "duplicates")
    assert (code, done["changed"], done["dropped"]) == (0, {"invisible": 2}, {})
    report = done["files"][0]["report"]
    assert told(capsys, "clean", "--undo", report, "--out", str(tmp_path / "back"))[0] == 0
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["clean", "--out", "x"], ["clean", "none.jsonl", "--out", "x"], ["check", "--rules", "none.yaml", "a.jsonl"],
        ["check", "a.jsonl", "--examples", "0"], ["check", "a.jsonl", "--png", "a.jpg"],
        ["check", "a.jsonl", "--model-score"], ["clean", "--undo", "none", "--out", "x"],
        ["clean", "none.jsonl", "--out", "x", "--with", "bad"],
    ],
)  # fmt: skip
def test_wrong_words_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, *words)
    assert code == 2
    assert found["error"]["problems"][0]["fix"]
