"""Editing a recipe's text: the keys change, everything else stays as its author wrote it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunesmith.errors import FolderError, RecipeError
from tunesmith.recipe import edit, load, parse
from tunesmith.recipe.edit import require_free, with_changes
from tunesmith.recipe.plain_yaml import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = """# my first
model: some/model   # a good one
data:
  train:
    - {path: rows.jsonl}  # mine
  max_length: 512
optim: {lr: 2e-4, batch_tokens: 4096}  # ours
"""


# mutation tried: always dump(wanted)
def test_only_the_changed_values_differ() -> None:
    edited = with_changes(TEXT, {"data.max_length": 1024, "optim.warmup": 0.05})
    assert edited.comments_kept
    wanted = TEXT.replace("512", "1024").replace("4096}", "4096, warmup: 0.05}")
    assert re.sub(" +#", " #", edited.text) == re.sub(" +#", " #", wanted)
    assert edited.recipe.optim.warmup == 0.05


def test_a_list_flush_with_its_key_stays_flush() -> None:
    text = TEXT.replace("    - {path", "  - {path")
    assert with_changes(text, {"seed": 3}).text == text + "seed: 3\n"


@pytest.mark.parametrize("change", [{"tuning.method": "qlora"}, {"budget.steps": 7}, {"model.dtype": "fp32"}])
def test_a_change_means_what_the_override_means(change: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT + "tuning: {method: lora, rank: 8}\nbudget: {epochs: 2}\n")
    ((key, value),) = change.items()
    edited = with_changes(file.read_text(), change)
    assert edited.comments_kept
    assert edited.recipe == load(file, [f"{key}={value}"])
    file.write_text(edited.text)
    assert load(file) == edited.recipe


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_with_us_keep_their_comments(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    edited = with_changes(before, {"data.validation": 77, "optim.warmup": 0.07})
    assert edited.comments_kept
    assert before.count("#") == edited.text.count("#")
    assert edited.recipe.data.validation == 77


def test_what_cannot_be_edited_is_spelt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_editor(text: str, changes: object) -> str:
        raise ValueError("too clever a text")

    monkeypatch.setattr(edit, "_in_place", no_editor)
    edited = with_changes(TEXT, {"tuning.rank": 4})
    assert not edited.comments_kept
    assert parse(parse_yaml(edited.text, "r")) == edited.recipe


def test_a_change_that_makes_no_recipe_is_refused() -> None:
    with pytest.raises(RecipeError, match="max_lenght"):
        with_changes(TEXT, {"data.max_lenght": 3})


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="exists"):
        require_free(tmp_path, "--out")


def test_a_method_left_to_its_default_can_have_its_keys_changed(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    assert load(file, ["tuning.rank=4"]).tuning.rank == 4  # type: ignore[union-attr]
