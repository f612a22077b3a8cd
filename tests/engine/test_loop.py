"""The loop: exact resume after kills, accumulation, the finite gate, out of memory, early stop."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.tiny import random_samples, tiny_model
from tunesmith.data.loader import batches, plan_steps
from tunesmith.engine import faults
from tunesmith.engine import step as step_module
from tunesmith.engine.loop import fit
from tunesmith.engine.progress import Settings
from tunesmith.engine.store import CheckpointStore
from tunesmith.errors import CheckpointError, DivergedError, DoesNotFitError
from tunesmith.events import Recording, Silent, read
from tunesmith.objectives.language_modelling import summed_loss, token_losses
from tunesmith.recipe import parse
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting


def make_run(
    folder: Path,
    *,
    stop_after=None,
    tuning=None,
    dtype=torch.float32,
    micro_tokens=64,
    evaluate=True,
    identity="a",
    lr=1e-2,
    listener=None,
    settings=None,
    **recipe,
):
    """A run of 8 steps on a tiny model; returns the result and the model's trained tensors."""
    values = {
        "model": "tiny", "data": {"train": "none.jsonl"}, "tuning": tuning or {"method": "full"},
        "budget": {"steps": 8}, "optim": {"batch_tokens": 48, "warmup": 2}, **recipe,
    }  # fmt: skip
    checked = parse(values)
    sources = (random_samples(40, seed=1),)
    plan = plan_steps(sources, (None,), checked.budget, checked.optim.batch_tokens, seed=3)
    model = tiny_model(dtype=dtype, attention_dropout=0.1 if dtype == torch.float32 else 0.0)
    method = build(checked.tuning)
    torch.manual_seed(0)
    tuned = method.prepare(model, Setting())
    held = random_samples(6, seed=9)

    def held_out(breathe):
        breathe()
        losses = torch.cat([token_losses(tuned.model, batch) for batch in batches(held, 64, True)])
        return float(losses.mean()), len(losses)

    folder.mkdir(parents=True, exist_ok=True)
    chosen = Settings(
        lr, False, micro_tokens, evaluate_every=3, save_every=2, stop_after=stop_after, **(settings or {})
    )
    result = fit(
        tuned, method, summed_loss, sources, plan, checked, chosen,
        CheckpointStore(folder / "checkpoints", checked.checkpoint.keep), {"data": identity},
        Recording(folder / "events.jsonl", listener or Silent()), held_out if evaluate else None,
    )  # fmt: skip
    return result, {name: p.detach().clone() for name, p in tuned.trainable.items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch):
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    faults.forget_visits()


DROPOUT_LORA = {"method": "lora", "rank": 2, "dropout": 0.1}


