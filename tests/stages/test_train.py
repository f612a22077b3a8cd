"""Stages in one run folder, on a tiny model: what is handed over, what is measured once, and any kill in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.errors import FolderError, RecipeError
from tunesmith.events import read
from tunesmith.folder import RunFolder, read_json
from tunesmith.recipe import Recipe, dump, parse


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def values(base: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Documents with dialogues mixed in, then dialogues alone."""
    folder.mkdir(exist_ok=True)
    text, rows = folder / "text.txt", write_rows(folder / "rows.jsonl", 12)
    text.write_text("\n\n".join(f"page {n}: one two three four" for n in range(9)), encoding="utf-8")
    task = {"name": "say", "kind": "generate", "path": str(rows), "max_new_tokens": 4, "limit": 3}
    return {
        "model": str(base),
        "data": {"max_length": 64, "validation": 3},
        "optim": {"lr": 1e-2, "batch_tokens": 128},
        "tuning": {"method": "lora", "rank": 4},
        "compute": {"precision": "fp32"},
        "evaluation": {"tasks": [task], "probes": ["say 1"], "every": 3},
        "output": str(folder / "run"),
        "stages": [
            {"objective": "pretrain", "data": {"train": [str(text), str(rows)]}, "budget": {"steps": 4}},
            {"name": "chat", "data": {"train": str(rows)}, "budget": {"steps": 3}},
        ],
        **changes,
    }


