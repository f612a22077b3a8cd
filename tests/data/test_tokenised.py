"""Prepared data is kept, found again by content alone, gone on with after a kill, and never used when damaged."""

from __future__ import annotations

import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import CHATML, byte_template, byte_tokenizer
from tunesmith.data import cache, index, pieces, work
from tunesmith.data.pieces import Piece
from tunesmith.data.prepare import Prepared, prepare
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError
from tunesmith.recipe import Data

KINDS = (
    lambda n: json.dumps({"prompt": f"q{n}", "response": f"a{n}"}),
    lambda n: json.dumps({"prompt": f"q{n % 7}", "response": "yes"}),
    lambda n: "{" if n % 3 else json.dumps({"prompt": f"long {n}" * 40, "response": "a"}),
    lambda n: "",
    lambda n: json.dumps({"prompt": f"q{n}", "response": "b", "history": [["x" * 30, "y" * 30]] * 4}),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 600)


def mixed_file(path: Path, rows: int = 120) -> str:
    path.write_text("".join(KINDS[n * 7 % len(KINDS)](n) + "\n" for n in range(rows)))
    return str(path)


def run(path: str, template: ChatTemplate | None = None, workers: int = 0, **options: Any) -> Prepared:
    values = {"validation": 0.2, "on_bad_row": "drop", "max_length": 150, "overlength": "split", **options}
    return prepare(
        Data(train=path, **values),
        "sft",
        byte_tokenizer(),
        template or byte_template(),
        0,
        workers=workers,  # type: ignore[arg-type]
    )


def told(data: Prepared) -> dict[str, Any]:
    """All that a run sees of its data."""
    sets = [*data.train, data.validation, data.test]
    return {
        "samples": [
            [(s.address, s.input_ids.tolist(), s.labels.tolist()) for s in part]
            for part in sets
            if part is not None
        ],
        "ledger": data.ledger.to_json(),
        "touched": list(data.ledger.row_lines()),
        "fingerprint": data.fingerprint,
    }


def made(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """The numbers of the pieces that are made from now on; `fail_at` pieces, the run is killed."""
    numbers: list[int] = []
    plain = work.Maker.make

    def make(self: work.Maker, piece: Piece, *rest: Any) -> Any:
        if fail_at is not None and len(numbers) == fail_at:
            raise KeyboardInterrupt
        numbers.append(piece.number)
        return plain(self, piece, *rest)

    monkeypatch.setattr(work.Maker, "make", make)
    return numbers


def test_many_pieces_are_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    whole = told(run(path))
    monkeypatch.setattr(pieces, "PIECE_BYTES", 500)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "other"))
    data = run(path)
    assert len(data.train[0].stores) > 5
    assert told(data) == whole
    lines = [int(json.loads(row)["address"].rpartition(":")[2]) for row in whole["touched"]]
    assert lines == sorted(lines)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt"])
def test_files_that_are_cut_by_reading_are_cut_alike(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"q{n}", "response": f"a{n}"} for n in range(60)]
    match name:
        case "a.json":
            text = json.dumps(rows)
        case "a.csv":
            text = "prompt,response\n" + "".join(f'"q\n{n}",a{n}\n' for n in range(60))
        case _:
            text = "\n\n".join(f"document {n}" for n in range(60))
    (tmp_path / name).write_text(text)
    objective = "pretrain" if name == "a.txt" else "sft"

    def prepared() -> dict[str, Any]:
        data = Data(train=str(tmp_path / name), validation=0.1)  # type: ignore[arg-type]
        return told(prepare(data, objective, byte_tokenizer(), byte_template(), 0))  # type: ignore[arg-type]

    whole = prepared()
    monkeypatch.setattr(pieces, "PIECE_BYTES", 200)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "other"))
    assert prepared() == whole


def test_worker_processes_make_the_same_bytes(tmp_path: Path, small_pieces: None, own_cache: Path) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    here = told(run(path))
    bytes_here = {file.name: file.read_bytes() for file in own_cache.rglob("shard-*.bin")}
    cache.clear()
    for file in own_cache.rglob("shard-*"):
        file.unlink()
    for file in own_cache.rglob("manifest.json"):
        file.unlink()
    seen: list[int] = []
    data = Data(train=path, validation=0.2, on_bad_row="drop", max_length=150, overlength="split")  # type: ignore[arg-type]
    there = prepare(data, "sft", byte_tokenizer(), byte_template(), 0, workers=2, watch=seen.extend)
    assert len(set(seen)) == 2
    assert told(there) == here
    assert {file.name: file.read_bytes() for file in own_cache.rglob("shard-*.bin")} == bytes_here