def run_elsewhere(folder: Path, fault: str) -> int:
    """A run in its own process, with a fault; its exit code (negative: the signal that killed it).

    The fork server has the imports but has never run autograd, whose threads do not survive a fork.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.engine.test_loop"])
    process = server.Process(target=_run_with_fault, args=(folder, fault, torch.get_num_threads()))
    process.start()
    process.join()
    return process.exitcode


def _run_with_fault(folder: Path, fault: str, threads: int) -> None:
    os.environ["TUNESMITH_FAULT"] = fault
    torch.set_num_threads(threads)
    make_run(folder, tuning=DROPOUT_LORA)


KILLS = [
    "step:4:kill", "forward:7:kill", "backward:5:kill", "update:5:kill", "stepped:6:kill", "evaluate:2:kill",
    "save_weights:2:kill", "save_optimizer:2:kill", "save_state:3:kill", "save_manifest:2:kill",
    "save_rename:3:kill", "save_latest:2:kill", "save_rotate:3:kill",
]  # fmt: skip


@pytest.mark.parametrize("fault", KILLS)
def test_a_killed_run_resumes_and_ends_bit_for_bit_like_the_undisturbed_one(fault, tmp_path):
    # mutation tried: optimizer state not restored; random_state not restored; step plan started from 0
    whole_result, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA)
    assert run_elsewhere(tmp_path / "killed", fault) == -signal.SIGKILL
    result, weights = make_run(tmp_path / "killed", tuning=DROPOUT_LORA)
    assert same_bits(whole, weights)
    assert dataclasses.replace(result.progress, seconds=0) == dataclasses.replace(
        whole_result.progress, seconds=0
    )
    store = CheckpointStore(tmp_path / "killed" / "checkpoints", 2)
    assert store.newest()[0].name == "step-00000008"


def test_accumulation_and_one_batch_give_the_same_gradient_step_in_float64(tmp_path):
    # mutation tried: dividing by the micro-batch's own targets
    results = [
        make_run(tmp_path / str(micro), dtype=torch.float64, micro_tokens=micro, evaluate=False)[1]
        for micro in (1, 24, 10_000)
    ]
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert (other[name] - tensor).norm() <= 1e-6 * tensor.norm(), (
                name
            )  # fp32 masters; gradients below


def test_accumulated_gradients_equal_to_1e_12_in_float64():
    samples = list(random_samples(8, seed=4))
    targets = sum(int((s.labels >= 0).sum()) for s in samples)
    grads = []
    for micro in (1, 30, 10_000):
        model = tiny_model(dtype=torch.float64)
        for batch in batches(samples, micro, True):
            (summed_loss(model, batch) / targets).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for other in grads[1:]:
        for name, grad in grads[0].items():
            assert (other[name] - grad).norm() <= 1e-12 * grad.norm(), name


def test_packed_and_padded_rows_train_alike():
    samples = list(random_samples(8, seed=4))
    grads = []
    for packing in (True, False):
        model = tiny_model(dtype=torch.float64)
        for batch in batches(samples, 60, packing):
            summed_loss(model, batch).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert (grads[1][name] - grad).norm() <= 1e-12 * grad.norm(), name


def test_a_step_that_is_not_finite_changes_nothing(tmp_path, monkeypatch):
    # mutation tried: stepping before the gate
    monkeypatch.setenv("TUNESMITH_FAULT", "update:8:nan")
    _, seven = make_run(tmp_path / "nan", evaluate=False)
    monkeypatch.delenv("TUNESMITH_FAULT")
    store = CheckpointStore(tmp_path / "nan" / "checkpoints", 2)
    six = make_run(tmp_path / "ok", evaluate=False)[1]
    assert all(torch.isfinite(t).all() for t in seven.values())
    assert not same_bits(seven, six)
    stepped = [event for event in read(tmp_path / "nan" / "events.jsonl") if event["kind"] == "stepped"]
    assert stepped[-1]["finite"] is False
    assert stepped[-1]["grad_norm"] is None
    rescued = [event for event in read(tmp_path / "nan" / "events.jsonl") if event["kind"] == "rescued"]
    assert rescued[-1]["rows"]
    assert store.newest()[0] is not None


def test_weights_moments_and_count_are_bit_equal_after_a_skipped_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", "forward:1:nan")
    result, weights = make_run(tmp_path / "nan", evaluate=False, budget={"steps": 2}, stop_after=1)
    start = {
        name: p.detach()
        for name, p in build(parse({"model": "t", "data": {"train": "x"}, "tuning": "full"}).tuning)
        .prepare(tiny_model(attention_dropout=0.1), Setting())
        .trainable.items()
    }
    assert same_bits(weights, start)
    assert result.progress.tokens == 0


def test_a_run_that_took_no_step_at_all_has_not_trained(tmp_path, monkeypatch):
    # mutation tried: no _require_a_step
    monkeypatch.setenv("TUNESMITH_FAULT", "forward:1:nan")
    with pytest.raises(DivergedError, match="the model itself"):
        make_run(tmp_path, evaluate=False, budget={"steps": 1})


def test_too_many_bad_steps_in_a_row_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", "forward:1:nan")
    with pytest.raises(DivergedError):
        make_run(tmp_path, evaluate=False, rescue={"max_bad_steps": 1})


# mutation tried: the step before (progress.step) named
@pytest.mark.parametrize("fault", ["update:3:nan", "forward:3:oom"])
def test_an_error_says_in_which_step_the_run_failed(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", fault)
    with pytest.raises((DivergedError, DoesNotFitError)) as error:
        make_run(
            tmp_path,
            evaluate=False,
            rescue={"max_bad_steps": 1, "rewinds": 0},
            micro_tokens=1,
            optim={"batch_tokens": 1},
        )
    assert error.value.step == 3


def test_out_of_memory_retries_the_same_batch_smaller_and_ends_the_same(tmp_path, monkeypatch):
    # mutation tried: gradients of the failed attempt kept
    _, calm = make_run(tmp_path / "calm", evaluate=False, dtype=torch.float64)
    monkeypatch.setenv("TUNESMITH_FAULT", "backward:2:oom")
    result, weights = make_run(tmp_path / "oom", evaluate=False, dtype=torch.float64)
    assert result.progress.micro_tokens < 64
    for name, tensor in calm.items():
        assert (weights[name] - tensor).norm() <= 1e-6 * tensor.norm(), name
    assert any(
        e["kind"] == "rescued" and e["reason"] == "out of memory"
        for e in read(tmp_path / "oom" / "events.jsonl")
    )


def test_out_of_memory_with_one_sample_alone_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", "forward:1:oom")
    with pytest.raises(DoesNotFitError) as error:
        make_run(tmp_path, evaluate=False, micro_tokens=1)
    assert error.value.problems[0].where.startswith("random:")


def test_a_full_disk_gives_up_a_checkpoint_but_not_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", "save_weights:2:enospc")
    result, _ = make_run(tmp_path)
    assert result.status == "done"
    assert any(e["kind"] == "rescued" and e["reason"] == "disk full" for e in read(tmp_path / "events.jsonl"))


def test_other_data_are_named_at_resume(tmp_path):
    make_run(tmp_path)
    with pytest.raises(CheckpointError, match="another data"):
        make_run(tmp_path, identity="b")


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_corrupt_newest_checkpoint_is_passed_over_and_named(file, tmp_path):
    _, whole = make_run(tmp_path)
    path = tmp_path / "checkpoints" / "step-00000008" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    _, again = make_run(tmp_path)
    assert same_bits(whole, again)
    assert any("checkpoint passed over" in e.get("reason", "") for e in read(tmp_path / "events.jsonl"))


def test_stop_after_saves_and_the_rest_follows_bit_for_bit(tmp_path):
    _, whole = make_run(tmp_path / "whole")
    result, _ = make_run(tmp_path / "parts", stop_after=3)
    assert result.status == "interrupted"
    assert json.loads((tmp_path / "parts/checkpoints/step-00000003/state.json").read_text())["step"] == 3
    assert same_bits(whole, make_run(tmp_path / "parts")[1])


def test_early_stopping_keeps_the_best(tmp_path):
    result, _ = make_run(tmp_path, lr=0.1, budget={"steps": 60}, evaluation={"early_stop": 2})
    assert result.status == "stopped"
    losses = [
        (e["loss_nats"], e["step"]) for e in read(tmp_path / "events.jsonl") if e["kind"] == "evaluated"
    ]
    assert result.progress.best_step == min(losses)[1]
    assert (tmp_path / "checkpoints" / f"step-{result.progress.best_step:08d}").is_dir()


def test_same_seed_gives_the_same_bits(tmp_path):
    assert same_bits(make_run(tmp_path / "a")[1], make_run(tmp_path / "b")[1])


# mutations tried: the batch that was laid out taken for whatever step comes; laid out once and never again
@pytest.mark.parametrize("fault", [None, "forward:4:oom", "update:3:nan"])
def test_a_step_laid_out_while_the_one_before_is_computed_changes_no_bit(fault, tmp_path, monkeypatch):
    """As on a card; what memory, a bad step or a stop does to the order is no other either."""
    results, laid, taken = [], [], []
    lay, take = step_module.Laid.lay, step_module.Laid.take

    def watched_take(self, samples, micro_tokens):
        found = take(self, samples, micro_tokens)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(step_module.Laid, "lay", lambda self, *given: (laid.append(1), lay(self, *given))[1])
    monkeypatch.setattr(step_module.Laid, "take", watched_take)
    for ahead in (False, True):
        monkeypatch.setattr(step_module.Stepper, "lays_ahead", property(lambda self, answer=ahead: answer))
        if fault:
            monkeypatch.setenv("TUNESMITH_FAULT", fault)
            faults.forget_visits()
        taken.clear()
        folder = tmp_path / str(ahead)
        make_run(folder, tuning=DROPOUT_LORA, stop_after=5, micro_tokens=30)
        monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
        results.append(make_run(folder, tuning=DROPOUT_LORA, micro_tokens=30)[1])
        assert bool(laid) == ahead
        assert bool(sum(taken)) == ahead
    assert same_bits(*results)
    assert sum(taken) >= (6 if fault is None else 4)
