"""Taking advice: until none with a change is left; the user's comments stay, no file of theirs is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.app import cli
from tunesmith.errors import RecipeError
from tunesmith.recipe import parse
from tunesmith.search.advised import own_changes, take_advice


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def text(model: Path, tmp_path: Path) -> Callable[[str], str]:
    rows = write_rows(tmp_path / "rows.jsonl", 120)

    def made(rest: str, data: str = "max_length: 128") -> str:
        head = f"# mine\nmodel: {model}\ndata:\n  train: {rows}  # the rows\n  {data}\n"
        return f"{head}output: {tmp_path / 'run'}\n{rest}"

    return made


BAD = {
    "several at once": (
        "optim: {warmup: 90, grad_clip: null, lr: 1e-9}\nbudget: {steps: 100}\n",
        "packing: false",
    ),
    "few steps, long warm-up": ("optim: {batch_tokens: 100000, warmup: 50}\n", "max_length: 128"),
    "cut short": ("", "max_length: 33"),
    "a rank as wide as the layers": ("tuning: {method: lora, rank: 64}\n", "max_length: 128"),
    "no validation, full": ("tuning: {method: full}\noptim: {weight_decay: 0}\n", "validation: null"),
    "beyond its positions": ("", "max_length: 4096"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_result_hears_no_advice_with_a_change(name: str, text: Callable[..., str]) -> None:
    found = take_advice(text(*BAD[name]), "r")
    assert found.changes
    assert [advice["rule"] for advice in found.plan["advice"] if advice["change"]] == []
    again = run.plan_on(parse(yaml.safe_load(found.text)))
    assert again["advice"] == found.plan["advice"]
    assert found.comments_kept
    assert "# mine" in found.text
    assert "# the rows" in found.text
    for change in found.changes:
        assert f"{change.key}: " in found.text
        assert change.rule in found.text


def test_a_recipe_without_fault_is_left_as_it_is(text: Callable[..., str]) -> None:
    own = text("optim: {batch_tokens: 64}\ntuning: {method: lora, rank: 4}\n")
    found = take_advice(own, "r")
    assert found.text == own
    assert found.changes == ()


def test_two_rules_that_disagree_come_to_an_end(
    text: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.plan import forecast
    from tunesmith.plan.case import Advice, Case

    def contrary(case: Case) -> tuple[Advice, ...]:
        other = 32 if case.recipe.data.max_length == 64 else 64
        return (Advice("contrary", "the other one is better", "nobody", {"data.max_length": other}),)

    monkeypatch.setattr(forecast, "advise", contrary)
    found = take_advice(text("", "max_length: 32"), "r")
    assert [change.value for change in found.changes] == [64]


def test_overrides_are_written_too_and_their_faults_told_together() -> None:
    assert own_changes(["optim.lr=2e-4", "data.limit=null"]) == {"optim.lr": 2e-4, "data.limit": None}
    with pytest.raises(RecipeError) as caught:
        own_changes(["lr", "=3"])
    assert len(caught.value.problems) == 2


def test_plan_apply_writes_a_new_file_and_never_over_one(
    text: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text(*BAD["several at once"]))
    before = recipe.read_text()
    assert cli.main(["plan", str(recipe), "--apply", str(tmp_path / "better.yaml")]) == 0
    out = capsys.readouterr().out
    assert "data.packing: false -> true" in out
    assert recipe.read_text() == before
    for taken in ("better.yaml", "recipe.yaml"):
        assert cli.main(["plan", str(recipe), "--apply", str(tmp_path / taken)]) == 2
        assert "exists already" in " ".join(capsys.readouterr().err.split())
