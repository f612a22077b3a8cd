"""Several recipes in one: what holds for each, what each says for itself, and where what is wrong was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import RecipeError
from tunesmith.recipe import diff, dump, load, parse
from tunesmith.recipe.plain_yaml import parse_yaml

STAGED = """
model: m
data: {max_length: 64, validation: null}
optim: {lr: 1e-3}
tuning: {method: lora, rank: 4}
output: runs/x
stages:
- {vocabulary: {tokens: 100}}
- {objective: pretrain, data: {train: [a.txt, b.jsonl]}, tuning: {also_train: [embed_tokens]}, optim: {warmup: 5}}
- {name: chat, data: {train: c.jsonl, max_length: 32}, tuning: full, budget: {steps: 3}}
"""


def staged(**changes: Any) -> dict[str, Any]:
    return {**parse_yaml(STAGED, "t"), **changes}


def problems(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(RecipeError) as error:
        parse(values)
    return {p.where.removeprefix("recipe: "): f"{p.what} | {p.fix}" for p in error.value.problems}


def test_each_stage_is_what_the_top_says_with_its_own_on_top():
    # mutation tried: _merge without _replaces, which leaves lora's rank in `full`
    first, second, third = parse(staged()).stages
    assert [stage.name for stage in (first, second, third)] == ["vocabulary", "pretrain", "chat"]
    assert first.vocabulary.tokens == 100
    assert second.recipe.optim.model_dump(include={"lr", "warmup"}) == {"lr": 1e-3, "warmup": 5}
    assert (second.recipe.tuning.rank, second.recipe.tuning.also_train) == (4, ("embed_tokens",))
    assert third.recipe.tuning.method == "full"
    assert (third.recipe.data.max_length, third.recipe.data.validation) == (32, None)
    assert third.recipe.output == "runs/x/stages/03-chat"


def test_the_whole_speaks_as_its_last_stage():
    read = parse(staged())
    last = read.stages[-1].recipe
    assert (read.tuning, read.data, read.objective) == (last.tuning, last.data, last.objective)
    assert read.output == "runs/x"


def test_a_vocabulary_without_text_learns_from_the_next_stage():
    assert [source.path for source in parse(staged()).stages[0].vocabulary.data] == ["a.txt", "b.jsonl"]


def test_what_is_dumped_is_what_is_loaded(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(parse(staged())), encoding="utf-8")
    assert load(path) == parse(staged())


def test_overrides_reach_a_stage_by_number_and_by_name_and_the_defaults():
    overrides = ["stages.1.optim.lr=5e-4", "stages.chat.tuning.method=lora", "optim.weight_decay=0"]
    read = parse(staged(), overrides=overrides)
    assert [stage.recipe.optim.lr for stage in read.stages[1:]] == [5e-4, 1e-3]
    assert read.stages[2].recipe.tuning.method == "lora"
    assert {stage.recipe.optim.weight_decay for stage in read.stages[1:]} == {0.0}
    with pytest.raises(RecipeError, match=r"stages\.NAME\.key"):
        parse(staged(), overrides=["stages.7.optim.lr=1"])


def test_what_differs_is_named_by_stage():
    other = parse(staged(), overrides=["stages.chat.budget.steps=4"])
    assert [key for key, _, _ in diff(parse(staged()), other)] == ["stages.chat.budget.steps"]


def test_all_problems_of_all_stages_are_told_at_once_where_they_were_written():
    # mutation tried: Part.where always naming the stage
    found = problems(
        staged(
            optim={"lr": -1},
            stages=[
                {"vocabulary": {"tokens": 0}, "data": "x"},
                {"objective": "pretrain", "data": {"train": "a", "max_lenght": 3}, "output": "y"},
                {"tuning": {"method": "lora", "r": 3}, "data": {"train": "b"}, "model": "other"},
            ],
        )
    )
    assert set(found) == {
        "optim.lr",
        "stages.0.vocabulary.tokens",
        "stages.0.data",
        "stages.1.data.max_lenght",
        "stages.1.output",
        "stages.2.tuning.r",
        "stages.2.model",
    }
    assert "did you mean max_length?" in found["stages.1.data.max_lenght"]


@pytest.mark.parametrize(
    ("stages", "where", "word"),
    [
        ("sft", "stages", "list of recipes"),
        ([{"data": "a", "name": "x"}, {"data": "b", "name": "x"}], "stages.1.name", "twice"),
        ([{"data": "a", "name": "../x"}], "stages.0.name", "folder"),
        ([{"vocabulary": {"data": "a"}}], "stages.0.vocabulary", "nothing learns"),
        ([{"objective": "pretrain"}], "stages.0.data.train", "missing"),
        ([{"data": "a", "stages": [1]}], "stages.0.stages", "whole run"),
    ],
)
def test_stages_that_cannot_be_say_why(stages: Any, where: str, word: str):
    values = staged(stages=stages)
    assert word in problems(values)[where]


leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("a.jsonl")
key = st.sampled_from(
    ["name", "data", "model", "vocabulary", "tuning", "objective", "output", "optim", "bad"]
)
stage = st.dictionaries(key, leaf | st.dictionaries(key, leaf, max_size=2), max_size=4)


@given(st.lists(stage, max_size=3) | leaf, st.dictionaries(key, leaf, max_size=3))
def test_any_stages_are_read_or_refused_with_where_what_and_fix(stages: Any, top: dict[str, Any]):
    try:
        parse({**top, "stages": stages})
    except RecipeError as error:
        assert all(p.where and p.what for p in error.problems)  # noqa: PT017
