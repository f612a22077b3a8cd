"""Live progress, in a terminal and in a log."""

from __future__ import annotations

import io
import math
import time

import pytest

from tunesmith.app import progress
from tunesmith.app.render import base
from tunesmith.events import Evaluated, Finished, Rescued, Saved, Started, Stepped


def stepped(step: int, loss: float = 1.0) -> Stepped:
    return Stepped(
        step=step, loss_nats=loss, grad_norm=1.0, lr=1e-4, targets=50, tokens=1000, seconds=0.5,
        peak_bytes=10**8, finite=math.isfinite(loss),
    )  # fmt: skip


def terminal(width: int = 80) -> tuple[io.StringIO, base.Console]:
    file = io.StringIO()
    screen = base.Console(file=file, theme=base.THEME, force_terminal=True, width=width, markup=False)
    return file, screen


def log() -> tuple[io.StringIO, progress.Plain]:
    file = io.StringIO()
    return file, progress.Plain(base.console(file))


def test_a_log_has_the_first_and_the_last_step_and_few_between() -> None:
    file, reporter = log()
    reporter.event(Started(step=0, steps=500))
    for step in range(1, 501):
        reporter.event(stepped(step, loss=3 / step))
    reporter.event(Finished(step=500, status="done", seconds=9.0))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("step 1/500")
    assert lines[-1].startswith("step 500/500")
    assert len(lines) < 6
    assert "2,000 tokens/s" in lines[-1]


def test_a_log_says_what_matters_at_once() -> None:
    file, reporter = log()
    reporter.event(Started(step=3, steps=9, resumed_from="checkpoints/step-00000003"))
    reporter.event(Evaluated(step=4, loss_nats=1.5, targets=10, seconds=0.1, best=True))
    reporter.event(Rescued(step=5, reason="loss is not finite", action="step skipped", rows=("a.jsonl:7",)))
    reporter.event(Saved(step=5, path="x", bytes=1, seconds=0.1))
    out = file.getvalue()
    assert "goes on after step 3 of 9" in out
    assert "held-out loss 1.5000" in out
    assert "a.jsonl:7" in out
    assert out.count("\n") == 3


@pytest.mark.parametrize(
    ("before", "words"),
    [(None, "best so far"), (2.0, "best so far"), (1.25, "worse than before training (1.2500)")],
)
def test_the_lowest_of_losses_that_are_all_worse_is_not_called_good(before: float | None, words: str) -> None:
    file, reporter = log()
    reporter.event(Evaluated(step=4, loss_nats=1.5, before_nats=before, targets=10, seconds=0.1, best=True))
    assert words in file.getvalue()
    assert ("best" in file.getvalue()) is words.startswith("best")


def test_a_long_phase_is_said_once_when_it_ends_and_a_short_one_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, reporter = log()
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for what, pace in (("reading rows.jsonl", 0.02), ("reading few.jsonl", 0.001)):
        for done in range(1, 101):
            now[0] += pace
            reporter.progress(what, done, 100)
    assert file.getvalue().splitlines() == ["reading rows.jsonl: 2.0 s"]


def test_the_training_line_fits_80_columns_and_says_all() -> None:
    course = progress.Course(Started(step=0, steps=1000))
    for step in range(1, 400):
        course.add(stepped(step, loss=3.0 - step / 200))
    line = progress.training_picture(course, 80).plain
    assert len(line) <= 80
    for part in ("399/1000", "loss 1.0", "tok/s", "left", "█"):
        assert part in line


# mutation tried: appending the loss without asking `finite`
def test_a_loss_that_is_not_finite_spoils_nothing() -> None:
    course = progress.Course(Started(step=0, steps=10))
    course.add(stepped(1, loss=math.nan))
    assert "nan" not in progress.training_picture(course, 80).plain
    course.add(stepped(2, loss=2.0))
    assert "loss 2.000" in progress.training_words(course).plain


# mutation tried: the pace from the start of the first step
def test_a_resumed_run_counts_its_pace_from_the_step_it_went_on_with() -> None:
    course = progress.Course(Started(step=90, steps=100, resumed_from="x"))
    for step in (90, 91):  # the first makes much that stays: on a card it took twenty times as long as others
        assert course.seconds_left is None
        assert "left" not in progress.training_words(course).plain
        course.add(stepped(step + 1))
    course.first = (91, time.monotonic() - 10)
    course.add(stepped(96))
    assert course.seconds_left == pytest.approx(8, abs=0.5)
    assert "8.0 s left" in progress.training_words(course).plain


def test_a_terminal_keeps_finished_phases_and_held_out_losses() -> None:
    file, screen = terminal()
    reporter = progress.Lively(screen)
    reporter.progress("reading", 10, None)
    reporter.phases["reading"] = (reporter.phases["reading"][0] - 5, 10, None)
    reporter.progress("reading", 20, 20)
    reporter.event(Started(step=0, steps=2))
    reporter.event(stepped(1))
    reporter.event(Evaluated(step=1, loss_nats=0.5, targets=10, seconds=0.1, best=True))
    out = file.getvalue()
    assert "reading" in out
    assert "held-out loss 0.5000" in out
    assert reporter.phases == {}


def test_a_closed_terminal_does_not_end_a_training() -> None:
    file, reporter = log()
    reporter.event(Started(step=0, steps=2))
    file.close()
    reporter.event(stepped(1))
    reporter.progress("reading", 5, 5)


def test_hostile_names_do_not_reach_the_terminal() -> None:
    file, reporter = log()
    reporter.phases["reading \x1b]0;owned\x07.jsonl"] = -100.0
    reporter.progress("reading \x1b]0;owned\x07.jsonl", 1, 1)
    assert "owned" in file.getvalue()
    assert "\x1b" not in file.getvalue()
