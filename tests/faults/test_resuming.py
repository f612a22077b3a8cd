"""Row 12 of the fault matrix: what is different at resume, named, with what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.faults.test_signals import model, recipe  # noqa: F401 (a fixture)
from tunesmith import run
from tunesmith.errors import CheckpointError, FolderError, RecipeError
from tunesmith.events import read
from tunesmith.folder import RunFolder, read_json, write_json
from tunesmith.recipe import Recipe, parse
from tunesmith.resuming import LIBRARIES, RECIPE, Change, rule_of


def changed(chosen: Recipe, **values: Any) -> Recipe:
    """The recipe with keys changed; optim={"lr": 1} changes that key alone."""
    document = chosen.model_dump(mode="json")
    for key, value in values.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    return parse(document)


@pytest.fixture
def stopped(model: Path, tmp_path: Path) -> Recipe:  # noqa: F811
    chosen = recipe(model, tmp_path)
    assert run.train(chosen, stop_after=1).status == "interrupted"
    return chosen


def test_every_key_of_a_recipe_has_a_rule() -> None:
    for key, field in Recipe.model_fields.items():
        section: Any = field.annotation
        inner = (
            section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {"": 0}
        )
        for part in inner if key != "stages" else ():
            assert rule_of(f"{key}.{part}".rstrip(".")) is not RECIPE[""], (key, part)
    for name in RECIPE:
        section = Recipe
        for part in filter(None, name.split(".")):
            if part in ("lr", "vocab_size") or not (
                isinstance(section, type) and issubclass(section, BaseModel)
            ):
                break
            assert part in section.model_fields, name
            section = section.model_fields[part].annotation


def test_the_longest_key_decides() -> None:
    assert rule_of("optim.lr").means != rule_of("optim.weight_decay").means
    assert rule_of("evaluation.every").harmless
    assert rule_of("checkpoint.keep").harmless
    assert not rule_of("data.train.0.path").harmless
    assert rule_of("optim.optimizer").never
    assert all(rule.means for rule in [*RECIPE.values(), *LIBRARIES.values()])


def test_harmless_changes_go_on_and_are_told(stopped: Recipe) -> None:
    chosen = changed(stopped, checkpoint={"keep": 5}, evaluation={"every": 1}, rescue={"max_bad_steps": 9})
    assert run.train(chosen, resume=True).status == "done"
    told = [e for e in read(RunFolder(Path(stopped.output)).events) if e["kind"] == "rescued"]
    assert {e["reason"].split()[0] for e in told} == {
        "checkpoint.keep", "evaluation.every", "rescue.max_bad_steps",
    }  # fmt: skip


def test_other_changes_are_refused_together_with_what_they_mean_and_go_on_when_meant(stopped: Recipe) -> None:
    chosen = changed(stopped, optim={"lr": 5e-3, "weight_decay": 0.0}, seed=4)
    with pytest.raises(RecipeError) as error:
        run.train(chosen, resume=True)
    assert {problem.where for problem in error.value.problems} == {"optim.lr", "optim.weight_decay", "seed"}
    assert all("--resume-anyway" in problem.fix for problem in error.value.problems)
    assert "some that were learnt come again" in str(error.value)
    assert run.train(chosen, anyway=True).status == "done"


def test_moments_of_another_optimiser_cannot_be_taken_over_even_when_meant(stopped: Recipe) -> None:
    with pytest.raises(RecipeError, match="cannot be taken over"):
        run.train(changed(stopped, optim={"optimizer": "adamw_8bit"}), anyway=True)


@pytest.mark.parametrize(("name", "harmless"), [("torch", False), ("threads", True), ("peft", False)])
def test_another_library_is_named(name: str, harmless: bool, stopped: Recipe) -> None:
    folder = RunFolder(Path(stopped.output))
    write_json(folder.environment, {**read_json(folder.environment), name: "0.1"})
    if not harmless:
        with pytest.raises(CheckpointError, match=f"{name}: was '0.1'"):
            run.train(stopped, resume=True)
    assert run.train(stopped, resume=True, anyway=not harmless).status == "done"
    assert any(e["reason"].startswith(name) for e in read(folder.events) if e["kind"] == "rescued")


def test_another_model_under_the_same_name_is_named(stopped: Recipe) -> None:
    path = Path(str(stopped.model.path)) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    try:
        with pytest.raises(CheckpointError, match="learnt on another model"):
            run.train(stopped, resume=True)
    finally:
        content[-1] ^= 1
        path.write_bytes(bytes(content))


def test_other_tasks_are_measured_on_the_base_too(stopped: Recipe, tmp_path: Path) -> None:
    task = {"name": "say", "kind": "loss", "path": str(tmp_path / "rows.jsonl")}
    outcome = run.train(changed(stopped, evaluation={"tasks": [task]}), resume=True)
    report = read_json(Path(outcome.report))
    assert list(report["before"]["tasks"]) == list(report["after"]["tasks"]) == ["say"]


def test_a_finished_run_goes_on_when_more_is_asked_for(stopped: Recipe) -> None:
    assert run.train(stopped, resume=True).steps == 3
    longer = changed(stopped, budget={"steps": 5})
    with pytest.raises(RecipeError, match=r"budget"):
        run.train(longer, resume=True)
    outcome = run.train(longer, anyway=True)
    assert (outcome.status, outcome.steps) == ("done", 5)
    assert read_json(Path(outcome.report))["training"]["steps"] == 5


def test_what_auto_became_holds_to_the_end(stopped: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another amount of free memory would choose another micro-batch today."""
    folder = RunFolder(Path(stopped.output))
    write_json(folder.plan, {**read_json(folder.plan), "micro_tokens": 77})
    run.train(stopped, resume=True)
    assert read_json(folder.plan)["micro_tokens"] == 77


@pytest.mark.parametrize("file", ["environment", "report"])
def test_a_damaged_file_of_the_run_is_named(file: str, stopped: Recipe) -> None:
    path = getattr(RunFolder(Path(stopped.output)), file)
    path.write_text('{"half": ', encoding="utf-8")
    with pytest.raises(FolderError) as error:
        run.train(stopped, resume=True)
    assert error.value.problems[0].where == str(path)


def test_a_change_says_was_is_and_means() -> None:
    change = Change("optim.lr", 1e-3, 2e-3, rule_of("optim.lr"))
    assert json.dumps(change.what).startswith(
        '"was 0.001 when the run began, is 0.002 now: the steps to come'
    )
