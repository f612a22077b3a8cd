"""Numbers, text from outside, and tables."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.app.render import base


def printed(what: object, width: int = 80) -> str:
    """What a terminal of this width would show, without colour."""
    file = io.StringIO()
    screen = base.console(file)
    screen.width = width
    screen.print(what)
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 * 2**20, "200 MiB"),
        (2**40 * 3, "3.0 TiB"),
    ],
)
def test_bytes_have_units(value: float | None, words: str) -> None:
    assert base.size(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min"),
        (200000, "2 d 7 h"), (math.nan, "–"), (None, "–"),
    ],
)  # fmt: skip
def test_durations_read_like_speech(seconds: float | None, words: str) -> None:
    assert base.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(999, "999"), (9999, "9,999"), (12345, "12.3 k"), (3145728, "3.15 M"), (7e9, "7 B")]
)
def test_large_counts_are_short(value: int, words: str) -> None:
    assert base.short_count(value) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows.jsonl:3", "rows.jsonl:3"),
        ("/home/me/project/data/rows.jsonl:3", "…/data/rows.jsonl:3"),
        (
            "/a/a-file-name-that-is-too-long-by-itself.jsonl:3",
            "…/a-file-name-that-is-too-long-by-itself.jsonl:3",
        ),
    ],
)
def test_addresses_lose_folders_never_the_file(text: str, words: str) -> None:
    assert base.address(text, 22) == words


def test_long_names_lose_their_middle() -> None:
    assert base.short("reading /a/very/long/way/to/rows.jsonl", 24) == "reading …y/to/rows.jsonl"
    assert len(base.short("x" * 99, 24)) == 24


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "0.500"), (0.0, "0.000"), (0.00012345, "0.000123"), (21979.74, "21,980")]
)
def test_numbers_have_as_many_digits_as_they_need(value: float, words: str) -> None:
    assert base.number(value) == words


def test_numbers_that_are_not_finite_are_a_dash() -> None:
    assert base.number(math.nan) == base.number(None) == base.signed(math.inf) == "–"


# mutation tried: printing text as it is lets \x1b through
@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "L"])))
def test_no_text_from_a_file_can_steer_the_terminal(text: str) -> None:
    shown = base.visible(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert not any(char in shown for char in "\u202a\u202e\u2066")
    shown.encode()  # and it can be written


def test_markup_in_text_is_shown_not_obeyed() -> None:
    assert printed(base.mark("bad", "[red]x[/red] :smile:")) == "✗ [red]x[/red] :smile:\n"


@given(st.lists(st.floats(), max_size=50), st.integers(0, 20))
def test_a_sparkline_is_never_too_wide(values: list[float], width: int) -> None:
    assert len(base.sparkline(values, width)) <= width


def test_a_sparkline_falls_with_the_loss() -> None:
    assert base.sparkline([3.0, 2.0, 1.0], 3) == "█▅▁"


def test_a_small_part_still_shows_in_a_bar() -> None:
    assert base.bar(1, 10**9, 20) == "▏"
    assert base.bar(5, 5, 20) == "█" * 20
    assert base.bar(0, 5, 20) == ""


def test_tables_keep_to_the_width() -> None:
    out = printed(base.table(["a", "b"], [["x" * 60, "y" * 60]]), width=80)
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("x") == 60
    assert out.count("y") == 60
