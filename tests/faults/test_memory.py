"""Rows 31 to 33 of the fault matrix: memory that ends before step 1, in one, in the optimiser, in evaluation."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.test_loop import DROPOUT_LORA, make_run, same_bits
from tests.faults.test_bad_steps import ask
from tests.faults.test_disk import rescued
from tests.folders import make_model, write_rows
from tunesmith import run, work
from tunesmith.app.cli import main
from tunesmith.engine import faults
from tunesmith.errors import DoesNotFitError, Problem
from tunesmith.folder import RunFolder, read_json
from tunesmith.model.memory import in_pieces, is_out_of_memory
from tunesmith.recipe import Recipe, load, parse


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
    settings = {
        **TRIAL,
        "foreseen": "3 MiB of 2 MiB were foreseen",
        "next_recipe": "try compute.checkpointing=full",
    }
    result, weights = make_run(tmp_path / "small", dtype=torch.float64, evaluate=False, settings=settings)
    assert result.progress.micro_tokens == 32
    [event] = rescued(tmp_path / "small")
    assert event["reason"].endswith("before the first step; 3 MiB of 2 MiB were foreseen")
    assert event["action"].endswith(
        "nothing is lost but speed; to have it back: try compute.checkpointing=full"
    )
    monkeypatch.delenv("TUNESMITH_FAULT")
    _, calm = make_run(tmp_path / "calm", dtype=torch.float64, evaluate=False)
    # norms are computed in fp32 whatever the dtype, and Adam makes more of it
    for name, tensor in calm.items():
        assert (weights[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


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
        RuntimeError("could not create a primitive"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)  # fmt: skip
def test_every_library_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError(str(error)))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for an inner product"))


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


# --- a run as a whole: what was foreseen, and the next recipe to try ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def fails_as(
    fault: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> Problem:
    """What a run says whose memory runs out there."""
    monkeypatch.setattr(work, "_is_tight", lambda _: True)
    monkeypatch.setenv("TUNESMITH_FAULT", fault)
    with pytest.raises(DoesNotFitError) as error:
        run.train(recipe(model, folder, **changes))
    [problem] = error.value.problems
    return problem


def recipe(model: Path, folder: Path, **changes: object) -> Recipe:
    values = {
        "model": str(model), "output": str(folder / "run"), "tuning": {"method": "lora", "rank": 2},
        "data": {"train": str(write_rows(folder / "rows.jsonl")), "validation": 3, "max_length": 128},
        "optim": {"lr": 1e-2, "batch_tokens": 64}, "budget": {"steps": 3}, "compute": {"precision": "fp32"},
    }  # fmt: skip
    return parse({**values, **changes})


def test_a_run_that_does_not_fit_says_what_was_foreseen_and_writes_the_next_recipe(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: no `_with_a_way_out`
    fault = ",".join(f"forward:{at}:oom" for at in range(1, 20))
    problem = fails_as(fault, model, tmp_path, monkeypatch)
    assert "out of memory with this sample alone" in problem.what
    plan = read_json(tmp_path / "run" / "plan.json")
    for term in sorted(plan["memory"]["terms"], key=lambda term: -term["bytes"])[:3]:
        assert f"{term['name']} " in problem.what
    assert "try compute.checkpointing=full (recomputed activations, about" in problem.fix
    monkeypatch.delenv("TUNESMITH_FAULT")
    command = problem.fix.partition("to have it written: tunesmith ")[2]
    out = tmp_path / "next.yaml"
    assert main([*shlex.split(command.replace("FILE", str(out))), "--json"]) == 0
    assert load(out).compute.checkpointing == "full"


def test_where_everything_is_recomputed_already_the_next_rung_is_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = {"precision": "fp32", "checkpointing": "full"}
    changes: dict[str, object] = {"compute": compute, "tuning": {"method": "full"}}
    problem = fails_as("optimizer:1:oom", model, tmp_path, monkeypatch, **changes)
    assert "moments do not fit" in problem.what
    assert "foreseen" in problem.what
    assert re.search(r"try \S*optim\.optimizer=adamw_bf16 ", problem.fix)


def test_an_evaluation_that_fits_nowhere_says_so_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: the error of memory raised as it is
    fault = ",".join(f"held_out:{at}:oom" for at in range(1, 9))
    problem = fails_as(fault, model, tmp_path, monkeypatch)
    assert (problem.where, "foreseen" in problem.what) == ("evaluation", True)
    assert problem.fix.startswith("try ")


def test_a_plan_that_fits_nowhere_names_its_largest_terms(model: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tunesmith.plan.device import find_device
    from tunesmith.suited import require_room

    device = replace(find_device(), memory_bytes=1 << 20)
    planned = run.prepare(recipe(model, tmp_path), device=device).plan
    with pytest.raises(DoesNotFitError, match=r"most of it, in .*: framework \d+ MiB"):
        require_room(planned, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("tuning", "optimizer"),
    [
        ({"method": "full"}, "adamw"), ({"method": "full"}, "adamw_bf16"),
        ({"method": "lora", "rank": 2}, "adamw"), ({"method": "galore", "rank": 4}, "adamw"),
    ],
)  # fmt: skip
def test_the_copy_of_a_checkpoint_is_as_large_as_foreseen(
    tuning: dict[str, object], optimizer: str, tmp_path: Path
) -> None:
    # mutation tried: galore counted like AdamW
    from tests.tiny import tiny_config
    from tunesmith.model.facts import facts_from_config
    from tunesmith.plan.forecast import checkpoint_bytes
    from tunesmith.plan.memory import Load

    make_run(tmp_path, tuning=tuning, optim={"optimizer": optimizer, "batch_tokens": 48}, budget={"steps": 2})
    files = (tmp_path / "checkpoints" / "step-00000002").glob("*.safetensors")
    tensors = [
        tensor for file in files for key, tensor in load_file(file).items() if "random_state" not in key
    ]
    held = sum(tensor.nbytes for tensor in tensors if tensor.dim())  # step counts are numbers
    checked = parse({"model": "tiny", "data": {"train": "x"}, "tuning": tuning, "output": "x"})
    facts = facts_from_config(tiny_config().to_dict())
    load_of = Load(facts, checked.tuning, "cpu", False, 4, "off", 64, 64, True, optimizer=optimizer)
    assert held == pytest.approx(checkpoint_bytes(load_of), rel=1e-9)


def test_the_copy_is_a_term_of_the_plan_and_on_a_card_of_the_main_memory(model: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tunesmith.engine import keeping
    from tunesmith.plan import forecast

    plan = run.prepare(recipe(model, tmp_path)).plan
    copy = plan.memory.terms[forecast.COPY]
    assert copy == 12 * plan.trainable == forecast.checkpoint_bytes(plan.load)
    assert plan.memory.phases[plan.memory.phase][forecast.COPY] == copy
    plain = replace(plan.memory, terms={k: v for k, v in plan.memory.terms.items() if k != forecast.COPY})
    card = replace(plan.device, kind="cuda")
    assert forecast.with_copy(plain, plan.load, card).host_bytes == plain.host_bytes + copy
    tight = replace(plan.device, memory_bytes=plain.device_bytes + copy)
    assert forecast.with_copy(plain, plan.load, tight) is plain
    assert forecast.COPY_SHARE == keeping.COPY_SHARE
