"""Sizes that keep the code readable: beauty is in the tail, so the tail is what is limited."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tunesmith"
LINES_A_FUNCTION = 50
LINES_A_FILE = 400
FIELDS_A_SECTION = 12

# Each exception needs a reason that will still convince in a year.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
WIDE_SECTIONS = {
    "Lora": "5 of its 13 keys are those that every method takes",
    "AdaLora": "5 of its 13 keys are those that every method takes",
    "Recipe": "its 14 keys are the contract's top level, one a part of the house",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function as FILE:NAME with its number of lines, nested ones included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(SOURCE)}:{node.name}", node.end_lineno - node.lineno + 1


# mutation tried: LINES_A_FUNCTION = 30 names a dozen functions
@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_function_fits_a_screen(path: Path) -> None:
    long = {name: lines for name, lines in functions(path) if lines > LINES_A_FUNCTION}
    assert {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS} == {}


def test_a_file_holds_one_idea() -> None:
    lines = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules()
    }
    assert {n: count for n, count in lines.items() if count > LINES_A_FILE and n not in LONG_FILES} == {}


def test_a_section_of_the_recipe_has_few_fields() -> None:
    from tunesmith import recipe

    sections = [
        value
        for value in vars(recipe).values()
        if isinstance(value, type) and issubclass(value, recipe.Section)
    ]
    wide = {s.__name__: len(set(s.model_fields) - {"method"}) for s in sections}
    wide = {name: count for name, count in wide.items() if count > FIELDS_A_SECTION}
    assert {name: count for name, count in wide.items() if name not in WIDE_SECTIONS} == {}


def test_no_exception_has_outlived_its_need() -> None:
    from tunesmith import recipe

    assert {n for n in LONG_FILES if len((SOURCE / n).read_text().splitlines()) <= LINES_A_FILE} == set()
    sizes = {name: lines for path in modules() for name, lines in functions(path)}
    assert {name for name in LONG_FUNCTIONS if sizes.get(name, 0) <= LINES_A_FUNCTION} == set()
    fields = {name: len(getattr(recipe, name).model_fields) for name in WIDE_SECTIONS}
    assert {name for name, count in fields.items() if count <= FIELDS_A_SECTION} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
