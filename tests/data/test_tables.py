"""Tables, packed files, patterns and folders: the same rows, each with its own address."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.doctor import check
from tunesmith.data.gather import open_source
from tunesmith.data.records import Choice, Record
from tunesmith.data.sources import BadRow, Row, read_rows
from tunesmith.errors import DataError
from tunesmith.recipe import Data, Source

PAIRS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(3)]


def rows_of(path: object) -> list[Row | BadRow]:
    return list(read_rows(Source(path=str(path))))


def shape(rows: list[Row | BadRow]) -> list[tuple[str, Any]]:
    return [
        (row.address.rpartition("/")[2], row.value if isinstance(row, Row) else row.reason) for row in rows
    ]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# mutation tried: addresses by row number; a row of too few cells filled with None
def test_csv_rows_have_their_lines_and_bad_ones_cost_only_themselves(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfquestion,answer\r\n"q\n0",a0\r\n\r\nonly one\r\nq\xff,a\r\nq3,a3'
    assert shape(rows_of(write(tmp_path / "a.csv", data))) == [
        ("a.csv:2", {"question": "q\n0", "answer": "a0"}),
        ("a.csv:5", "wrong_columns"),
        ("a.csv:6", "wrong_encoding"),
        ("a.csv:7", {"question": "q3", "answer": "a3"}),
    ]
    tabs = write(tmp_path / "a.tsv", b"question\tanswer\nq0\ta0\n")
    assert shape(rows_of(tabs)) == [("a.tsv:2", PAIRS[0])]
    cells = (
        b'messages\n"[{""role"":""user"",""content"":""Q""},{""role"":""assistant"",""content"":""R""}]"\n'
    )
    opened = open_source(Source(path=str(write(tmp_path / "m.csv", cells))))
    assert opened.format == "messages"
    assert all(isinstance(opened.record(raw), Record) for raw in opened.rows)


def test_a_broken_quote_and_a_header_with_a_name_twice_are_told(tmp_path: Path) -> None:
    broken = write(tmp_path / "a.csv", b'question,answer\n"q"x,a\nq1,a1\n"q2,a2\n')
    assert [what for _, what in shape(rows_of(broken))] == ["broken_csv", PAIRS[1], "broken_csv"]
    with pytest.raises(DataError, match="two columns are called 'a'"):
        rows_of(write(tmp_path / "b.csv", b"a,a\n1,2\n"))


def test_questions_without_a_header_are_read(tmp_path: Path) -> None:
    opened = open_source(Source(path=str(write(tmp_path / "a.csv", b"Q,w,x,y,z,C\nR,1,2,3,4,A\n"))))
    assert opened.format == "choice"
    assert [opened.record(raw) for raw in opened.rows] == [
        Choice("Q", ("w", "x", "y", "z"), 2), Choice("R", ("1", "2", "3", "4"), 0),
    ]  # fmt: skip


def test_parquet_and_a_saved_data_set_are_read_in_order(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(PAIRS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert shape(rows_of(tmp_path / "a.parquet")) == [
        (f"a.parquet:{i + 1}", row) for i, row in enumerate(PAIRS)
    ]
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    (saved / "dataset_info.json").write_text("{}")
    for number in range(2):
        with pyarrow.ipc.new_stream(str(saved / f"data-0000{number}-of-00002.arrow"), table.schema) as stream:
            stream.write_table(table)
    assert [what for _, what in shape(rows_of(saved))] == PAIRS * 2
    with pytest.raises(DataError, match="cannot be read as parquet"):
        rows_of(write(tmp_path / "b.parquet", b"nothing"))


def test_packed_files_are_unpacked_on_the_way(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, PAIRS)).encode()
    zstandard = pytest.importorskip("zstandard")
    for suffix, packed in (("gz", gzip.compress(lines)), ("zst", zstandard.compress(lines))):
        found = rows_of(write(tmp_path / f"a.jsonl.{suffix}", packed))
        assert [row.value for row in found if isinstance(row, Row)] == PAIRS
    with pytest.raises(DataError, match="cannot be read"):
        rows_of(write(tmp_path / "b.jsonl.gz", gzip.compress(lines)[:-12]))


def test_missing_zstandard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(DataError, match="pip install zstandard"):
        rows_of(write(tmp_path / "a.jsonl.zst", b"x"))


def test_a_pattern_and_a_folder_are_their_files_in_order(tmp_path: Path) -> None:
    for name, row in zip("cab", PAIRS):
        write(tmp_path / f"{name}.jsonl", json.dumps(row).encode())
    (tmp_path / "notes.md").write_text("x")
    expected = [("a.jsonl:1", PAIRS[1]), ("b.jsonl:1", PAIRS[2]), ("c.jsonl:1", PAIRS[0])]
    assert shape(rows_of(tmp_path / "*.jsonl")) == shape(rows_of(tmp_path)) == expected
    write(tmp_path / "d.jsonl", json.dumps(PAIRS[0]).encode())
    report = check(Data(train=str(tmp_path), validation=None))  # type: ignore[arg-type]
    duplicate = next(finding for finding in report.findings if finding.rule == "duplicate_row")
    assert duplicate.examples[0].what.endswith("c.jsonl:1")


@pytest.mark.parametrize(
    ("name", "what"),
    [("*.json", "matches no file"), ("empty", "without data files"), ("a.xlsx", "unknown kind")],
)
def test_what_is_no_data_is_told(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataError, match=what):
        rows_of(tmp_path / name)
