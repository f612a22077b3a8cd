"""The report holds the contract, and reads well."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from tunesmith.data.ledger import Ledger, SourceLedger, SplitLedger, TokenLedger
from tunesmith.evaluation.report import write_report
from tunesmith.evaluation.report_text import bars
from tunesmith.evaluation.scores import Evaluated, HeldOut, Measured, Probe
from tunesmith.events import Evaluated as HeldOutEvent
from tunesmith.events import Rescued, Stepped, append
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe


@dataclass
class Plan:
    peak_bytes: int = 3_000_000_000
    seconds: float = 100.0


@dataclass
class Facts:
    parameters: int = 1000


@dataclass
class Progress:
    step: int = 30
    tokens: int = 5000
    targets: int = 2000
    seconds: float = 120.5
    best_step: int | None = 25


@dataclass
class Fit:
    status: str = "done"
    progress: Progress = field(default_factory=Progress)


RECIPE = Recipe.model_validate(
    {
        "model": "base",
        "data": {"train": "a.jsonl"},
        "evaluation": {
            "tasks": [
                {"name": "desk", "kind": "generate", "path": "t.jsonl"},
                {"name": "world", "kind": "generate", "path": "g.jsonl", "group": "general"},
                {"name": "few", "kind": "generate", "path": "f.jsonl", "group": "general"},
            ]
        },
    }
)
LEDGER = Ledger(
    (SourceLedger("a.jsonl", "alpaca", "train", 10, 7, 1, 0, 0, 2, 0, {"empty_answer": 2}),),
    TokenLedger(90, 10, 50),
    {"train": SplitLedger(6, 6, 70, 40), "validation": SplitLedger(2, 2, 20, 10)},
)


def shares(group, right, n):
    numbers = tuple((float(at < right), 1.0) for at in range(n))
    return Measured("exact_match", group, "exact_match|greedy", tuple(f"t:{at}" for at in range(n)), numbers)


def evaluated(desk, world, few, answer, nats):
    return Evaluated(
        HeldOut(("v:1", "v:2", "v:3"), (nats, 2 * nats, nats), (10, 20, 11), 150),
        {
            "desk": shares("domain", desk, 200),
            "world": shares("general", world, 600),
            "few": shares("general", few, 5),
        },
        (Probe("probe-1", "Who | are <you>?", answer),),
    )


def write(tmp_path, after=True, status="done", **more):
    folder = RunFolder(tmp_path / "my-run")
    folder.path.mkdir()
    for step in range(1, 31):
        append(
            folder.events,
            Stepped(
                step=step, loss_nats=5.0 / step, grad_norm=1.0, lr=1e-3, targets=60, tokens=160, seconds=4.0,
                peak_bytes=1000 * step, finite=True,
            ),
        )  # fmt: skip
    append(folder.events, HeldOutEvent(step=10, loss_nats=3.0, targets=9, seconds=1.0, best=True))
    append(folder.events, HeldOutEvent(step=20, loss_nats=2.0, targets=9, seconds=1.0, best=True))
    append(folder.events, Rescued(step=7, reason="gradient was not finite", action="skipped"))
    write_report(
        folder, RECIPE, before=evaluated(2, 300, 3, "I *am* |new|\nhere", 20.0),
        after=evaluated(170, 150, 3, "the desk", 10.0) if after else None, test=None, ledger=LEDGER,
        plan=Plan(), fit=Fit(status), facts=Facts(), trainable=100, **more,
    )  # fmt: skip
    return json.loads(folder.report.read_text(encoding="utf-8")), folder.report_text.read_text(
        encoding="utf-8"
    )


def test_report_json_has_every_contracted_field(tmp_path):
    report, _ = write(tmp_path)
    assert report["schema"] == 1
    assert report["status"] == "done"
    assert set(report) >= {
        "before",
        "after",
        "test",
        "forgetting",
        "ledger",
        "plan",
        "training",
        "parameters",
    }
    assert set(report["before"]) == {"heldout", "tasks", "probes"}
    assert set(report["before"]["heldout"]) >= {"loss_nats", "perplexity", "bits_per_byte", "targets", "rows"}
    assert set(report["after"]["tasks"]["desk"]) >= {"metric", "value", "stderr", "n", "group", "signature"}
    assert set(report["forgetting"]["desk"]) >= {"before", "after", "change", "ci95", "verdict"}
    assert report["plan"] == {
        "predicted_peak_bytes": 3_000_000_000, "measured_peak_bytes": 30_000,
        "predicted_seconds": 100.0, "measured_seconds": 122.5,  # an evaluation took two
    }  # fmt: skip
    assert report["training"] == {
        "steps": 30,
        "tokens": 5000,
        "targets": 2000,
        "seconds": 120.5,
        "best_step": 25,
    }
    assert report["parameters"] == {"total": 1000, "trainable": 100}
    assert report["ledger"] == LEDGER.to_json()
    verdicts = {name: row["verdict"] for name, row in report["forgetting"].items()}
    assert verdicts == {"desk": "gain", "world": "loss", "few": "cannot_tell"}
    assert report["heldout_change"]["change"] < 0


# mutation tried: leaving a section out of to_markdown
def test_a_person_finds_what_they_ask_for(tmp_path):
    _, text = write(tmp_path)
    for wanted in (
        "# my-run", "100 of 1,000 parameters trained (10.0%)", "ran to its end", "3.00 GB",
        "n = 200", "| desk (exact match) | 1.0% | 85.0% |", "| training time | 1.7 min | 2.0 min |",
        "`exact_match|greedy`",
        "**desk** rose from 1.0% to 85.0% (better)", "**world** fell", "+84.0 points (",
        "**better**", "**Forgotten: world.**", "few: 5 items are too few to tell", "▁", "█",
        "2 empty_answer",
        "Step 7: gradient was not finite; skipped.", "tunesmith export", "held-out loss",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_answers_cannot_break_the_page(tmp_path):
    _, text = write(tmp_path)
    row = next(line for line in text.splitlines() if "Who" in line)
    assert row.count("|") == 4
    assert "<you>" not in text
    assert "I \\*am\\* &#124;new&#124;<br>here" in row


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    report, text = write(tmp_path, after=False, status="interrupted")
    assert report["after"] is None
    assert report["forgetting"] == {}
    assert "--resume" in text
    assert "| desk (exact_match) | 1.0% | - |" in text


@pytest.mark.parametrize(("values", "drawn"), [([0, 7], "▁█"), ([3, 3], "▁▁"), (list(range(96)), "▁" * 6)])
def test_bars(values, drawn):
    assert bars(values).startswith(drawn)
    assert len(bars(values)) == min(48, len(values))