def test_a_finished_cache_is_not_made_again(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    first = told(run(path))
    again = made(monkeypatch)
    assert told(run(path)) == first
    assert told(run(path, validation=0.1))["ledger"]["sources"] == first["ledger"]["sources"]
    assert again == []


def test_whatever_changes_the_tokens_gives_a_new_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    run(path)
    again = made(monkeypatch)
    tokenizer = byte_tokenizer()
    try:
        tokenizer.chat_template = CHATML.replace("<|im_end|>\n", "<|im_end|>\n\n")
        other = ChatTemplate.of(tokenizer)
    finally:
        tokenizer.chat_template = CHATML
    run(path, template=other)
    run(path, max_length=140)
    run(path, overlength="drop")
    run(path, limit=20)
    assert len(again) == 4
    Path(path).write_text(Path(path).read_text().replace("q5", "q6", 1))
    run(path)
    assert len(again) == 5
    run(path)
    assert len(again) == 5


@pytest.mark.parametrize("done", [1, 4])
def test_a_killed_preparation_goes_on_where_it_stopped(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch, done: int, own_cache: Path
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    with monkeypatch.context() as patch:
        first = made(patch, fail_at=done)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert not list(own_cache.rglob("manifest.json"))
    second = made(monkeypatch)
    data = run(path)
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == list(range(len(first) + len(second)))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "other"))
    assert told(run(path)) == told(data)


@pytest.mark.parametrize("harm", ["flip", "truncate", "vanish", "books"])
def test_a_damaged_shard_is_made_again_and_only_it(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch, harm: str, own_cache: Path
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    first = told(run(path))
    victim = next(own_cache.rglob("shard-00002.bin"))
    content = bytearray(victim.read_bytes())
    match harm:
        case "flip":
            content[len(content) // 2] ^= 1
            victim.write_bytes(content)
        case "truncate":
            victim.write_bytes(content[:-5])
        case "vanish":
            victim.unlink()
        case _:
            victim.with_suffix(".rows.jsonl").write_text("{}")
    again = made(monkeypatch)
    assert told(run(path)) == first
    assert again == [2]


def test_damage_that_the_file_system_did_not_see_stops_before_it_is_used(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    first = told(run(path))
    victim = next(own_cache.rglob("shard-00001.bin"))
    data = run(path)
    for part in data.train:
        for store in part.stores:
            store.forget()  # type: ignore[attr-defined]
            store._proved = False  # type: ignore[attr-defined]
    content = bytearray(victim.read_bytes())
    content[3] ^= 4
    victim.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        list(data.train[0])
    assert not victim.exists()
    assert told(run(path)) == first


def test_two_runs_at_once_prepare_the_data_once(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mixed_file(tmp_path / "a.jsonl")
    byte_template()
    again = made(monkeypatch)
    found: list[dict[str, Any]] = []
    runs = [threading.Thread(target=lambda: found.append(told(run(path)))) for _ in range(3)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert len(again) == len(set(again))
    assert found[0] == found[1] == found[2]


def test_an_index_in_files_is_as_one_in_memory(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = mixed_file(tmp_path / "a.jsonl"), mixed_file(tmp_path / "b.jsonl", 50)
    held = tmp_path / "v.jsonl"
    held.write_text("".join(KINDS[0](n * 35) + "\n" for n in range(4)) + KINDS[1](3) + "\n")
    options = {"validation": str(held), "test": 0.1}
    first = told(run((one, two), **options))  # type: ignore[arg-type]
    assert first["ledger"]["sources"][0]["reasons"]["also_in_validation"] > 2
    monkeypatch.setattr(index, "STORED_ROWS", 0)
    assert told(run((one, two), **options)) == first  # type: ignore[arg-type]
    monkeypatch.setattr(index, "_work_out", lambda *_: pytest.fail("worked out again"))
    assert told(run((one, two), **options)) == first  # type: ignore[arg-type]


def test_bad_rows_of_many_pieces_are_told_together(tmp_path: Path, small_pieces: None) -> None:
    path = mixed_file(tmp_path / "a.jsonl", 200)
    for workers in (0, 1):
        with pytest.raises(DataError) as error:
            run(path, workers=workers, on_bad_row="error")
        where = [problem.where for problem in error.value.problems]
        lines = [n + 1 for n, text in enumerate(Path(path).read_text().splitlines()) if text == "{"]
        assert where == [f"{path}:{line}" for line in lines]


# mutation tried: the open shards are held by strong references, as before
def test_a_run_that_has_ended_keeps_no_file_open(tmp_path: Path, small_pieces: None) -> None:
    def held() -> list[str]:
        gc.collect()
        cached = str(tmp_path / "cache")
        links = (Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd"))
        return [
            str(link.readlink()) for link in links if link.is_symlink() and cached in str(link.readlink())
        ]

    path = mixed_file(tmp_path / "rows.jsonl")
    for _ in range(3):
        data = run(path)
        assert told(data)["samples"]
        assert held()
        del data
    assert held() == []
