"""Who is held out: equal rows never part, text gives its end, the same seed gives the same rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import to_record
from tunesmith.data.records import Chat, Message, Text
from tunesmith.data.splits import Rows, assign, row_keys
from tunesmith.errors import DataError


def single(word: str) -> tuple[bytes, ...]:
    return row_keys(Chat((Message("user", word), Message("assistant", "yes"))))


def chats(*words: str) -> Rows:
    return Rows([single(word) for word in words], is_text=False)


def texts(*words: str) -> Rows:
    return Rows([row_keys(Text(word)) for word in words], is_text=True)


def numbered(count: int) -> Rows:
    return chats(*map(str, range(count)))


@pytest.mark.parametrize(("part", "expected"), [(0.05, 10), (7, 7), (0.001, 1), (None, 0)])
def test_share_and_count_hold_out_as_many_as_asked(part: float | int | None, expected: int) -> None:
    (sides,) = assign([numbered(200)], part, None, seed=0)
    assert sides.count("validation") == expected
    assert sides.count("train") == 200 - expected


# mutation tried: sides drawn by row number instead of content
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
    rows = [Rows([single(str(n)) for n in numbers], text) for numbers, text in zip(sources, is_text)]
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


# mutation tried: order drawn for text too
def test_text_gives_its_last_block() -> None:
    (sides,) = assign([texts(*"abcdefghij")], 0.2, None, seed=3)
    assert sides == ["train"] * 8 + ["validation"] * 2
    (both,) = assign([texts(*"abcdefghij")], 0.2, 3, seed=3)
    assert both == ["train"] * 5 + ["validation"] * 2 + ["test"] * 3


def test_a_repeated_document_at_the_end_stays_with_its_first() -> None:
    (sides,) = assign([texts("a", "b", "c", "d", "***", "e", "***", "f")], 2, None, seed=0)
    assert sides == ["train"] * 5 + ["validation", "train", "validation"]


# mutation tried: roots = the whole row's key
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
    (sides,) = assign([Rows(rows, is_text=False)], 0.2, None, seed=1)
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


def test_roles_and_borders_count_in_a_key() -> None:
    one = row_keys(Chat((Message("user", "ab"), Message("assistant", "c"))))
    two = row_keys(Chat((Message("user", "a"), Message("assistant", "bc"))))
    three = row_keys(Chat((Message("system", "ab"), Message("assistant", "c"))))
    four = row_keys(Chat((Message("user", "ab"), Message("assistant", "", "c"))))
    five = row_keys(Chat((Message("user", "ab"), Message("assistant", "c", ""))))
    assert len({one, two, three, four, five}) == 5
    # mutation tried: _spell() without the sizes
    rounds = [
        Message("user", "q"),
        Message("assistant", "a"),
        Message("user", "r"),
        Message("assistant", "b"),
    ]
    joined = Chat((Message("user", "q"), Message("assistant", "auser rassistant b")))
    spaced = Chat((Message("user", "q"), Message("assistant", "auser  r" + "assistant  b")))
    assert row_keys(Chat(tuple(rounds)))[-1] not in (row_keys(joined)[-1], row_keys(spaced)[-1])


@given(texts=st.lists(st.text(alphabet="a1 :\n", max_size=4), min_size=4, max_size=4), cut=st.integers(0, 4))
def test_only_equal_rows_have_equal_keys(texts: list[str], cut: int) -> None:
    def keys(one: str, two: str, three: str, four: str) -> tuple[bytes, ...]:
        rounds = [Message("user", one), Message("assistant", two), Message("user", three)]
        return row_keys(Chat((*rounds, Message("assistant", four))))

    moved = "".join(texts)
    others = [moved[:cut], moved[cut:], "", ""]
    assert (keys(*texts) == keys(*others)) == (texts == others)
