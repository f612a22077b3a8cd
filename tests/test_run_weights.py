"""Weighed answers the whole way; what a run says of itself: the step it failed in, the test set by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.folders import make_model
from tests.test_run import recipe
from tunesmith import run
from tunesmith.engine import faults
from tunesmith.errors import CheckpointError, DivergedError
from tunesmith.events import Silent, read
from tunesmith.folder import RunFolder, read_json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def rows(path: Path, weight: float) -> str:
    """Every third answer has the weight."""
    lines = []
    for number in range(12):
        answer = {"role": "assistant", "content": f"it is {number}"}
        if number % 3 == 0:
            answer["weight"] = weight
        lines.append(json.dumps({"messages": [{"role": "user", "content": f"say {number}"}, answer]}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# mutation tried: weights left out by collate; the held-out loss unweighted
def test_weighed_answers_go_the_whole_way_and_other_weights_are_other_data(model, tmp_path):
    data = {"train": rows(tmp_path / "weighed.jsonl", 5), "validation": 4, "max_length": 256}
    epoch = run.prepare(recipe(model, tmp_path, data=data)).steps.epoch_tokens
    asked = recipe(model, tmp_path, data=data, optim={"lr": 1e-3, "batch_tokens": epoch})
    outcome = run.train(asked, stop_after=2)
    folder = RunFolder(Path(outcome.run))
    work = run.prepare(asked)
    opened = run.open_model(model)
    losses = [_loss(opened.model, part) for part in (work.data.train[0], work.data.validation)]
    first = next(event for event in read(folder.events) if event["kind"] == "stepped")
    report = read_json(folder.report)
    assert first["loss_nats"] == pytest.approx(losses[0], rel=1e-4)
    assert report["before"]["heldout"]["loss_nats"] == pytest.approx(losses[1], rel=1e-4)
    counts = [int(part.targets.sum()) for part in (work.data.train[0], work.data.validation)]
    assert first["targets"] % counts[0] == 0, "a step of whole epochs; targets stay counts"
    assert report["before"]["heldout"]["targets"] == counts[1]
    assert report["ledger"]["tokens"]["targets"] == sum(counts)
    rows(tmp_path / "weighed.jsonl", 4)
    with pytest.raises(CheckpointError, match=r"weighed\.jsonl"):
        run.train(asked, resume=True)
    rows(tmp_path / "weighed.jsonl", 5)
    assert run.train(asked, resume=True).status == "done"


def _loss(lm, samples):
    """The weighted mean, from plain logits."""
    nats = weight = 0.0
    lm.set_attn_implementation("sdpa")
    for sample in samples:
        with torch.inference_mode():
            logits = lm(torch.from_numpy(sample.input_ids.astype(np.int64))[None]).logits[0].double()
        labels = torch.from_numpy(sample.labels.astype(np.int64))
        each = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
        times = (
            (labels >= 0).double() if sample.weights is None else torch.from_numpy(sample.weights).double()
        )
        nats, weight = nats + float((each * times).sum()), weight + float(times.sum())
    return nats / weight


# mutation tried: step=0 written as before
def test_a_failed_run_names_its_step(model, tmp_path, monkeypatch):
    faults.forget_visits()
    monkeypatch.setenv("TUNESMITH_FAULT", "update:3:nan")
    with pytest.raises(DivergedError):
        run.train(recipe(model, tmp_path, rescue={"max_bad_steps": 1, "rewinds": 0}))
    failed = [e for e in read(RunFolder(tmp_path / "run").events) if e["kind"] == "failed"]
    assert [(event["step"], event["code"]) for event in failed] == [(3, "diverged")]


class _Told(Silent):
    def __init__(self) -> None:
        self.names: list[str] = []

    def progress(self, what: str, done: int, total: int | None) -> None:
        self.names.append(what)


def test_the_test_sets_loss_has_a_name_of_its_own(model, tmp_path):
    data = {"train": rows(tmp_path / "weighed.jsonl", 1), "validation": 3, "test": 3, "max_length": 256}
    told = _Told()
    run.train(recipe(model, tmp_path, data=data, budget={"steps": 1}), reporter=told)
    assert {"held-out loss", "test-set loss"} <= set(told.names)
