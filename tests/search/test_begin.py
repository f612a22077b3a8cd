"""init: a first recipe that plan accepts, with a reason behind each choice, whatever model and data are given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.folders import make_model, write_rows
from tunesmith import bundled, run
from tunesmith.app import cli
from tunesmith.plan.device import Device, find_device
from tunesmith.recipe import load
from tunesmith.search.begin import begin

ASSETS = Path(os.environ.get("TUNESMITH_ASSETS", "nowhere"))
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="TUNESMITH_ASSETS is not set")
GENERAL = str(bundled.path("data") / "general_test.jsonl")
DATA = bundled.path("data")
OURS = {
    "alpaca": ["orders.json"],
    "dialogues": ["dialogues.jsonl", "history.jsonl"],
}
THEIRS = (
    ("stories260k", "messages/v1_sft_demo.jsonl"),
    ("stories260k", "pretrain_zh/tangshi300.json"),
    ("babyllama-char-940k", "sharegpt/dummy_conversation.json"),
    ("nano-psycho-230k", "alpaca/identity.json"),
    ("stories260k", "pretrain_en/tinystories_1000.txt"),
)


def accepted(model: str, data: list[str], folder: Path) -> str:
    """What init writes; planned again as a file, nothing with a change is advised, and it fits."""
    found = begin(model, data, None, find_device(), GENERAL)
    file = folder / "recipe.yaml"
    file.write_text(found.text)
    plan = run.prepare(load(file)).plan
    assert plan.fits
    assert [advice.rule for advice in plan.advice if advice.change] == []
    for advice in plan.advice:  # what only the user can do is told in the file
        assert advice.rule in found.text
    return found.text


@pytest.mark.parametrize("name", OURS)
def test_plan_has_nothing_to_change(name: str, tmp_path: Path) -> None:
    text = accepted(str(bundled.path("model")), [str(DATA / file) for file in OURS[name]], tmp_path)
    keys = [line for line in text.splitlines() if ":" in line and not line.lstrip().startswith(("#", "-"))]
    without = [line for line in keys if "#" not in line and not line.rstrip().endswith(":")]
    assert without == [line for line in keys if line.startswith("output")]  # all else names its reason


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize(("model", "data"), THEIRS)
def test_plan_has_nothing_to_change_on_real_models_and_data(model: str, data: str, tmp_path: Path) -> None:
    accepted(str(ASSETS / "models" / model), [str(ASSETS / "datasets" / data)], tmp_path)


def test_the_goal_follows_from_the_data(tmp_path: Path) -> None:
    model = str(make_model(tmp_path / "base"))
    texts = tmp_path / "books.txt"
    texts.write_text("\n\n".join(f"The {n}th book tells of {n * 7 % 13} ships." for n in range(80)))
    said = begin(model, [str(texts)], None, find_device(), GENERAL)
    assert said.recipe.objective == "pretrain"
    assert "goal: domain" in said.text
    assert (
        "goal: task"
        in begin(model, [str(write_rows(tmp_path / "r.jsonl", 40))], None, find_device(), GENERAL).text
    )


def test_a_small_memory_gives_a_recipe_that_fits_it(tmp_path: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl", 120))
    small = Device("cpu", "a small processor", 640 * 2**20, bf16=False)
    found = begin(str(bundled.path("model")), [rows], None, small, GENERAL)
    assert found.plan["fits"]
    assert found.plan["device"]["memory_bytes"] == small.memory_bytes


Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 60)

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_verb_writes_a_recipe_and_general_questions_and_never_over_them(
    main: Main, tmp_path: Path
) -> None:
    words = ("init", "--model", str(bundled.path("model")), "--data", "rows.jsonl", "--output", "new/my.yaml")
    code, out, _ = main(*words, "--json")
    assert code == 0
    document = json.loads(out)
    assert (tmp_path / "new" / "my.yaml").read_text() == document["text"]
    assert (tmp_path / "new" / "my.general.jsonl").is_file()
    assert load("new/my.yaml").evaluation.tasks[0].path == "new/my.general.jsonl"
    code, _, err = main(*words)
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "rows.jsonl"], "--model"),
        (["--model", "no/such-model", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "MODEL", "--data", "rows.jsonl", "--goal", "fame"], "fame"),
        (["--model", "MODEL", "--data", "rows.jsonl", "--memory", "lots"], "lots"),
        (["--model", "MODEL", "--data", "empty.jsonl"], "no rows"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_no_file(
    words: list[str], said: str, main: Main, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    before = sorted(tmp_path.iterdir())
    code, _, err = main("init", *(str(bundled.path("model")) if word == "MODEL" else word for word in words))
    assert code == 2
    assert said in " ".join(err.split())
    assert sorted(tmp_path.iterdir()) == before


# mutation tried: counting only rows whose turns were cut
def test_rows_that_the_model_cannot_read_whole_are_told_not_denied(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"tell {n}", "output": "word " * (400 if n % 3 == 0 else 40) + str(n)}
        for n in range(60)
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    text = begin(str(bundled.path("model")), [str(file)], None, find_device(), GENERAL).text
    assert "nothing is cut" not in text
    assert "20 of 60 rows are longer" in text
    assert "reads no more at once" in text
