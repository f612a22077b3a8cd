"""A cleaned copy differs only where it was cleaned, cleaning it again changes nothing, and the original comes back."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.clean import Cleaned, clean, restore
from tunesmith.data.clean.steps import NAMES, UNASKED
from tunesmith.data.doctor.custom import load_own
from tunesmith.data.doctor.rules import load_rules
from tunesmith.errors import DataError, UserError
from tunesmith.recipe import Data

ALL = tuple(name for name in NAMES if name != "tags")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("examples")


def wash(path: Path, out: Path, steps: tuple[str, ...] = UNASKED, **options: Any) -> Cleaned:
    return clean(Data(train=str(path), validation=None), out, steps=steps, **options)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row(question: str, answer: str = "an answer", **more: Any) -> dict[str, Any]:
    return {"prompt": question, "response": answer, **more}


def twice_and_back(path: Path, out: Path, steps: tuple[str, ...]) -> None:
    """What holds for any file: the copy is clean, and the report gives the original back."""
    original = path.read_bytes()
    for old in out.glob("*/*"):
        old.unlink()
    try:
        (first,) = wash(path, out / "once", steps).files
    except DataError:
        return  # a file that is no data
    assert path.read_bytes() == original
    restore(Path(first.report), out / "back" / "original")
    assert (out / "back" / "original").read_bytes() == original
    try:
        (second,) = wash(Path(first.out), out / "twice", steps).files
    except DataError:
        return  # nothing is left
    assert Path(second.out).read_bytes() == Path(first.out).read_bytes()
    assert (second.changed, second.dropped) == ({}, {})


# mutation tried: settle() with one round
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.text(st.sampled_from("ab嗯，um.&lt;<br>\u200b\r\n 13812345678Ã©"), max_size=20),
                "response": st.sampled_from(
                    [
                        "",
                        "yes",
                        "嗯嗯，好的。",
                        "&amp;lt;",
                        "Um, um, well.",
                        "作为AI，我无法",
                        "转人工",
                        "a\x07",
                    ]
                ),
                "note": st.text(max_size=4),
            }
        ),
        min_size=1,
        max_size=6,
    ),
    style=st.sampled_from(["jsonl", "array", "indented", "csv"]),
)
def test_cleaning_twice_is_cleaning_once_and_can_be_undone(
    folder: Path, rows: list[dict[str, str]], style: str
) -> None:
    path = folder / {"jsonl": "a.jsonl", "array": "a.json", "indented": "b.json", "csv": "a.csv"}[style]
    match style:
        case "jsonl":
            write(path, rows)
        case "csv":
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["prompt", "response", "note"])
                writer.writeheader()
                writer.writerows(rows)
        case _:
            path.write_text(json.dumps(rows, indent=2 if style == "indented" else None), encoding="utf-8")
    twice_and_back(path, folder, ALL)


@settings(deadline=None, max_examples=120)
@given(data=st.binary(max_size=120), name=st.sampled_from(["a.jsonl", "a.json", "a.txt", "a.csv"]))
def test_no_bytes_make_it_fail(folder: Path, data: bytes, name: str) -> None:
    (folder / name).write_bytes(data)
    twice_and_back(folder / name, folder, ALL)


@pytest.mark.parametrize(
    "data",
    [
        b'[{"prompt": "", "response": "x"}, {"prompt": "a", "response": "b"}]',
        b'[{"prompt": "a", "response": "b"}, {"prompt": "", "response": "x"}]',
        b'[{"prompt": "", "response": "x"}]',
        b'[{"prompt": "", "response": "x"},{"a": ',
        b'\xef\xbb\xbf{"prompt": "a\\u200b", "response": "b"}\r\n\r\n{"prompt": "", "response": "b"}\r\n',
        b'{"prompt": "\xff", "response": "b"}\n{"prompt": "a", "response": "b"}',
    ],
)
def test_rows_at_the_edges_are_taken_out_whole(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / ("a.json" if data.startswith(b"[") else "a.jsonl")
    path.write_bytes(data)
    twice_and_back(path, tmp_path, ALL)
    copy = tmp_path / "once" / path.name
    if path.suffix == ".json" and not data.endswith(b": "):
        assert isinstance(json.loads(copy.read_bytes()), list)


def test_a_document_stays_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"one<br><br>line of it\r\nand another\r\n\r\nsecond\xe2\x80\x8b document, of some length\n"
    )
    twice_and_back(path, tmp_path, (*ALL,))
    copy = (tmp_path / "once" / "a.txt").read_text()
    assert copy == "one\nline of it\nand another\n\nsecond document, of some length\n"


def test_what_was_not_cleaned_stays_to_the_byte(tmp_path: Path) -> None:
    text = '{"id":1.50e3,  "prompt":"a\\u200bb","response":"\\u4f60", "tags": ["x\\u200b"]}\n{"prompt":"c",'
    text += ' "response":"d"}\n'
    (tmp_path / "a.jsonl").write_text(text)
    wash(tmp_path / "a.jsonl", tmp_path / "out")
    assert (tmp_path / "out" / "a.jsonl").read_text() == text.replace("a\\u200bb", "ab")


def test_each_step_is_told_with_row_rule_before_and_after(tmp_path: Path) -> None:
    rows = [row("q\u200b"), row("r"), row("r"), row("", "x")]
    done = wash(write(tmp_path / "a.jsonl", rows), tmp_path / "out")
    assert (done.files[0].changed, done.files[0].dropped) == (
        {"invisible": 1},
        {"duplicates": 1, "unreadable": 1},
    )
    _, first, second, third, end = read(Path(done.files[0].report))
    assert first["where"].endswith("a.jsonl:1")
    assert first["changes"] == [{"rule": "invisible", "where": "prompt", "before": "q\u200b", "after": "q"}]
    assert second["changes"][0]["why"].endswith("a.jsonl:2")
    assert third["changes"][0]["why"].startswith("empty_prompt")
    assert end["rows"] == 4


def test_steps_that_must_be_asked_for(tmp_path: Path) -> None:
    rows = [
        row("嗯，怎么退货？", "呃，七天内可以退。"),
        row("电话？", "请打 13812345678，或写信 lin@shop.cn。"),
        row("我以经到了", "好的，请稍等。"),
        row("我要退款", "正在为您转接人工客服。"),
        row("你会笑吗", "作为一个人工智能语言模型，我无法笑。"),
        row("名字？", "我是{{name}}。"),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    assert wash(path, tmp_path / "plain").files[0].changed == {}
    steps = (*UNASKED, "fillers", "personal", "typos", "unfit", "refusals", "placeholders")
    done = wash(path, tmp_path / "out", steps)
    assert read(Path(done.files[0].out)) == [
        row("怎么退货？", "七天内可以退。"),
        row("电话？", "请打 [PHONE]，或写信 [EMAIL]。"),
        row("我已经到了", "好的，请稍等。"),
    ]
    assert done.files[0].dropped == {"unfit": 1, "refusals": 1, "placeholders": 1}


def test_near_duplicates_and_leaks_are_left_out(tmp_path: Path) -> None:
    text = "how do I boil a fresh egg so that its yolk stays soft and warm inside"
    long = " ".join(f"word{i}" for i in range(60))
    rows = [row(text, long), row(text, long + " more"), row("something else entirely, my friend", long[:90])]
    train = write(tmp_path / "a.jsonl", rows)
    held = write(tmp_path / "v.jsonl", [row(f"Well, {text}?", "boil it")])
    assert wash(train, tmp_path / "near", (*UNASKED, "near_duplicates")).files[0].dropped == {
        "near_duplicates": 1
    }
    data = Data(train=str(train), validation=str(held))
    assert clean(data, tmp_path / "leaks", steps=("leaks",)).files[0].dropped == {"leaks": 2}


def test_tags_go_into_the_prompt_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("tags: [age]\n")
    rules = load_rules([tmp_path / "r.yaml"])
    cases = [
        (row("q", age=3), "prompt"),
        ({"instruction": "q", "input": "x", "output": "a", "age": 3}, "instruction"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "age": 3},
            "messages",
        ),
    ]
    for i, (value, key) in enumerate(cases):
        path = write(tmp_path / f"{i}.jsonl", [value])
        out = clean(Data(train=str(path), validation=None), tmp_path / "out", rules=rules).files[0].out
        (got,) = read(Path(out))
        assert "[age: 3]\\nq" in json.dumps(got[key])
        again = clean(Data(train=out, validation=None), tmp_path / "again", rules=rules).files[0]
        assert again.changed == {}


def test_tags_can_be_a_system_turn(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("tags: {columns: {age: 年龄}, place: system}\n")
    path = write(tmp_path / "a.jsonl", [row("q", age=3)])
    out = clean(
        Data(train=str(path), validation=None), tmp_path / "o", rules=load_rules([tmp_path / "r.yaml"])
    )
    assert read(Path(out.files[0].out)) == [row("q", age=3, system="[年龄: 3]")]


def test_rules_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def clean_spaces(text, role):\n    return ' '.join(text.split())\n"
        "def drop_old(row):\n    return 'too old' if row['year'] < 2020 else None\n"
    )
    own = load_own([tmp_path / "mine.py"])
    path = write(tmp_path / "a.jsonl", [row("q   q", year=2024), row("r", year=1999)])
    done = wash(path, tmp_path / "out", own=own)
    assert read(Path(done.files[0].out)) == [row("q q", year=2024)]
    broken = write(tmp_path / "b.jsonl", [row("q", year=2024), row("r")])
    with pytest.raises(UserError, match=r"b\.jsonl:2.*drop_old raised KeyError"):
        wash(broken, tmp_path / "out2", own=own)
    assert not (tmp_path / "out2" / "b.jsonl").exists()


def test_a_rule_that_never_settles_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def clean_longer(text, role):\n    return text + '!'\n")
    done = wash(
        write(tmp_path / "a.jsonl", [row("q")]), tmp_path / "out", own=load_own([tmp_path / "mine.py"])
    )
    assert done.files[0].changed == {}


def test_nothing_is_overwritten_and_wrong_names_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("q")])
    with pytest.raises(DataError, match="exists already"):
        wash(path, tmp_path)
    with pytest.raises(DataError, match="is a file; the cleaned copies go into a folder"):
        wash(path, tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="did you mean fillers"):
        wash(path, tmp_path / "out", ("filler",))


ROWS = [row("fine"), row("has\u200b a hidden one"), row("fine"), row("the\u200blast")]


# mutation tried: rows of an unpacked file keep the address of its copy
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.txt.gz", "a.csv.gz"])
def test_a_packed_file_has_an_unpacked_copy_and_comes_back_unpacked(tmp_path: Path, name: str) -> None:
    table = "prompt,response\n" + "".join(f"{each['prompt']},{each['response']}\n" for each in ROWS)
    contents = {
        "jsonl": "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in ROWS),
        "json": json.dumps(ROWS, ensure_ascii=False, indent=1),
        "txt": "\n\n".join(each["prompt"] for each in ROWS) + "\n\n\n",
        "csv": table,
    }
    content = contents[name.split(".")[1]].encode()
    (tmp_path / name).write_bytes(gzip.compress(content))
    (found,) = wash(tmp_path / name, tmp_path / "out").files
    assert (found.out, found.form) == (str(tmp_path / "out" / name[:-3]), "unpacked")
    cleaned = Path(found.out).read_text()
    assert "\u200b" not in cleaned
    documents = name == "a.txt.gz"  # of which equal ones are left to data check
    assert cleaned.count("fine") == 1 + documents
    told = [json.loads(line) for line in Path(found.report).read_text().splitlines()][1:-1]
    assert len(told) == 3 - documents
    assert all(line["where"].startswith(f"{tmp_path / name}:") for line in told)
    again = restore(Path(found.report), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert again["form"] == "unpacked"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_has_a_copy_in_lines_and_its_rows_come_back(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, table = tmp_path / f"a.{kind}", pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (found,) = wash(path, tmp_path / "out").files
    assert (found.out, found.form) == (str(tmp_path / "out" / "a.jsonl"), "lines")
    assert [each["prompt"] for each in read(Path(found.out))] == ["fine", "has a hidden one", "thelast"]
    restore(Path(found.report), tmp_path / "back.jsonl")
    assert read(tmp_path / "back.jsonl") == ROWS


def test_a_packed_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "b.jsonl", ROWS * 50).read_bytes())[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        wash(path, tmp_path / "out")


def test_two_files_of_one_name_have_two_copies_and_no_row_twice(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.jsonl", [row("q"), row(name)])
    data = Data(train=(str(tmp_path / "a/x.jsonl"), str(tmp_path / "b/x.jsonl")), validation=None)
    first, second = clean(data, tmp_path / "out").files
    assert (Path(first.out).name, Path(second.out).name) == ("x.jsonl", "x-2.jsonl")
    assert second.dropped == {"duplicates": 1}


@pytest.mark.parametrize("harm", ["copy", "report", "no report"])
def test_an_undo_that_would_not_be_exact_is_refused(tmp_path: Path, harm: str) -> None:
    done = wash(write(tmp_path / "a.jsonl", [row("q\u200b")]), tmp_path / "out").files[0]
    harmed = Path(done.out if harm == "copy" else done.report)
    text = "{}" if harm == "no report" else harmed.read_text().replace("an answer", "another answer")
    harmed.write_text(text)
    with pytest.raises(DataError):
        restore(Path(done.report), tmp_path / "back")
    assert not (tmp_path / "back").exists()
