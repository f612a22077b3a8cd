"""Scores as a person reads them."""

from __future__ import annotations

from tunesmith.app.render import scores

from ..test_runs import report
from .test_base import printed


def test_a_finished_training_tells_gain_time_and_what_next() -> None:
    document = {"run": "runs/x", "status": "done", "steps": 10, "report": "runs/x/report.json"}
    out = printed(scores.trained(document, report()))
    for part in (
        "trained: runs/x", "best at 8", "12 s (plan: 1.0 s)", "3.000", "gain", "+0.800", "+0.500 … +0.900",
        "tunesmith chat runs/x",
    ):  # fmt: skip
        assert part in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_training_that_made_it_worse_says_so_first() -> None:
    # mutation tried: the verdict is not looked at
    document = {"run": "runs/x", "status": "done", "steps": 10, "report": "runs/x/report.json"}
    change = {"before": 3.0, "after": 4.1, "change": 1.1, "ci95": [0.9, 1.3], "verdict": "loss"}
    out = printed(scores.trained(document, {**report(), "heldout_change": change}))
    assert out.lstrip().startswith("! trained, and worse than before; its held-out loss rose by 1.100 nats")
    assert "tunesmith lr-find runs/x/recipe.yaml" in out


def test_every_verdict_has_words() -> None:
    item = {"before": 0.5, "after": 0.4, "change": -0.1, "ci95": [-0.2, 0.1]}
    verdicts = ("gain", "loss", "within_margin", "cannot_tell")
    found = {verdict: {**item, "verdict": verdict} for verdict in verdicts}
    out = printed(scores.forgetting(found))
    for words in ("gain", "loss", "no change", "cannot tell"):
        assert words in out


def test_an_evaluation_without_a_baseline_shows_errors_and_n() -> None:
    document = {
        "model": "m", "baseline": None, "results": report()["after"], "baseline_results": None,
        "forgetting": {},
    }  # fmt: skip
    out = printed(scores.page(document))
    assert "0.826 … 0.945" in out.replace("\u00a0", " ")
    assert "100" in out
    assert "before" not in out


def test_scores_that_could_not_be_measured_are_dashes() -> None:
    after = {"heldout": None, "tasks": {"t": {
        "metric": "bleu", "value": None, "stderr": None, "n": 1, "group": "general", "signature": "",
    }}, "probes": []}  # fmt: skip
    document = {"model": "m", "baseline": None, "results": after, "baseline_results": None, "forgetting": {}}
    assert "–" in printed(scores.page(document))


def test_long_answers_are_cut_on_the_screen_only() -> None:
    out = printed(scores.exchange("q", None, "x" * 1000)[1])
    assert out.count("x") == 240
    assert "…" in out
