"""What the words after a verb mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.app.targets import probes_of, recipe_of, tasks_of
from tunesmith.errors import RecipeError

from .test_runs import make_run

RECIPE = """
model: some/model
data: {train: rows.jsonl}
evaluation:
  tasks: [{name: sums, kind: generate, path: sums.jsonl}, {name: law, kind: choice, path: law.csv}]
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Path("rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')


def test_a_recipe_is_read() -> None:
    assert recipe_of("recipe.yaml", None, model_needed=True).model.path == "some/model"


def test_model_replaces_the_recipes_own() -> None:
    assert recipe_of("recipe.yaml", "other", model_needed=True).model.path == "other"


def test_a_run_gives_its_recipe(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert recipe_of("run", None, model_needed=True).tuning.method == "lora"


def test_data_with_a_model_is_a_recipe_without_validation() -> None:
    made = recipe_of("rows.jsonl", "some/model", model_needed=True)
    assert [source.path for source in made.data.train] == ["rows.jsonl"]
    assert made.data.validation is None


def test_data_without_a_model_says_which_word_is_missing() -> None:
    with pytest.raises(RecipeError, match="--model"):
        recipe_of("rows.jsonl", None, model_needed=True)
    assert recipe_of("rows.jsonl", None, model_needed=False).data.train


def test_no_tasks_means_the_runs_own() -> None:
    assert tasks_of([], "some/model") is None


def test_tasks_are_names_files_or_recipes(tmp_path: Path) -> None:
    Path("law.csv").write_text("Question,A,B,Answer\nq,x,y,A\n")
    Path("sums.jsonl").write_text('{"question": "1+1", "options": ["1", "2"], "answer": 1}\n')
    Path("open.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    found = tasks_of(["law.csv,sums.jsonl", "open.jsonl"], "some/model")
    assert found is not None
    assert [(task.name, task.kind) for task in found] == [
        ("law", "choice"),
        ("sums", "choice"),
        ("open", "generate"),
    ]
    from_recipe = tasks_of(["recipe.yaml"], "some/model")
    assert from_recipe is not None
    assert [task.name for task in from_recipe] == ["sums", "law"]


def test_unknown_tasks_are_all_named_together() -> None:
    with pytest.raises(RecipeError) as caught:
        tasks_of(["nothing,neither.jsonl"], "some/model")
    assert len(caught.value.problems) == 2


def test_a_file_name_becomes_a_task_name() -> None:
    Path("医学 test.csv").write_text("Question,A,B,Answer\n")
    found = tasks_of(["医学 test.csv"], "some/model")
    assert found is not None
    assert found[0].name == "task___test"


def test_probes_named_on_the_command_line_are_a_file(tmp_path: Path) -> None:
    assert probes_of(None) is None
    (tmp_path / "p.yaml").write_text("- Who are you?\n")
    assert probes_of(str(tmp_path / "p.yaml")) == ("Who are you?",)
    with pytest.raises(RecipeError, match="give a list of questions, or the path"):
        probes_of("Who are you?")


def test_a_stage_is_named_behind_its_recipe(tmp_path: Path) -> None:
    # mutation tried: the name ignored
    file = tmp_path / "r.yaml"
    file.write_text(
        "model: m\nstages:\n- {objective: pretrain, data: {train: a.txt}}\n- {data: {train: b.jsonl}}\n"
    )
    of = {name: recipe_of(f"{file}{name}", None, model_needed=True) for name in ("", "#pretrain", "#sft")}
    assert [found.data.train[0].path for found in of.values()] == ["b.jsonl", "a.txt", "b.jsonl"]
    with pytest.raises(RecipeError, match=r"r\.yaml#pretrain, .*r\.yaml#sft"):
        recipe_of(f"{file}#dpo", None, model_needed=True)
