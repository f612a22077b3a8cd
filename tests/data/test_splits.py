"""Which rows are equal: keys tell apart whatever differs, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.records import Chat, Message
from tunesmith.data.splits import row_keys


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
