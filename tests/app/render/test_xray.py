"""The label X-ray as a person sees it."""

from __future__ import annotations

import io
from typing import Any

from tunesmith.app.render import base, xray

from .test_base import printed

SAMPLE: dict[str, Any] = {
    "address": "a.jsonl:1",
    "ids": [1, 2, 3, 4, 5],
    "pieces": ["<user>", "2+2=\n", "4", "<stop>", "\n"],
    "learnt": [False, False, True, True, False],
    "cut": [{"turn": 0, "behind": False, "ids": [7, 8], "pieces": ["old", " turn"]}],
}
DOCUMENT = {"samples": [SAMPLE], "template": {"name": "chatml", "source": ""}}


# mutation tried: `not learnt` in stretches
def test_learnt_and_cut_text_stand_in_brackets_without_colour() -> None:
    out = printed(xray.page(DOCUMENT))
    assert "⟦4<stop>⟧" in out
    assert "⟪old turn⟫" in out
    assert "<user>2+2=⏎\n" in out
    assert "5 tokens: 2 learnt, 3 given, 2 cut" in out
    assert "chatml" in out


def test_what_was_cut_stands_where_it_stood() -> None:
    tail = {"turn": 1, "behind": True, "ids": [9], "pieces": ["<end>"]}
    out = printed(xray.Xray({**SAMPLE, "cut": [*SAMPLE["cut"], tail]}))
    assert out.index("⟪old turn⟫") < out.index("<user>") < out.index("⟪<end>⟫")


def test_in_a_terminal_colour_says_it() -> None:
    file = io.StringIO()
    screen = base.Console(file=file, theme=base.THEME, force_terminal=True, color_system="standard", width=80)
    screen.print(xray.Xray(SAMPLE))
    out = file.getvalue()
    assert "⟦" not in out
    assert "\x1b[1;32m4<stop>" in out


def test_neighbours_of_one_kind_are_one_stretch() -> None:
    assert xray.stretches(SAMPLE) == [("given", "<user>2+2=\n"), ("learnt", "4<stop>"), ("given", "\n")]


# mutation tried: the weight of the token before compared alone, so that it is said once for each token
def test_a_weight_other_than_one_stands_before_what_it_weighs() -> None:
    sample = {**SAMPLE, "learnt": [False, True, True, True, False], "weights": [0.0, 1.0, 0.5, 0.5, 0.0]}
    assert xray.stretches(sample) == [
        ("given", "<user>"), ("learnt", "2+2=\n"), ("weight", "×0.5"), ("learnt", "4<stop>"), ("given", "\n"),
    ]  # fmt: skip
    assert "×0.5⟦4<stop>⟧" in printed(xray.Xray(sample))


def test_a_hostile_row_cannot_steer_the_terminal() -> None:
    sample = {**SAMPLE, "pieces": ["<user>", "\x1b[2J", "\x07", "<stop>", "\n"], "address": "\x1b.jsonl:1"}
    assert "\x1b" not in printed(xray.Xray(sample))
    assert "\x07" not in printed(xray.Xray(sample))


def test_a_row_that_is_not_learnt_says_why() -> None:
    dropped = [{"address": "a.jsonl:2", "reason": "empty_answer", "detail": ""}]
    assert "a.jsonl:2  not learnt, empty answer" in printed(xray.page({**DOCUMENT, "dropped": dropped}))


def test_no_rows_are_said() -> None:
    assert "no rows" in printed(xray.page({**DOCUMENT, "samples": []}))