def recipe(base: Path, folder: Path, **changes: Any) -> Recipe:
    return parse(values(base, folder, **changes))


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An undisturbed run."""
    outcome = run.train(recipe(model, tmp_path_factory.mktemp("whole")))
    assert (outcome.status, outcome.steps) == ("done", 7)
    return RunFolder(Path(outcome.run))


def adapter_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.last.adapter / "adapter_model.safetensors")


def same(one: RunFolder, other: RunFolder) -> bool:
    a, b = adapter_of(one), adapter_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_stage_starts_from_the_one_before(whole: RunFolder):
    first, second = whole.stages
    untrained = read_json(whole.report)["before"]["heldout"]["loss_nats"]
    assert read_json(second.report)["before"]["heldout"]["loss_nats"] < untrained - 0.1
    assert (first.export("merged") / "certificate.json").is_file()
    assert read_json(second.report)["before"]["tasks"] == read_json(first.report)["after"]["tasks"]


def test_the_report_is_of_the_whole(whole: RunFolder):
    report = read_json(whole.report)
    first, second = (read_json(stage.report) for stage in whole.stages)
    assert (report["status"], report["training"]["steps"]) == ("done", 7)
    assert report["before"]["tasks"] == first["before"]["tasks"]
    assert report["after"] == second["after"]
    assert report["heldout_change"]["n"] == 3  # the last stage's rows, both times
    assert report["before"]["heldout"]["targets"] == report["after"]["heldout"]["targets"]
    assert set(report["forgetting"]) == {"say"}
    assert [stage["name"] for stage in report["stages"]] == ["pretrain", "chat"]
    assert report["ledger"]["tokens"]["targets"] == sum(
        r["ledger"]["tokens"]["targets"] for r in (first, second)
    )
    assert "## The stages" in whole.report_text.read_text(encoding="utf-8")


def test_events_count_through_all_stages(whole: RunFolder):
    happened = list(read(whole.events))
    assert [e["step"] for e in happened if e["kind"] == "stepped"] == [1, 2, 3, 4, 5, 6, 7]
    assert [e["stage"] for e in happened if e["kind"] == "started"] == ["pretrain", "chat"]
    assert {e["steps"] for e in happened if e["kind"] == "started"} == {7}
    assert [e["kind"] for e in happened].count("finished") == 1


def test_a_message_mixed_into_pretraining_counts_with_every_token(whole: RunFolder):
    sources = read_json(whole.stages[0].ledger)["sources"]
    assert [source["format"] for source in sources] == ["text", "prompt_response"]
    splits = read_json(whole.stages[0].ledger)["splits"]["train"]
    assert splits["targets"] == splits["tokens"] - splits["samples"] + splits["samples"]


def test_what_was_measured_is_not_measured_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tunesmith.evaluation import evaluate

    scored: list[str] = []
    score = evaluate._Bench.score
    monkeypatch.setattr(
        evaluate._Bench,
        "score",
        lambda self, task, items: scored.append(task.name) or score(self, task, items),
    )
    done = run.train(recipe(model, tmp_path / "a"))
    assert len(scored) == 3  # before the first, after each
    lines = (RunFolder(Path(done.run)).stages[1].answers / "before.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line).get("task", "probe") for line in lines.splitlines()] == ["say"] * 3 + ["probe"]


def test_the_whole_is_a_run_like_any_other(model: Path, whole: RunFolder):
    from tunesmith.app import runs

    opened = run.open_model(whole.path)
    assert opened.recipe is not None
    assert opened.recipe.objective == "sft"
    found = run.evaluate(whole.path)
    assert (
        found["results"]["tasks"]["say"]["value"] == read_json(whole.report)["after"]["tasks"]["say"]["value"]
    )
    done = run.export(whole.path, "merged")
    assert Path(done["folder"]) == whole.export("merged")
    assert done["certificate"]["passed"] is True
    shown = runs.show_run(str(whole.path))
    assert (shown["status"], shown["step"], shown["steps"]) == ("done", 7, 7)
    assert runs.compare_runs(str(whole.stages[0].path), str(whole.path))["scores"]


def test_a_run_in_stages_can_be_moved_and_is_the_base_of_another(model: Path, tmp_path: Path):
    chosen = recipe(model, tmp_path / "a")
    run.train(chosen)
    moved = tmp_path / "elsewhere"
    shutil.move(str(tmp_path / "a" / "run"), moved)
    run.open_model(moved)
    (tmp_path / "b").mkdir()
    rows = write_rows(tmp_path / "b" / "rows.jsonl")
    next_one = {"model": str(moved), "data": {"train": str(rows), "validation": None, "max_length": 64}}
    more = parse({**next_one, "budget": {"steps": 1}, "output": str(tmp_path / "b" / "run")})
    assert run.train(more).status == "done"


@pytest.mark.parametrize("steps", [2, 4, 5])
def test_stopping_anywhere_and_resuming_ends_with_the_same_bits(model, whole, tmp_path, steps: int):
    chosen = recipe(model, tmp_path / "a")
    first = run.train(chosen, stop_after=steps)
    folder = RunFolder(Path(first.run))
    assert (first.status, first.steps) == ("interrupted", steps)
    assert read_json(folder.report)["status"] == "interrupted"
    if steps == 2:
        with pytest.raises(FolderError, match="--resume"):
            run.open_model(first.run)
    assert run.train(chosen, resume=True).status == "done"
    assert same(folder, whole)
    assert [e["step"] for e in read(folder.events) if e["kind"] == "stepped"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["step:3:kill", "stage:1:kill", "hand_over:1:kill", "step:6:kill", "save_rename:4:kill", "stage:2:kill"],
)
def test_a_kill_anywhere_loses_nothing(model, whole, tmp_path, fault: str):
    folder = tmp_path / "a"
    folder.mkdir()
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe(model, folder)), encoding="utf-8")
    words = [sys.executable, "-m", "tunesmith", "train", str(path)]
    killed = subprocess.run(words, env={**os.environ, "TUNESMITH_FAULT": fault}, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    done = subprocess.run([*words, "--resume", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 7
    assert same(RunFolder(folder / "run"), whole)


def test_a_hand_over_that_was_torn_is_made_again(model, whole, tmp_path):
    chosen = recipe(model, tmp_path / "a")
    run.train(chosen, stop_after=4)
    first = RunFolder(Path(chosen.output)).stages[0]
    torn = first.path / "exports" / ".merged.staging"
    torn.mkdir(parents=True)
    (torn / "config.json").write_text("{")
    (first.path.parent / "02-chat").mkdir()  # made, but nothing is in it yet
    run.train(chosen, resume=True)
    assert same(RunFolder(Path(chosen.output)), whole)


def test_a_changed_stage_is_named_at_resume(model, tmp_path):
    run.train(recipe(model, tmp_path / "a"), stop_after=2)
    changed = parse(values(model, tmp_path / "a"), overrides=["stages.chat.budget.steps=5"])
    with pytest.raises(RecipeError, match=r"stages\.chat\.budget\.steps"):
        run.train(changed, resume=True)


def test_a_stage_that_cannot_be_handed_over_is_refused_before_anything_trains(model, tmp_path):
    prompts = parse(
        values(model, tmp_path / "a"), overrides=["stages.pretrain.tuning={method: prompt, length: 4}"]
    )
    with pytest.raises(RecipeError, match="stage pretrain: "):
        run.train(prompts)
    assert not Path(prompts.output).exists()


def test_the_plan_is_of_each_stage_and_of_the_whole(model, whole, tmp_path):
    found = run.plan(recipe(model, tmp_path / "a"))
    plans = {stage["name"]: stage["plan"] for stage in found["stages"]}
    assert found["run"]["steps"] == 7 == sum(plan["run"]["steps"] for plan in plans.values())
    for stage, folder in zip(plans.values(), whole.stages):
        assert stage["run"] == read_json(folder.plan)["run"] | {"seconds": stage["run"]["seconds"]}
    assert not Path(tmp_path / "a" / "run").exists()


def test_whole_stages_and_new_models_are_handed_over_as_they_are(model, tmp_path):
    shape = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 128,
    }  # fmt: skip
    given = values(model, tmp_path / "a", model={"from_config": shape, "tokenizer": str(model)})
    given["stages"][0]["tuning"] = "full"
    outcome = run.train(parse(given))
    first = RunFolder(Path(outcome.run)).stages[0]
    assert outcome.status == "done"
    assert first.handed_over == first.model
