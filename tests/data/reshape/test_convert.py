"""A converted file means the same as the old one, or the loss is named, counted and asked for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.reshape.records import FAMILIES
from tunesmith.data.marks import AUGMENTED
from tunesmith.data.records import Record
from tunesmith.data.reshape.convert import KIND_LOSSES, convert
from tunesmith.data.reshape.output import KINDS
from tunesmith.data.reshape.rows import opened, read
from tunesmith.data.reshape.spell import LEFT_OUT, REDUCED, spell
from tunesmith.errors import DataError
from tunesmith.recipe import DataFormat, Source

FORMATS = get_args(DataFormat)
HOMES: dict[str, tuple[DataFormat, ...]] = {
    "chat": ("messages", "sharegpt", "alpaca", "history", "prompt_response"), "text": ("text",),
    "preference": ("preference",), "kto": ("kto",), "choice": ("choice",),
}  # fmt: skip


def meanings(path: Path, format: DataFormat | None = None) -> list[Any]:
    return [row.record for row in read(opened(Source(path=str(path), format=format)))]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@st.composite
def held(draw: st.DrawFn) -> tuple[DataFormat, list[Record]]:
    """A format and records that it holds whole."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    format = draw(st.sampled_from(HOMES[family]))
    some = draw(st.lists(FAMILIES[family], min_size=1, max_size=3))
    return format, [record for record in some if not spell(record, format).lost]


@settings(max_examples=250, deadline=None)
@given(held(), st.sampled_from(FORMATS), st.sampled_from([*KINDS, ".jsonl.gz", ".csv.gz"]))
def test_there_and_back_over_all_formats_and_kinds(
    given: tuple[DataFormat, list[Record]], target: DataFormat, kind: str
) -> None:
    format, records = given
    if not records or (kind == ".txt" and target != "text"):
        return
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "in.jsonl", *(spell(record, format).rows[0] for record in records))
        assert meanings(source) == records
        goal = Path(folder) / f"out{kind}"
        try:
            report = convert(Source(path=str(source)), target, str(goal))
        except DataError as error:
            assert not goal.exists()
            if "does not give back" in error.problems[0].what:
                assert looks_like_json(source, kind)
                return
            named = {problem.what.split(":")[0] for problem in error.problems[:-1]}
            assert named
            assert named <= LEFT_OUT.keys() | REDUCED.keys() | KIND_LOSSES.keys()
            return
        assert report["whole"] == report["rows_out"] == len(records)
        back = Path(folder) / "back.jsonl"
        convert(Source(path=str(goal)), format, str(back))
        assert meanings(back) == records


def looks_like_json(source: Path, kind: str) -> bool:
    """Whether a cell's text may pass for JSON when it is read back: found, and refused."""
    return kind.removesuffix(".gz") in (".csv", ".tsv") and any(mark in source.read_text() for mark in "[{")


@settings(max_examples=100, deadline=None)
@given(held(), st.sampled_from(FORMATS), st.sampled_from([".jsonl", ".tsv", ".parquet", ".txt"]))
def test_with_losses_the_books_still_balance(
    given: tuple[DataFormat, list[Record]], target: DataFormat, kind: str
) -> None:
    format, records = given
    if not records or (kind == ".txt" and target != "text"):
        return
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "in.jsonl", *(spell(record, format).rows[0] for record in records))
        goal = Path(folder) / f"out{kind}"
        try:
            report = convert(Source(path=str(source)), target, str(goal), lossy=True)
        except DataError as error:
            last = error.problems[-1].what
            if "does not give back" in last:
                assert looks_like_json(source, kind)
                return
        else:
            last = ""
        if not goal.exists():
            assert last.startswith(f"would hold none of the {len(records)} rows")
            return
        assert report["rows_in"] == report["whole"] + report["reduced"] + report["left_out"] == len(records)
        assert len(meanings(goal)) == report["rows_out"]
        assert bool(report["losses"]) == bool(report["reduced"] + report["left_out"])


