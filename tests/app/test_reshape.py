"""convert, split and sample as a person meets them: on the bundled data, with words for what goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tunesmith.app import cli

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Run the command in a folder with the bundled data; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    for file in (resources.files("tunesmith.bundled") / "data").iterdir():
        with resources.as_file(file) as path:
            shutil.copy(path, tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(["data", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def documents(out: str) -> dict[str, Any]:
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_convert_on_the_screen_and_as_json(main: Main) -> None:
    code, out, _ = main("convert", "orders.json", "--to", "messages", "--out", "orders.parquet")
    assert code == 0
    assert "read back and compared" in out
    code, out, _ = main("convert", "orders.parquet", "--to", "sharegpt", "--out", "b.csv.gz", "--json")
    found = documents(out)
    assert code == 0
    assert found["whole"] == found["rows_in"] == found["rows_out"] > 0
    assert found["losses"] == []


def test_a_loss_is_refused_with_code_2_and_taken_with_lossy(main: Main) -> None:
    words = ("convert", "dialogues.jsonl", "--to", "prompt_response", "--out", "b.jsonl")
    code, out, _ = main(*words, "--json")
    problems = documents(out)["error"]["problems"]
    assert code == 2
    assert problems[0]["what"].startswith("earlier_turns: the rounds before the last")
    assert not Path("b.jsonl").exists()
    code, out, _ = main(*words, "--lossy")
    assert code == 0
    assert "earlier turns  150 ×" in out


def test_split_and_what_train_makes_of_it(main: Main) -> None:
    code, out, _ = main("split", "general.jsonl", "dialogues.jsonl", "--validation", "0.1", "--stratify", "source",
                        "--out", "parts", "--json")  # fmt: skip
    found = documents(out)
    assert code == 0
    assert found["rows_in"] == sum(part["rows"] for part in found["parts"])
    assert [part["name"] for part in found["parts"]] == ["train", "validation"]
    code, out, _ = main("split", "general.jsonl", "--test", "20", "--out", "others")
    assert code == 0
    assert "groups that never part" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["split", "general.jsonl", "--out", "p"], "nor --test is given"),
        (["split", "general.jsonl", "--test", "1.5", "--out", "p"], "neither a share nor a number"),
        (["split", "--test", "5", "--out", "p"], "name a data file"),
        (["split", "none.jsonl", "--test", "5", "--out", "p"], "does not exist"),
        (
            ["split", "general.jsonl", "--test", "5", "--out", "general.jsonl"],
            "exists, and is not written over",
        ),
        (["sample", "general.jsonl", "--out", "a.jsonl", "--number", "0"], "must be at least 1"),
        (["sample", "general.jsonl", "--out", "a.jsonl", "--question", "x"], "means nothing with --as rows"),
        (["sample", "general.jsonl", "--as", "open", "--out", "a.md", "--rest", "b.jsonl"], "means nothing"),
        (["sample", "general.jsonl", "--as", "probes", "--out", "a.txt"], "probes are kept in YAML"),
        (["convert", "general.jsonl", "--out", "general.jsonl"], "never written over"),
        (["convert", "general.jsonl", "--out", "a.jsonl", "--column", "prompt"], "is no NAME=COLUMN"),
        (["convert", "general.jsonl", "--out", "a.jsonl", "--column", "ask=b"], "is in no known format"),
        (["convert", "general.jsonl", "--out", "a.jsonl", "--to", "alpacca"], "alpacca"),
    ],
)
def test_what_is_wrong_is_said_in_words(main: Main, words: list[str], told: str) -> None:
    before = sorted(Path().iterdir())
    code, out, err = main(*words)
    assert code == 2
    assert told in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert sorted(Path().iterdir()) == before


def test_sample_in_all_its_forms(main: Main) -> None:
    for words in (
        ("--out", "first.jsonl"),
        ("--as", "probes", "--out", "probes.yaml", "--question", "失眠怎么办？"),
        ("--as", "choice", "--number", "5", "--out", "choice.jsonl"),
        ("--as", "open", "--number", "5", "--out", "open.csv"),
    ):
        code, out, err = main("sample", "general.jsonl", *words)
        assert code == 0, err
        assert words[-1 if words[-2] == "--out" else 3] in out
    assert len(Path("first.jsonl").read_text().splitlines()) == 100
