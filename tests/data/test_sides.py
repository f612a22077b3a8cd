"""Who is held out: equal rows never part, text gives its end, the same seed gives the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data import sides as module
from tunesmith.data.formats import to_record
from tunesmith.data.records import Chat, Message, Text
from tunesmith.data.sides import SIDES, Block, GivenAway, Rows, block_of
from tunesmith.data.splits import HeldOut, row_keys
from tunesmith.errors import DataError


def single(word: str) -> tuple[bytes, ...]:
    return row_keys(Chat((Message("user", word), Message("assistant", "yes"))))


def rows_of(keys: Sequence[tuple[bytes, ...]], is_text: bool) -> Rows:
    """In blocks of three, so that no test holds for a single block alone."""
    return Rows([block_of(keys[at : at + 3]) for at in range(0, len(keys), 3)], is_text)


def chats(*words: str) -> Rows:
    return rows_of([single(word) for word in words], is_text=False)


def texts(*words: str) -> Rows:
    return rows_of([row_keys(Text(word)) for word in words], is_text=True)


def assign(sources: Sequence[Rows], validation: Any, test: Any, seed: int) -> list[list[str]]:
    """The side of each row of each source, by name."""
    found = module.assign(sources, validation, test, seed)
    return [[SIDES[side] for block in source for side in block.tolist()] for source in found]


def numbered(count: int) -> Rows:
    return chats(*map(str, range(count)))


@pytest.mark.parametrize(("part", "expected"), [(0.05, 10), (7, 7), (0.001, 1), (None, 0)])
def test_share_and_count_hold_out_as_many_as_asked(part: float | int | None, expected: int) -> None:
    (sides,) = assign([numbered(200)], part, None, seed=0)
    assert sides.count("validation") == expected
    assert sides.count("train") == 200 - expected


@settings(deadline=None, max_examples=150)
@given(
    sources=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=30), min_size=1, max_size=3),
    is_text=st.lists(st.booleans(), min_size=3, max_size=3),
    validation=st.none() | st.floats(0.01, 0.6) | st.integers(1, 9),
    test=st.none() | st.floats(0.01, 0.4) | st.integers(1, 5),
    seed=st.integers(0, 2**63 - 1),
)
def test_equal_rows_never_part_and_training_is_never_empty(
    sources: list[list[int]],
    is_text: list[bool],
    validation: float | int | None,
    test: float | int | None,
    seed: int,
) -> None:
    rows = [rows_of([single(str(n)) for n in numbers], text) for numbers, text in zip(sources, is_text)]
    try:
        sides = assign(rows, validation, test, seed)
    except DataError:
        return
    seen: dict[int, str] = {}
    for numbers, side in zip(sources, sides):
        assert len(numbers) == len(side)
        for number, here in zip(numbers, side):
            assert seen.setdefault(number, here) == here
    used = {side for source in sides for side in source}
    assert "train" in used
    assert ("validation" in used) == (validation is not None)
    assert ("test" in used) == (test is not None)
    assert sides == assign(rows, validation, test, seed)


def test_text_gives_its_last_block() -> None:
    (sides,) = assign([texts(*"abcdefghij")], 0.2, None, seed=3)
    assert sides == ["train"] * 8 + ["validation"] * 2
    (both,) = assign([texts(*"abcdefghij")], 0.2, 3, seed=3)
    assert both == ["train"] * 5 + ["validation"] * 2 + ["test"] * 3


def test_a_repeated_document_at_the_end_stays_with_its_first() -> None:
    (sides,) = assign([texts("a", "b", "c", "d", "***", "e", "***", "f")], 2, None, seed=0)
    assert sides == ["train"] * 5 + ["validation", "train", "validation"]


def test_a_dialogue_and_its_continuation_stay_together() -> None:
    rounds = [[f"q{i}", f"a{i}"] for i in range(3)]
    rows = []
    for n in range(40):
        for turn in range(3):
            prompt, response = rounds[turn]
            history = [[f"{n} {p}", r] for p, r in rounds[:turn]]
            row = {"prompt": f"{n} {prompt}", "response": response, "history": history}
            record = to_record(row, "history", {})
            assert isinstance(record, Chat)
            rows.append(row_keys(record))
    (sides,) = assign([rows_of(rows, is_text=False)], 0.2, None, seed=1)
    assert "validation" in sides
    for n in range(40):
        assert len(set(sides[3 * n : 3 * n + 3])) == 1


def test_another_seed_holds_out_others_and_new_rows_move_few() -> None:
    (first,), (other,) = (assign([numbered(100)], 20, None, seed) for seed in (0, 1))
    assert first != other
    (more,) = assign([numbered(105)], 20, None, 0)
    moved = sum(a != b for a, b in zip(first, more))
    assert moved <= 10


def test_each_source_gives_its_share() -> None:
    one, two = chats(*(f"a{i}" for i in range(300))), chats(*(f"b{i}" for i in range(100)))
    sides = assign([one, two], 0.1, None, seed=0)
    assert [side.count("validation") for side in sides] == [30, 10]


def test_test_rows_do_not_depend_on_validation() -> None:
    (without,), (with_it,) = (assign([numbered(50)], part, 5, seed=0) for part in (None, 10))
    rows_of = [[i for i, side in enumerate(sides) if side == "test"] for sides in (without, with_it)]
    assert rows_of[0] == rows_of[1]


def test_asking_for_too_much_says_so() -> None:
    with pytest.raises(DataError, match="500 for validation of 3 rows leaves nothing"):
        assign([numbered(3)], 500, None, 0)
    with pytest.raises(DataError, match="only 1 different"):
        assign([chats("a", "a", "a")], 0.3, None, 0)
    assert assign([numbered(2)], 0.05, None, 0)[0].count("train") == 1


@given(
    held=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=4),
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=8),
)
def test_rows_that_a_held_out_file_gives_away_are_found(held: list[list[int]], rows: list[list[int]]) -> None:
    def keys(words: list[int]) -> tuple[bytes, ...]:
        turns = [m for word in words for m in (Message("user", str(word)), Message("assistant", "a"))]
        return row_keys(Chat(tuple(turns)))

    plain, away = HeldOut(), GivenAway()
    for words in held:
        plain.add("validation", keys(words))
    if held:
        away.add(
            SIDES.index("validation"), block_of([keys(words) for words in held]), np.ones(len(held), bool)
        )
    expected = [plain.find("train", keys(words)) is not None for words in rows]
    assert (away.find(block_of([keys(words) for words in rows])) > 0).tolist() == expected


def test_many_rows_are_held_out_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 3000, 4000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    rows = Rows([Block(part, np.ones(len(part), np.uint32)) for part in np.array_split(keys, 7)], False)
    (whole,) = map(list, module.assign([rows], 0.1, 0.05, 3))
    monkeypatch.setattr(module, "_FEW", 100)
    (stretched,) = map(list, module.assign([rows], 0.1, 0.05, 3))
    assert all(np.array_equal(a, b) for a, b in zip(whole, stretched))
    sizes = np.bincount(np.concatenate(stretched))
    assert sizes.tolist() == [3400, 400, 200]


def test_millions_are_placed_in_files_as_few_are_in_memory(tmp_path: Path) -> None:
    def keys(words: str) -> tuple[bytes, ...]:
        turns = [(Message("user", word), Message("assistant", "yes")) for word in words]
        return row_keys(Chat(tuple(message for turn in turns for message in turn)))

    rows = rows_of([keys(words) for words in ("a", "ab", "abc", "x", "xy", "q", *"bcdefg")], is_text=False)
    asked: list[int] = []

    def scratch(size: int) -> np.ndarray:
        asked.append(size)
        return np.memmap(tmp_path / str(len(asked)), np.uint64, "w+", shape=(size,))

    (plain,), (laid,) = (map(list, module.assign([rows], 0.3, 0.2, 1, *where)) for where in ((), (scratch,)))
    assert all(np.array_equal(a, b) for a, b in zip(plain, laid, strict=True))
    assert asked == [12, 12]
