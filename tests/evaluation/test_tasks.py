"""Task files in all their layouts; every fault is named with its line."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from tunesmith.data.records import Chat, Choice, Text
from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.tasks import read_items
from tunesmith.recipe import Recipe, Task


def task(path, kind="choice", **values):
    return Task(name="t", kind=kind, path=str(path), **values)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


CMMLU = (
    ",Question,A,B,C,D,Answer\n0,壁胸膜的分部不包括,肋胸膜,肺胸膜,膈胸膜,胸膜顶,B\n"
    "1,女性生殖腺是,卵巢,前庭大腺,前庭球,乳腺,A\n"
)
MMLU = 'What is it?,one,two,"three, or so",four,C\n"Two\nlines?",a,b,c,d,D\n'


# mutation tried: taking the index column as the question
def test_cmmlu_has_a_header_and_an_index(tmp_path):
    items = read_items(task(write(tmp_path / "c.csv", CMMLU)))
    assert items[0].record == Choice("壁胸膜的分部不包括", ("肋胸膜", "肺胸膜", "膈胸膜", "胸膜顶"), 1)
    assert items[1].address == f"{tmp_path}/c.csv:3"


def test_mmlu_has_no_header_and_rows_of_several_lines(tmp_path):
    items = read_items(task(write(tmp_path / "m.csv", MMLU + "last,1,2,3,4,A")))
    assert items[0].record == Choice("What is it?", ("one", "two", "three, or so", "four"), 2)
    assert [item.address[-1] for item in items] == ["1", "2", "4"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "options": ["x", "y"], "answer": "B"},
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "choices": ["x", "y"], "answer": "y"},
        {"question": "q", "options": {"A": "x", "B": "y"}, "answer": "b"},
        {"Question": "q", "A": "x", "B": "y", "Answer": "B"},
    ],
)
def test_jsonl_spells_a_choice_in_several_ways(tmp_path, row):
    items = read_items(task(write(tmp_path / "c.jsonl", json.dumps(row) + "\n")))
    assert items[0].record == Choice("q", ("x", "y"), 1)


def test_all_faults_are_told_at_once_with_their_lines(tmp_path):
    rows = [
        '{"question": "q", "options": ["x", "y"], "answer": "C"}', "{broken", '{"question": "q"}',
        '{"question": " ", "options": ["x", "y"], "answer": "A"}', "[1]",
    ]  # fmt: skip
    with pytest.raises(DataError) as caught:
        read_items(task(write(tmp_path / "c.jsonl", "\n".join(rows))))
    assert [problem.where.rsplit(":", 1)[1] for problem in caught.value.problems] == ["1", "2", "3", "4", "5"]


# mutation tried: the number of options not looked at (the scorer has ten letters)
def test_more_options_than_there_are_letters_are_a_fault(tmp_path):
    rows = [{"question": "q", "options": [f"o{i}" for i in range(n)], "answer": "A"} for n in (10, 11)]
    file = write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="11 options") as caught:
        read_items(task(file))
    assert [problem.where for problem in caught.value.problems] == [f"{file}:2"]


def test_a_csv_with_faults_is_told_likewise(tmp_path):
    with pytest.raises(DataError) as caught:
        read_items(task(write(tmp_path / "c.csv", CMMLU + "2,short,A\n3,q,a,b,c,d,E\n")))
    assert [problem.where[-2:] for problem in caught.value.problems] == [":4", ":5"]
    with pytest.raises(DataError, match="GB18030"):
        read_items(task(write(tmp_path / "g.csv", CMMLU, "gb18030")))
    with pytest.raises(DataError, match="UTF-16"):
        read_items(task(write(tmp_path / "u.csv", CMMLU, "utf-16")))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    assert len(read_items(task(write(tmp_path / "c.csv", CMMLU, "utf-8-sig")))) == 2


# mutation tried: scoring the shots as well
def test_the_first_items_of_each_file_are_the_shots(tmp_path):
    folder = tmp_path / "subjects"
    folder.mkdir()
    for name in ("a", "b"):
        write(folder / f"{name}.csv", "".join(f"{name}{n},1,2,3,4,A\n" for n in range(4)))
    items = read_items(task(folder, shots=2))
    assert [item.record.question for item in items] == ["a2", "a3", "b2", "b3"]
    assert [[shot.question for shot in item.shots] for item in items] == [["a0", "a1"]] * 2 + [
        ["b0", "b1"]
    ] * 2
    assert len(read_items(task(folder, shots=2, limit=3))) == 3
    with pytest.raises(DataError, match="none to score"):
        read_items(task(folder, shots=4))


def test_generations_take_any_chat_format_and_no_text(tmp_path):
    chats = write(tmp_path / "q.jsonl", '{"instruction": "add", "input": "1+1", "output": "2"}\n')
    assert isinstance(read_items(task(chats, "generate"))[0].record, Chat)
    texts = write(tmp_path / "t.txt", "one\n\ntwo\n")
    with pytest.raises(DataError, match="no_answer"):
        read_items(task(texts, "generate"))
    assert [item.record for item in read_items(task(texts, "loss"))] == [Text("one"), Text("two")]


def test_a_metric_must_fit_the_kind(tmp_path):
    with pytest.raises(DataError, match="bleu does not measure"):
        read_items(task(write(tmp_path / "c.csv", CMMLU), metric="bleu"))


def test_an_empty_or_absent_file_is_an_error(tmp_path):
    for path in (write(tmp_path / "e.csv", ""), write(tmp_path / "e.jsonl", ""), tmp_path / "no.csv"):
        with pytest.raises(DataError):
            read_items(task(path))


ASSETS = os.environ.get("TUNESMITH_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="TUNESMITH_ASSETS is not set")
@pytest.mark.parametrize("name", ["cmmlu", "mmlu"])
def test_real_question_files_are_read_whole(name):
    folder = Path(ASSETS) / "datasets" / name / "test"
    items = read_items(task(folder, shots=5))
    rows = 0
    for file in folder.glob("*.csv"):
        with open(file, encoding="utf-8", newline="") as stream:
            rows += sum(1 for _ in csv.reader(stream)) - 5 - (name == "cmmlu")
    assert len(items) == rows > 500
    assert all(len(item.record.options) == 4 and len(item.shots) == 5 for item in items)
    text = Path(items[0].address.rpartition(":")[0]).read_text(encoding="utf-8").splitlines()
    assert items[0].record.question in text[int(items[0].address.rpartition(":")[2]) - 1]


# mutation tried: without read_tasks in run.prepare the run folder is made, and then in the way
def test_a_task_file_that_is_wrong_is_told_before_a_run_begins(tmp_path):
    from tunesmith.run import prepare

    rows = write(tmp_path / "rows.jsonl", '{"prompt": "a", "response": "b"}\n' * 4)
    wrong = {"name": "t", "kind": "choice", "path": f"{tmp_path}/none.csv"}
    recipe = {"model": "no-model-is-needed", "data": {"train": str(rows)}, "evaluation": {"tasks": [wrong]}}
    with pytest.raises(UserError, match=r"none\.csv"):  # beside the model that is not there
        prepare(Recipe.model_validate(recipe))
