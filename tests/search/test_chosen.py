"""One stage of several, searched by itself: its own keys, from what the stage before handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.errors import RecipeError
from tunesmith.recipe import load
from tunesmith.search.advised import take_advice
from tunesmith.search.chosen import choose_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> str:
    rows = str(write_rows(tmp_path / "rows.jsonl", 60))
    values: dict[str, Any] = {
        "model": str(model),
        "data": {"max_length": 96, "train": rows},
        "tuning": {"method": "lora", "rank": 4},
        "compute": {"precision": "fp32"},
        "output": str(tmp_path / "run"),
        "stages": [
            {"name": "texts", "objective": "pretrain", "budget": {"steps": 2}},
            {"name": "answers", "optim": {"lr": 3e-4, "batch_tokens": 64}, "data": {"packing": False}},
        ],
    }
    file = tmp_path / "r.yaml"
    file.write_text("# ours\n" + yaml.safe_dump(values, sort_keys=False))
    return str(file)


def test_a_stage_has_its_own_keys_and_the_base_until_the_one_before_is_trained(
    recipe: str, model: Path, tmp_path: Path
) -> None:
    chosen = choose_recipe(f"{recipe}#answers", "sweep")
    alone = chosen.read(["tuning.rank=8"])
    assert (alone.optim.lr, alone.tuning.rank, alone.stages) == (3e-4, 8, ())  # type: ignore[union-attr]
    assert alone.model.path == str(model)
    assert alone.output == str(tmp_path / "run-answers")
    assert chosen.note is not None
    assert "not trained yet" in chosen.note
    assert choose_recipe(f"{recipe}#texts", "sweep").note is None


# mutation tried: the base always
def test_a_stage_starts_from_what_was_handed_over(recipe: str, tmp_path: Path) -> None:
    run.train(load(recipe), stop_after=4)
    chosen = choose_recipe(f"{recipe}#answers", "lr-find")
    assert chosen.note is None
    before = str(chosen.read([]).model.path)
    assert before.startswith(str(tmp_path / "run" / "stages" / "01-texts"))


def test_a_stage_behind_words_that_are_not_made_is_refused(recipe: str) -> None:
    values = yaml.safe_load(Path(recipe).read_text())
    values["stages"].insert(
        0, {"name": "words", "vocabulary": {"data": values["data"]["train"], "tokens": 8}}
    )
    Path(recipe).write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match="reads the words of stage words"):
        choose_recipe(f"{recipe}#answers", "lr-find")


# mutation tried: the stages' advice left out
def test_advice_is_taken_stage_by_stage_and_comments_stay(recipe: str) -> None:
    found = take_advice(Path(recipe).read_text(), recipe)
    changed = {change.key: change for change in found.changes}
    assert changed["stages.answers.data.packing"].value is True
    assert changed["stages.answers.data.packing"].old is False
    assert "# ours" in found.text
    assert [advice for advice in found.plan["advice"] if advice["change"]] == []
