"""Rows 17, 21, 22, 41 and 47 of the fault matrix: a dead worker, other batches at resume, one bad row far down."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.data.byte_tokenizer import byte_template, byte_tokenizer
from tests.data.test_tokenised import mixed_file, own_cache, small_pieces, told  # noqa: F401 (fixtures)
from tests.engine.test_loop import make_run
from tests.faults.test_resuming import changed, stopped  # noqa: F401 (a fixture)
from tests.faults.test_signals import model  # noqa: F401 (a fixture)
from tunesmith import run
from tunesmith.data.formats import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.prepare import prepare
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipe import Data, Recipe, Source


def test_a_worker_that_is_killed_is_told_and_what_it_made_is_kept(
    tmp_path: Path,
    small_pieces: None,  # noqa: F811
    own_cache: Path,  # noqa: F811
) -> None:
    """Row 17."""
    path = mixed_file(tmp_path / "a.jsonl")
    data = Data(train=path, validation=0.2, on_bad_row="drop", max_length=150, overlength="split")  # type: ignore[arg-type]
    murdered: list[int] = []

    def murder(pids: list[int]) -> None:
        if not murdered:
            murdered.append(pids[-1])
            os.kill(pids[-1], signal.SIGKILL)

    tools = (byte_tokenizer(), byte_template(), 0)
    with pytest.raises(DataError, match=r"died \(signal 9\)") as error:
        prepare(data, "sft", *tools, workers=2, watch=murder)
    assert "goes on where it stopped" in error.value.problems[0].fix
    assert murdered
    again = told(prepare(data, "sft", *tools, workers=0))
    for file in own_cache.rglob("*"):
        if file.is_file():
            file.unlink()
    assert told(prepare(data, "sft", *tools, workers=0)) == again


def test_a_run_resumed_with_other_micro_batches_ends_the_same(tmp_path: Path) -> None:
    """Row 21: in float64 to 1e-12 of the weights."""
    double = {"dtype": torch.float64, "evaluate": False}
    _, whole = make_run(tmp_path / "whole", micro_tokens=64, **double)
    make_run(tmp_path / "other", micro_tokens=64, stop_after=4, **double)
    _, resumed = make_run(tmp_path / "other", micro_tokens=24, **double)
    for name, tensor in whole.items():
        assert (resumed[name] - tensor).norm() <= 1e-12 * tensor.norm(), name


def test_another_batch_at_resume_is_refused_with_what_it_means(stopped: Recipe) -> None:  # noqa: F811
    """Row 22: rows that were learnt would come again."""
    with pytest.raises(RecipeError) as error:
        run.train(changed(stopped, optim={"batch_tokens": 32}), resume=True)
    [problem] = error.value.problems
    assert problem.where == "optim.batch_tokens"
    assert "was 64 when the run began, is 32 now" in problem.what
    assert "--resume-anyway" in problem.fix


@pytest.mark.parametrize(
    ("bad", "reason"), [('{"prompt": 7, "response": "b"}', "wrong_type"), ('{"prompt": "a', "broken_json")]
)
def test_one_bad_row_after_twelve_thousand_costs_only_itself(bad: str, reason: str, tmp_path: Path) -> None:
    """Rows 41 and 47."""
    path = tmp_path / "a.jsonl"
    lines = ['{"prompt": "a", "response": "b"}'] * 12_000
    path.write_text("\n".join([*lines, bad, lines[0]]) + "\n")
    opened = open_source(Source(path=str(path)))
    found = [(raw, opened.record(raw)) for raw in opened.rows]
    assert len(found) == 12_002
    faults = [(number, row.reason) for number, (_, row) in enumerate(found, 1) if isinstance(row, Fault)]
    assert faults == [(12_001, reason)]
