"""The page of faults says what is tested: every test it names exists, in both languages the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def named(page: str) -> list[tuple[str, str]]:
    return TEST.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["faults.md", "faults.zh-CN.md"])
def test_every_test_that_the_page_names_exists(page: str) -> None:
    assert len(named(page)) > 30
    for file, name in named(page):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), (file, name)


def test_both_languages_name_the_same_tests_in_the_same_order() -> None:
    assert named("faults.md") == named("faults.zh-CN.md")


def test_every_fault_test_is_on_the_page() -> None:
    listed = {file for file, _ in named("faults.md")}
    own = ("disk", "bad_steps", "memory", "signals", "kills", "resuming", "poison", "same_bits")
    assert {f"tests/faults/test_{name}.py" for name in own} <= listed


@pytest.mark.parametrize("page", ["faults.md", "faults.zh-CN.md"])
def test_every_row_of_the_matrix_is_on_the_page(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    told: set[int] = set()
    for cell in re.findall(r"^\| ([\d, -]+) \|", text, re.M):
        for part in filter(None, cell.replace(" ", "").split(",")):
            first, _, last = part.partition("-")
            if first:
                told |= set(range(int(first), int(last or first) + 1))
    assert told == set(range(1, 67))
