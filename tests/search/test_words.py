"""The verbs of search, wrongly asked: exit 2, what is wrong and a way out, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.app import cli

RECIPE = "model: no/such-model\ndata: {train: rows.jsonl}\noutput: out\n"
STAGES = RECIPE + "stages:\n  - {name: texts, objective: pretrain}\n  - {name: answers}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr-find"], "RECIPE"),
        (["lr-find", "nowhere.yaml"], "cannot be read"),
        (["lr-find", "r.yaml", "optim.lrr=3"], "lrr"),
        (["lr-find", "r.yaml", "--steps", "3"], "no curve"),
        (["lr-find", "r.yaml", "--steps", "many"], "many"),
        (["lr-find", "r.yaml", "--from", "1", "--to", "0.1"], "no range"),
        (["lr-find", "r.yaml", "--png", "curve.jpg"], "no .png"),
        (["lr-find", "stages.yaml"], "name one: stages.yaml#texts or stages.yaml#answers"),
        (["lr-find", "stages.yaml#nowhere"], "no such training stage"),
        (["lr-find", "r.yaml#texts"], "no such training stage"),
        (["sweep"], "RECIPE"),
        (["sweep", "r.yaml"], "nothing to compare"),
        (["sweep", "r.yaml", "tuning.rank=8"], "nothing to compare"),
        (["sweep", "r.yaml", "tuning.rnk=8,16"], "rnk"),
        (["sweep", "r.yaml", "tuning.rank=8,0"], "rank=0"),
        (["sweep", "r.yaml", "optim.lr=1e-5..1e-3"], "--random"),
        (["sweep", "r.yaml", "optim.lr=1e-5,1e-3", "--random", "0"], "1 to 64"),
        (["sweep", "r.yaml", "optim.lr=1e-5,1e-3", "--png", "x.gif"], "no .png"),
        (["sweep", "r.yaml", "optim.lr=1e-5,1e-3", "--output", "full"], "is no sweep"),
        (["sweep", "stages.yaml", "optim.lr=1e-5,1e-3"], "name one"),
        (["plan", "r.yaml", "--apply", "r.yaml"], "exists already"),
        (["plan", "r.yaml", "lr", "--apply", "new.yaml"], "not an override"),
        (["plan", "r.yaml", "--apply", "new.yaml", "--memory", "lots"], "lots"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_told_and_nothing_is_written(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE + "budget: {tokens: 1000}\n")
    (tmp_path / "stages.yaml").write_text(STAGES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(words) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert said in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
