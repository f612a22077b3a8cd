"""Rows 25 to 29 of the fault matrix: steps that go wrong, within the engine: what is skipped, gone back from, named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.test_loop import DROPOUT_LORA, make_run, same_bits
from tests.faults.test_disk import checkpoints, rescued
from tunesmith.engine import faults, rescue
from tunesmith.errors import DivergedError
from tunesmith.events import read


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    faults.forget_visits()


SIXTEEN: dict[str, Any] = {"budget": {"steps": 16}, "evaluate": False, "checkpoint": {"keep": 9}}


def ask(monkeypatch: pytest.MonkeyPatch, point: str, visits: range, action: str) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", ",".join(f"{point}:{at}:{action}" for at in visits))
    faults.forget_visits()


def steps_told(folder: Path) -> list[int]:
    return [event["step"] for event in read(folder / "events.jsonl") if event["kind"] == "stepped"]


def test_nan_five_times_in_a_row_goes_back_leaves_the_window_out_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "update", range(9, 14), "nan")
    result, _ = make_run(tmp_path, **SIXTEEN)
    assert result.status == "done"
    assert result.progress.watch.left_out == ((7, 13),)
    assert steps_told(tmp_path) == [*range(1, 14), 14, 15, 16]
    skips = [event for event in rescued(tmp_path) if "skipped" in event["action"]]
    [way_back] = [event for event in rescued(tmp_path) if "back to step 6" in event["action"]]
    assert [event["step"] for event in skips] == [9, 10, 11, 12]
    assert "the rows of steps 7 to 13 are left out" in way_back["action"]
    assert len(way_back["rows"]) > len(skips[0]["rows"])
    assert checkpoints(tmp_path, 9).steps() == [2, 4, 6, 14, 16]


def test_a_run_that_went_back_is_the_run_without_that_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: nothing of the bad steps is left in weights, moments or draws."""
    ask(monkeypatch, "update", range(9, 14), "nan")
    _, weights = make_run(tmp_path / "bad", tuning=DROPOUT_LORA, **SIXTEEN)
    monkeypatch.delenv("TUNESMITH_FAULT")
    real = rescue.Watch.leaves_out
    monkeypatch.setattr(rescue.Watch, "leaves_out", lambda self, step: 7 <= step <= 13 or real(self, step))
    _, without = make_run(tmp_path / "without", tuning=DROPOUT_LORA, **SIXTEEN)
    assert same_bits(weights, without)


@pytest.mark.parametrize("fault", ["go_back:1:raise", "went_back:1:raise"])
def test_a_way_back_that_is_cut_off_is_taken_again_or_has_been_taken(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ",".join(f"update:{at}:nan" for at in range(9, 14))
    monkeypatch.setenv("TUNESMITH_FAULT", bad)
    whole, weights = make_run(tmp_path / "whole", tuning=DROPOUT_LORA, **SIXTEEN)
    faults.forget_visits()
    monkeypatch.setenv("TUNESMITH_FAULT", f"{bad},{fault}")
    with pytest.raises(RuntimeError):
        make_run(tmp_path / "cut", tuning=DROPOUT_LORA, **SIXTEEN)
    went = fault.startswith("went")
    # before it is written down, the newest checkpoint (12) goes on, and meets step 13 again: bad for the first time
    monkeypatch.setenv("TUNESMITH_FAULT", "" if went else "update:1:nan")
    faults.forget_visits()
    result, resumed = make_run(tmp_path / "cut", tuning=DROPOUT_LORA, **SIXTEEN)
    assert result.progress.watch.left_out == ((7, 13),)
    assert same_bits(weights, resumed)
    assert replace(result.progress, seconds=0) == replace(whole.progress, seconds=0)


def test_where_nothing_helps_it_stops_and_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "update", range(5, 60), "nan")
    with pytest.raises(DivergedError, match="went back 1 times before") as error:
        make_run(
            tmp_path, budget={"steps": 16}, evaluate=False, rescue={"max_bad_steps": 2, "rewinds": 1},
            checkpoint={"keep": 9},
        )  # fmt: skip
    assert "2 steps in a row" in str(error.value)
    assert checkpoints(tmp_path, 9).whole()


def test_bad_rows_before_the_first_checkpoint_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: nobody is told of them
    ask(monkeypatch, "update", range(1, 3), "spike")
    run = {"evaluate": False, "rescue": {"max_bad_steps": 2, "loss": 20.0}}
    with pytest.raises(
        DivergedError, match="rows named above, and leave out what is broken; else begin anew"
    ):
        make_run(tmp_path, budget={"steps": 16}, **run)
    assert rescued(tmp_path)[-1]["action"] == "no checkpoint to go back to"
    assert set(rescued(tmp_path)[0]["rows"]) < set(rescued(tmp_path)[-1]["rows"])