PAIR = {"question": "1+1?", "answer": "2"}


# mutation tried: the fix of _summary, --lossy, which would not help
@pytest.mark.parametrize("lossy", [False, True])
def test_rows_that_cannot_be_written_at_all_say_what_they_can_become(tmp_path: Path, lossy: bool) -> None:
    source = write(tmp_path / "a.jsonl", PAIR, PAIR)
    with pytest.raises(DataError) as caught:
        convert(Source(path=str(source)), "kto", str(tmp_path / "b.jsonl"), lossy=lossy)
    told = caught.value.problems[-1]
    assert told.what == "would hold none of the 2 rows: they cannot be written as kto"
    assert told.fix == "these can become --to messages, sharegpt, alpaca, prompt_response, history, text"


def test_columns_that_mean_nothing_are_carried(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"id": 7, **PAIR, "tags": ["x"]}, {**PAIR, "id": None})
    report = convert(Source(path=str(source)), "messages", str(tmp_path / "b.jsonl"))
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    assert lines(tmp_path / "b.jsonl") == [
        {"messages": turns, "id": 7, "tags": ["x"]},
        {"messages": turns, "id": None},
    ]
    assert report["columns_carried"] == {"id": 2, "tags": 1}


# mutation tried: _clashing returns nothing
@pytest.mark.parametrize("name", ["text", "label", "conversations", "messages", "tools"])
def test_a_column_that_would_change_the_meaning_is_a_loss(tmp_path: Path, name: str) -> None:
    row = {"ask": "1+1?", "say": "2", name: True if name == "label" else [{"role": "user"}]}
    source = Source(
        path=str(write(tmp_path / "a.jsonl", row)),
        format="prompt_response",
        columns={"prompt": "ask", "response": "say"},
    )
    if name == "tools":
        with pytest.raises(DataError, match="broken_tools"):
            convert(source, "messages", str(tmp_path / "b.jsonl"))
        return
    if name == "text":
        row[name] = "a document"
        write(tmp_path / "a.jsonl", row)
    with pytest.raises(DataError, match=f"column {name}"):
        convert(source, "messages", str(tmp_path / "b.jsonl"))
    report = convert(source, "messages", str(tmp_path / "b.jsonl"), lossy=True)
    assert report["losses"][0]["reason"] == f"column {name}"
    assert opened(Source(path=str(tmp_path / "b.jsonl"))).format == "messages"


def test_a_refusal_names_each_reason_with_a_row_and_its_count(tmp_path: Path) -> None:
    chat = {
        "messages": [
            {"role": "user", "content": "q", "name": "Ann"},
            {"role": "assistant", "content": "a", "weight": 2},
        ]
    }
    source = write(tmp_path / "a.jsonl", chat, {"messages": []}, chat)
    with pytest.raises(DataError) as caught:
        convert(Source(path=str(source)), "alpaca", str(tmp_path / "b.jsonl"))
    told = [(problem.where, problem.what) for problem in caught.value.problems]
    assert told[0] == (f"{source}:1 (and 1 more)", f"weights: {REDUCED['weights']}")
    assert told[1] == (f"{source}:1 (and 1 more)", "turn_keys: 'name' of a turn")
    assert told[2] == (f"{source}:2", "empty_messages: messages is an empty list")
    assert "2 of 3 rows would lose something, 1 could not be written at all" in told[3][1]
    assert not (tmp_path / "b.jsonl").exists()
    assert list(tmp_path.iterdir()) == [source]


# mutation tried: require_output without samefile
def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", PAIR)
    (tmp_path / "link.jsonl").symlink_to(source)
    for name in ("a.jsonl", "link.jsonl"):
        with pytest.raises(DataError, match="the input itself"):
            convert(Source(path=str(source)), "messages", str(tmp_path / name))
    write(tmp_path / "old.jsonl", {"a": 1})
    with pytest.raises(DataError, match="is not written over"):
        convert(Source(path=str(source)), "messages", str(tmp_path / "old.jsonl"))
    assert lines(source) == [PAIR]


