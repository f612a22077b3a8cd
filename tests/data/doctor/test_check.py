"""The data doctor finds what is wrong, says where and what to do, and never falls ill itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.data.byte_tokenizer import byte_template
from tunesmith.data.doctor import CheckReport, Finding, check
from tunesmith.data.template import ChatTemplate
from tunesmith.recipe import Data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property: a new one each is slower than the test."""
    return tmp_path_factory.mktemp("examples")


def doctor(train: Any, exact: bool = False, **options: Any) -> CheckReport:
    data = Data(train=train, **{"validation": 0.1, **options})
    return check(data, objective="sft", template=byte_template() if exact else None)


def finding(report: CheckReport, rule: str) -> Finding:
    return next(f for f in report.findings if f.rule == rule)


def rules(report: CheckReport) -> set[str]:
    return {f.rule for f in report.findings}


def write(path: Path, rows: list[Any]) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def row(question: str, answer: str = "an answer") -> dict[str, str]:
    return {"prompt": question, "response": answer}


def test_good_rows_have_no_findings(tmp_path: Path) -> None:
    report = doctor(write(tmp_path / "a.jsonl", [row(f"question {i}") for i in range(150)]))
    assert report.findings == ()
    assert report.ok
    assert report.rows == 150


def test_bad_rows_are_counted_by_reason_with_their_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("q"), "{", row("q2", ""), "{"])
    report = doctor(path)
    broken = finding(report, "broken_json")
    assert (broken.severity, broken.count) == ("error", 2)
    assert [example.where for example in broken.examples] == [f"{path}:2", f"{path}:4"]
    assert "on_bad_row=drop" in broken.fix
    assert finding(report, "empty_answer").examples[0].where == f"{path}:3"
    assert not report.ok
    assert doctor(path, on_bad_row="drop").ok
    (file,) = report.files
    assert (file.format, file.rows, file.bad_rows) == ("prompt_response", 4, 3)


# mutation tried: _compare() without setdefault
def test_duplicates_contradictions_and_leaks(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [row("q"), row("r"), row("q"), row("r", "another"), row("held")])
    held = write(tmp_path / "v.jsonl", [row("held"), row("alone")])
    report = doctor(train, validation=held)
    assert rules(report) == {"duplicate_row", "contradictory_answer", "train_row_in_validation"}
    assert finding(report, "duplicate_row").examples[0].where == f"{train}:3"
    assert finding(report, "duplicate_row").examples[0].what == "the same as row 1"
    assert finding(report, "contradictory_answer").examples[0].where == f"{train}:4"
    assert f"{held}:1" in finding(report, "train_row_in_validation").examples[0].what
    assert report.ok


def test_an_answer_that_looks_the_same_contradicts_nothing(tmp_path: Path) -> None:
    train = write(
        tmp_path / "a.jsonl", [row("q", "so it is"), row("q", "so  it\u200b is\n"), row("q", "so is it")]
    )
    assert [each.where for each in finding(doctor(train), "contradictory_answer").examples] == [f"{train}:3"]