def test_a_spike_is_skipped_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and norm times ten at step 30, once what is usual is known."""
    run = {"budget": {"steps": 40}, "evaluate": False, "optim": {"batch_tokens": 96, "warmup": 2}, "lr": 1e-3}
    ask(monkeypatch, "update", range(30, 31), "spike")
    result, _ = make_run(tmp_path, rescue={"sigmas": 6}, **run)
    [event] = rescued(tmp_path)
    assert event["step"] == 30
    assert "stands out from the usual" in event["reason"]
    assert event["rows"]
    taken = [e for e in read(tmp_path / "events.jsonl") if e["kind"] == "stepped" and e["step"] != 30]
    assert result.progress.tokens == sum(e["tokens"] for e in taken)


def test_a_loss_that_creeps_up_halves_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "update", range(70, 86), "spike")
    monkeypatch.setattr(rescue, "_stands_out", lambda *_: False)  # as if it had come slowly
    result, _ = make_run(
        tmp_path,
        budget={"steps": 110},
        evaluate=False,
        lr=1e-3,
        checkpoint={"keep": 99},
        rescue={"rewinds": 1},
    )
    events = [e for e in rescued(tmp_path) if "has risen" in e["reason"]]
    assert "0.5 times the learning rate" in events[0]["action"]
    assert result.progress.watch.lr_scale == 0.5
    rates = {e["step"]: e["lr"] for e in read(tmp_path / "events.jsonl") if e["kind"] == "stepped"}
    steps = [e["step"] for e in read(tmp_path / "events.jsonl") if e["kind"] == "stepped"]
    first = [e["lr"] for e in read(tmp_path / "events.jsonl") if e["kind"] == "stepped"][steps.index(80)]
    assert rates[80] == pytest.approx(first / 2)


def test_a_held_out_loss_far_above_the_base_s_halves_the_rate_and_at_last_ends_the_run(
    tmp_path: Path,
) -> None:
    # mutation tried: `judge_held_out` not asked
    with pytest.raises(DivergedError, match="went back 1 times before") as error:
        make_run(tmp_path, lr=1.0, settings={"base_loss_nats": 3.5}, rescue={"rewinds": 1})
    assert "the held-out loss was 3.5 before training and is" in str(error.value)
    assert "begin anew with a lower optim.lr than 1" in str(error.value)
    [event] = rescued(tmp_path)
    assert event["action"] == "back to step 2; from here on 0.5 times the learning rate"
    told = [event for event in read(tmp_path / "events.jsonl") if event["kind"] == "evaluated"]
    assert {event["before_nats"] for event in told} == {3.5}


def test_a_run_that_goes_back_at_its_last_evaluation_has_not_ended(tmp_path: Path) -> None:
    # mutation tried: the end that was reached still counts
    with pytest.raises(DivergedError, match="went back 1 times before"):
        make_run(
            tmp_path, lr=1.0, budget={"steps": 3}, settings={"base_loss_nats": 3.5}, rescue={"rewinds": 1}
        )
    assert steps_told(tmp_path) == [1, 2, 3, 3]


def test_weights_ruined_before_any_checkpoint_are_not_gone_back_to(tmp_path: Path) -> None:
    # mutation tried: back to the newest of any kind
    with pytest.raises(DivergedError, match=r"begin anew with a lower optim\.lr than 30"):
        make_run(tmp_path, lr=30.0, settings={"base_loss_nats": 3.5})
    assert rescued(tmp_path) == []
    assert checkpoints(tmp_path, 9).steps() == [2]


def test_the_row_that_made_a_step_bad_comes_first_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "update", range(3, 4), "nan")
    make_run(
        tmp_path, evaluate=False, settings={"text_of": lambda sample: f"words of {sample.address} " * 40}
    )
    [event] = rescued(tmp_path)
    assert event["texts"][0].startswith(f"words of {event['rows'][0]}")
    assert len(event["texts"][0]) < 410
    from tests.tiny import random_samples, tiny_model
    from tunesmith.data.loader import collate
    from tunesmith.engine.naming import name_rows
    from tunesmith.engine.step import Stepper
    from tunesmith.objectives.language_modelling import summed_loss
    from tunesmith.tuning.method import Hooks, TunedModel

    model = tiny_model()
    stepper = Stepper(
        TunedModel(model, dict(model.named_parameters())), None, Hooks(), summed_loss, True, False, None
    )  # type: ignore[arg-type]
    samples = list(random_samples(6))
    named = name_rows(stepper, samples, None)
    losses = [float(summed_loss(model, collate([s], True)).detach()) / (s.labels >= 0).sum() for s in samples]
    assert named.rows == tuple(samples[at].address for at in np.argsort(losses)[::-1])


def test_looking_for_the_row_draws_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "update", range(3, 4), "nan")
    _, looked = make_run(tmp_path / "a", tuning=DROPOUT_LORA, evaluate=False)
    ask(monkeypatch, "update", range(3, 4), "nan")
    from tunesmith.engine import loop
    from tunesmith.engine.naming import Named

    monkeypatch.setattr(loop, "name_rows", lambda *_: Named(()))
    _, blind = make_run(tmp_path / "b", tuning=DROPOUT_LORA, evaluate=False)
    assert same_bits(looked, blind)


def test_a_silence_is_told_with_the_line_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "HANG_SECONDS", 2.0)
    ask(monkeypatch, "update", range(3, 4), "hang")
    result, _ = make_run(tmp_path, rescue={"stall_minutes": 0.25 / 60})
    assert result.status == "done"
    events = [e for e in rescued(tmp_path) if "no sign of life" in e["reason"]]
    assert len(events) >= 1
    assert any("faults.py" in event["action"] for event in events)


def test_events_wait_in_memory_while_the_disk_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith import events

    real, calls = events._append, []

    def refuses(path: Path, text: str) -> None:
        calls.append(text)
        if 3 <= len(calls) <= 7:
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(events, "_append", refuses)
    heard: list[Any] = []

    class Listener:
        def event(self, event: Any) -> None:
            heard.append(event)

        def progress(self, *_: Any) -> None:
            pass

    make_run(tmp_path, listener=Listener())
    assert steps_told(tmp_path) == list(range(1, 9))
    told = [e for e in heard if e.kind == "rescued"]
    assert len(told) == 1
    assert "No space left" in told[0].reason