@pytest.mark.parametrize(
    ("out", "words"),
    [("b.xlsx", "no kind of file"), ("b.parquet.gz", "no kind of file"), ("no/b.jsonl", "is no folder")],
)
def test_a_goal_that_cannot_be_written_is_told_first(tmp_path: Path, out: str, words: str) -> None:
    source = write(tmp_path / "a.jsonl", PAIR)
    with pytest.raises(DataError, match=words):
        convert(Source(path=str(source)), None, str(tmp_path / out))


def test_only_text_fits_a_txt(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", PAIR)
    with pytest.raises(DataError, match=r"\.txt holds documents alone"):
        convert(Source(path=str(source)), "messages", str(tmp_path / "b.txt"))


def test_a_table_with_types_gives_its_dates_as_text(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {**PAIR, "when": datetime.date(2026, 1, 2), "score": float("nan")}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    source = Source(path=str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match="value_as_text"):
        convert(source, "messages", str(tmp_path / "b.jsonl"))
    convert(source, "messages", str(tmp_path / "b.jsonl"), lossy=True)
    (new,) = lines(tmp_path / "b.jsonl")
    assert (new["when"], new["score"]) == ("2026-01-02", None)


# mutation tried: MARK among the columns that may clash
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_the_mark_of_an_augmented_row_is_carried(tmp_path: Path, kind: str) -> None:
    row = {**PAIR, "augmented": {"of": "a.jsonl:3", "by": "swap", "key": "0a" * 16}}
    source = write(tmp_path / "a.jsonl", row)
    convert(Source(path=str(source)), "messages", str(tmp_path / f"b{kind}"))
    (record,) = meanings(tmp_path / f"b{kind}")
    assert record.identity == (AUGMENTED, bytes.fromhex("0a" * 16))


# mutation tried: a blank line instead of the marker after each document
def test_blank_lines_inside_a_document_do_not_part_it_in_a_txt(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"text": "one\n\ntwo"}, {"text": "three"})
    convert(Source(path=str(source)), "text", str(tmp_path / "b.txt"))
    assert [record.text for record in meanings(tmp_path / "b.txt")] == ["one\n\ntwo", "three"]


# mutation tried: turn_keys are reported and not carried
@pytest.mark.parametrize(("format", "turns"), [("sharegpt", "conversations"), ("messages", "messages")])
def test_keys_of_a_row_and_of_its_turns_go_along_to_another_dialogue_format(
    tmp_path: Path, format: str, turns: str
) -> None:
    extra = [{"name": "Ann", "time": 3}, {"model": "m1"}, {}, {"model": "m2"}]
    said = [("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "a2")]
    if format == "sharegpt":
        old = {"messages": [{"role": r, "content": c, **e} for (r, c), e in zip(said, extra)]}
    else:
        names = {"user": "human", "assistant": "gpt"}
        old = {"conversations": [{"from": names[r], "value": c, **e} for (r, c), e in zip(said, extra)]}
    source = write(tmp_path / "a.jsonl", {"id": "row 7", "topic": ["x"], **old})
    found = convert(Source(path=str(source)), format, str(tmp_path / "b.jsonl"))  # type: ignore[arg-type]
    (row,) = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert (row["id"], row["topic"]) == ("row 7", ["x"])
    reserved = {"role", "content", "from", "value"}
    assert [{k: v for k, v in turn.items() if k not in reserved} for turn in row[turns]] == extra
    assert found["losses"] == []
    assert {"id", "topic", "turns.name", "turns.model"} <= set(found["columns_carried"])


def test_keys_of_turns_that_cannot_go_along_are_listed(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s", "name": "house"},
        {"role": "user", "content": "q", "name": "Ann"},
        {"role": "assistant", "content": "a"},
    ]
    source = write(tmp_path / "a.jsonl", {"messages": turns})
    with pytest.raises(DataError, match="turn_keys"):
        convert(Source(path=str(source)), "prompt_response", str(tmp_path / "b.jsonl"))
