"""An augmented row trains with its original or not at all: it never validates, never tests, and is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.byte_tokenizer import byte_template, byte_tokenizer
from tunesmith.data.formats import to_record
from tunesmith.data.marks import AUGMENTED, MARK, is_marked, original_of
from tunesmith.data.prepare import Prepared, prepare
from tunesmith.data.records import Chat
from tunesmith.data.reshape.augment import Recast, augment
from tunesmith.data.splits import is_augmented, row_keys, split_keys
from tunesmith.recipe import Data, Source, Tags

PAIR = {"prompt": "Please explain the quick way to find help", "response": "yes"}


def rows(count: int, name: str = "case") -> list[dict[str, Any]]:
    return [{**PAIR, "age": i % 9, "prompt": f"{PAIR['prompt']} for {name} {i}."} for i in range(count)]


def write(path: Path, items: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return str(path)


def augmented(source: str, out: Path, per_row: int = 2) -> str:
    augment(Source(path=source), Recast(per_row=per_row), str(out))
    return str(out)


def numbers(addresses: Any, path: str) -> set[int]:
    return {int(address.rpartition(":")[2]) for address in addresses if address.startswith(f"{path}:")}


def run(train: Any, **options: Any) -> Prepared:
    return prepare(
        Data(train=train, **{"validation": None, **options}), "sft", byte_tokenizer(), byte_template(), 0
    )


def originals(path: str) -> dict[int, int]:
    """Line of each augmented row -> line of its original."""
    lines = Path(path).read_text("utf-8").splitlines()
    return {i: int(json.loads(line)[MARK]["of"].rpartition(":")[2]) for i, line in enumerate(lines, 1)}


@pytest.mark.parametrize("tags", [None, Tags(columns={"age": "age"})])
@pytest.mark.parametrize("joined", [False, True])
def test_an_augmented_row_is_learnt_only_where_its_original_is(
    tmp_path: Path, joined: bool, tags: Any
) -> None:
    source = write(tmp_path / "a.jsonl", rows(40))
    more = augmented(source, tmp_path / "more.jsonl")
    of = originals(more)
    if joined:  # in one file with the originals
        text = Path(source).read_text() + Path(more).read_text()
        Path(source).write_text(text)
        of = {40 + line: original for line, original in of.items()}
    found = run([source] if joined else [source, more], validation=0.25, test=4, tags=tags)
    made = source if joined else more
    learnt = [address for part in found.train for address in part.addresses]
    assert found.validation is not None
    assert found.test is not None
    held = {*found.validation.addresses, *found.test.addresses}
    assert len(found.validation.addresses) == 10  # a share of the real rows
    assert len(found.test.addresses) == 4
    assert not {line for line in of if f"{made}:{line}" in held}
    trained = numbers(learnt, source) - set(of) if joined else numbers(learnt, source)
    assert {of[line] for line in numbers(learnt, made) & set(of)} == trained
    kept = sum(original in trained for original in of.values())
    ledger = found.ledger
    assert sum(each.augmented for each in ledger.sources) == kept
    reasons = ledger.sources[-1].reasons
    assert reasons["augmented_of_validation"] + reasons["augmented_of_test"] == len(of) - kept
    told = [row for row in ledger.rows if row.reason.startswith("augmented_of_")]
    assert len(told) == len(of) - kept
    assert all(row.fate == "dropped" for row in told)


def test_a_held_out_file_keeps_what_was_made_of_its_rows_out(tmp_path: Path) -> None:
    validation = write(tmp_path / "v.jsonl", rows(5))
    train = write(tmp_path / "a.jsonl", rows(5, "other"))
    more = augmented(validation, tmp_path / "more.jsonl")
    found = run([train, more, augmented(train, tmp_path / "own.jsonl")], validation=validation)
    assert found.ledger.sources[1].reasons == {"also_in_validation": len(originals(more))}
    assert found.ledger.sources[2].augmented == len(found.train[2])


def test_augmented_rows_of_a_held_out_file_are_dropped(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(5))
    more = augmented(write(tmp_path / "b.jsonl", rows(5, "other")), tmp_path / "more.jsonl", per_row=1)
    both = tmp_path / "v.jsonl"
    both.write_text((tmp_path / "b.jsonl").read_text() + Path(more).read_text())
    found = run(train, validation=str(both))
    assert found.validation is not None
    assert len(found.validation) == 5
    assert found.ledger.sources[-1].reasons == {"augmented": 5}


def test_rows_whose_originals_are_not_there_train(tmp_path: Path) -> None:
    more = augmented(write(tmp_path / "b.jsonl", rows(10, "other")), tmp_path / "more.jsonl")
    found = run([write(tmp_path / "a.jsonl", rows(10)), more], validation=3)
    assert found.ledger.sources[1].augmented == len(found.train[1]) == 20
    assert found.ledger.splits["validation"].rows == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("rab"), min_size=3, max_size=20), st.integers(1, 2), st.booleans())
def test_the_books_balance_with_augmented_rows(kinds: list[str], validation: int, split: bool) -> None:
    import tempfile

    real = rows(3)
    key = row_keys(to_record(real[0], "prompt_response", {}))[-1].hex()  # type: ignore[arg-type]
    lines = []
    for i, kind in enumerate(kinds):
        mark = {"of": "x:1", "by": "swap", "key": key if kind == "a" else "zz"}
        lines.append({**PAIR, "prompt": f"{i} {'long ' * 40}", **({} if kind == "r" else {MARK: mark})})
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "a.jsonl", [*real, *lines])
        found = run(source, validation=validation, max_length=128, overlength="split" if split else "drop")
    assert found.ledger.sources[0].rows_in == len(kinds) + 3  # the rest is asserted by the ledger itself


@pytest.mark.parametrize(
    ("mark", "original"),
    [
        ({"of": "a:1", "by": "swap", "key": "0a"}, b"\n"),
        ('{"of": "a:1", "by": "swap", "key": "0a"}', b"\n"),
        ({"of": "a:1", "by": "swap"}, b""),
        ({"of": "a:1", "by": "swap", "key": 3}, b""),
        ({"of": "a:1", "by": "swap", "key": "no hex"}, b""),
        ({"of": "a:1"}, None),
        (True, None),
        ("yes", None),
        (None, None),
    ],
)
def test_what_is_a_mark(mark: Any, original: bytes | None) -> None:
    row = {**PAIR, MARK: mark}
    assert original_of(row) == original
    assert is_marked(row) == (original is not None)
    record = to_record(row, "prompt_response", {})
    assert isinstance(record, Chat)
    assert is_augmented(split_keys(record)) == (original is not None)
    assert record.identity == (None if original is None else (AUGMENTED, original))