def test_what_begins_or_continues_a_held_out_row_is_found(tmp_path: Path) -> None:
    longer = {"prompt": "more", "response": "b", "history": [["q", "a"]]}
    train = write(tmp_path / "a.jsonl", [row("q", "a"), row("r")])
    held = write(tmp_path / "v.jsonl", [longer])
    report = doctor(train, validation=held)
    (example,) = finding(report, "train_row_in_validation").examples
    assert example.where == f"{train}:1"
    assert example.what == "begins or continues a row of validation"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I am {{name}}.", "placeholder"),
        ("a\x07bell", "odd_character"),
        ("caf\ufffd", "odd_character"),
        ("say <|im_end|> now", "control_token_in_text"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_odd_texts_are_found(tmp_path: Path, text: str, rule: str, exact: bool) -> None:
    report = doctor(write(tmp_path / "a.jsonl", [row("q"), row("r", text)]), exact)
    assert rules(report) == {rule}
    assert finding(report, rule).examples[0].where.endswith(":2")


def test_short_answers_are_odd_only_among_long_ones(tmp_path: Path) -> None:
    few = write(tmp_path / "a.jsonl", [row(str(i), "a long answer") for i in range(9)] + [row("x", "y")])
    assert finding(doctor(few), "short_answer").count == 1
    all_short = write(tmp_path / "b.jsonl", [row(str(i), "A") for i in range(9)])
    assert rules(doctor(all_short)) == set()


def test_lengths_are_tokens_where_a_template_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a" * 10), row("r", "a" * 300)])
    by_characters, by_tokens = doctor(path), doctor(path, exact=True, max_length=100)
    assert by_characters.lengths["unit"] == "characters"
    assert by_characters.lengths["max"] == 301
    assert by_tokens.lengths["unit"] == "tokens"
    assert finding(by_tokens, "too_long").count == 1
    assert sum(bin["count"] for bin in by_tokens.lengths["histogram"]) == 2


def test_unreadable_files_are_findings(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", [row("q")])
    odd = write(tmp_path / "b.jsonl", [{"title": "x"}])
    later = write(tmp_path / "c.jsonl", [{"conversation_s": []}])
    report = doctor((good, f"{tmp_path}/none.jsonl", odd, later))
    assert finding(report, "unreadable_file").count == 3
    assert report.rows == 1
    assert [file.why for file in report.files].count("cannot be read") == 3


def test_a_text_file_of_one_document_and_sft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one line\nanother line")
    report = check(Data(train=str(path), validation=None), objective="pretrain")
    assert rules(report) == {"one_document"}
    assert "text_under_sft" in rules(doctor(str(path)))


def test_json_has_its_shape(tmp_path: Path) -> None:
    report = doctor(write(tmp_path / "a.jsonl", [row("q"), "{"])).to_json()
    assert set(report) >= {"files", "rows", "findings", "formats", "lengths"}
    assert report["formats"] == {"prompt_response": 2}
    for found in report["findings"]:
        assert set(found) == {"rule", "severity", "count", "examples", "fix"}
        assert found["fix"]
        assert all(set(example) == {"where", "what", "excerpt"} for example in found["examples"])
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report))


@settings(deadline=None, max_examples=150)
@given(
    data=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.json", "a.txt"]), exact=st.booleans()
)
def test_no_bytes_make_the_doctor_ill(folder: Path, data: bytes, name: str, exact: bool) -> None:
    path = folder / name
    path.write_bytes(data)
    json.dumps(doctor(str(path), exact).to_json(), ensure_ascii=False).encode()


def test_text_that_the_tokenizer_cannot_spell_is_found(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "known": 2, "User": 3, ":": 4}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    path = write(tmp_path / "a.jsonl", [{"text": "known known"}, {"text": "known 未知"}])
    template = ChatTemplate.of(tokenizer, "auto")
    report = check(Data(train=path), objective="pretrain", template=template)
    (example,) = finding(report, "unknown_token").examples
    assert example.where == f"{path}:2"
    assert example.what == "1 of 3 tokens are unknown"


def test_published_sets_are_read_as_their_pages_say() -> None:
    root = os.environ.get("TUNESMITH_ASSETS")
    if not root:
        pytest.skip("needs TUNESMITH_ASSETS")
    folder = Path(root) / "datasets"
    expected = {
        "gsm8k/test.jsonl": ("prompt_response", 1319, 0),
        "alpaca/alpaca_data_0-4999.json": ("alpaca", 5000, 4),
        "alpaca_zh/alpaca_zh_translated_2000.json": ("alpaca", 2000, 4),
        "code/code_alpaca_1500.json": ("alpaca", 1500, 1),
        "messages/oasst_en_threads.jsonl": ("messages", 64, 0),
        "pretrain_en/tinystories_1000.txt": ("text", 1000, 0),
        "pretrain_en/pride_and_prejudice.txt": ("text", 2126, 0),
        "pretrain_zh/xiyouji.txt": ("text", 3312, 0),
    }
    report = doctor(tuple(str(folder / name) for name in expected))
    got = {f.path: (f.format, f.rows, f.bad_rows) for f in report.files}
    assert got == {str(folder / name): numbers for name, numbers in expected.items()}
