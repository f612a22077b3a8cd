"""Rows 31 to 33 of the fault matrix: memory that ends before step 1, in one, in the optimiser, in evaluation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.test_loop import DROPOUT_LORA, make_run, same_bits
from tests.faults.test_bad_steps import ask
from tests.faults.test_disk import rescued
from tunesmith.engine import faults
from tunesmith.errors import DoesNotFitError
from tunesmith.model.memory import in_pieces, is_out_of_memory


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    faults.forget_visits()


TRIAL = {"dry_run": True}


@pytest.mark.parametrize("tuning", [DROPOUT_LORA, {"method": "full"}])
def test_the_trial_of_the_worst_batch_leaves_no_trace(tuning: dict[str, object], tmp_path: Path) -> None:
    one, plain = make_run(tmp_path / "plain", tuning=tuning, budget={"steps": 12})
    two, tried = make_run(tmp_path / "tried", tuning=tuning, budget={"steps": 12}, settings=TRIAL)
    assert same_bits(plain, tried)
    assert one.progress.micro_tokens == two.progress.micro_tokens


def test_what_does_not_fit_is_found_before_the_first_step_and_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "backward", range(1, 2), "oom")
    result, weights = make_run(tmp_path / "small", dtype=torch.float64, evaluate=False, settings=TRIAL)
    assert result.progress.micro_tokens == 32
    [event] = rescued(tmp_path / "small")
    assert "before the first step" in event["reason"]
    assert "compute.checkpointing=full" in event["action"]
    monkeypatch.delenv("TUNESMITH_FAULT")
    _, calm = make_run(tmp_path / "calm", dtype=torch.float64, evaluate=False)
    for name, tensor in calm.items():
        assert (weights[name] - tensor).norm() <= 1e-6 * tensor.norm(), name


def test_a_longest_sample_that_does_not_fit_is_named_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "forward", range(1, 9), "oom")
    with pytest.raises(DoesNotFitError) as error:
        make_run(tmp_path, evaluate=False, settings=TRIAL)
    assert error.value.problems[0].where.startswith("random:")
    assert error.value.step == 0


def test_memory_that_ends_within_the_optimiser_takes_up_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA)
    ask(monkeypatch, "optimizer", range(4, 5), "oom")
    _, weights = make_run(tmp_path / "oom", tuning=DROPOUT_LORA)
    assert same_bits(whole, weights)
    [event] = rescued(tmp_path / "oom")
    assert event["action"] == "back to the checkpoint of step 2, which is whole"


@pytest.mark.parametrize("visits", [range(1, 2), range(4, 6)])
def test_memory_that_ends_there_twice_or_before_any_checkpoint_is_an_answer(
    visits: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "optimizer", visits, "oom")
    with pytest.raises(DoesNotFitError, match="adamw_8bit"):
        make_run(tmp_path, tuning=DROPOUT_LORA)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("x"), MemoryError(), RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)  # fmt: skip
def test_every_library_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError(str(error)))


def test_an_evaluation_shrinks_by_itself() -> None:
    tried: list[int] = []

    def work(tokens: int) -> int:
        tried.append(tokens)
        if tokens > 300:
            raise MemoryError
        return tokens

    heard: list[int] = []
    assert in_pieces(2000, 64, work, heard.append) == 250
    assert tried == [2000, 1000, 500, 250]
    assert heard == [1000, 500, 250]
    with pytest.raises(MemoryError):
        in_pieces(2000, 400, work)


@pytest.mark.slow
def test_a_real_limit_is_met_and_survived(tmp_path: Path) -> None:
    """RLIMIT_AS in a process of its own: torch's allocator refuses, the trial makes the micro-batch smaller."""
    code = f"""
import resource
from pathlib import Path
from tests.engine.test_loop import make_run
from tests.faults import wide
folder = Path({str(tmp_path)!r})
with wide.samples(), wide.limited(extra=192 << 20):
    result, _ = make_run(folder, micro_tokens=1 << 14, evaluate=False, settings={{"dry_run": True}},
                         optim={{"batch_tokens": 1 << 14}}, budget={{"steps": 2}})
print(result.progress.micro_tokens)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) < 1 << 14
    assert "before the first step" in rescued(tmp_path)[0]["reason"]
