"""Live progress on standard error: a line for what is being done, a line for the training.

 ✓ reading rows.jsonl            1,200   0.3 s
   training ━━━━━━━━━━━╸━━━━━━  62/100  loss 1.234 █▆▅▃▂▂▁▁  3.9 k tok/s  42 s left
Where standard error is not a terminal, whole lines now and then.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.events import Evaluated, Event, Failed, Finished, Reporter, Rescued, Saved, Started, Stepped

QUIET_SECONDS = 5.0
"""Without a terminal a line at most this often, so that a log of a long run stays short."""

WORTH_SECONDS = 0.5
"""A phase shorter than this was over before anybody wondered; it leaves no line."""

LIVELY = 8
"""Redraws a second."""


class Course:
    """What is known of a training: where it is, how fast, how the loss went."""

    def __init__(self, started: Started) -> None:
        self.step, self.steps = started.step, started.steps
        self.losses: list[float] = []
        self.recent: deque[tuple[int, float]] = deque(maxlen=20)
        self.first: tuple[int, float] | None = None
        """The first step, and when it was done: much is made in it that stays."""

    def add(self, event: Stepped) -> None:
        """One step more."""
        self.step = event.step
        self.first = self.first or (event.step, time.monotonic())
        if event.finite:
            self.losses.append(event.loss_nats)
        self.recent.append((event.tokens, event.seconds))

    @property
    def loss_nats(self) -> float | None:
        """Mean over the last few steps: one step's loss jumps about."""
        last = self.losses[-5:]
        return sum(last) / len(last) if last else None

    @property
    def tokens_a_second(self) -> float | None:
        """Rate of the last steps."""
        seconds = sum(s for _, s in self.recent)
        return sum(t for t, _ in self.recent) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace since the first step, evaluations and checkpoints included; not known before the second."""
        if self.first is None or self.first[0] == self.step:
            return None
        step, at = self.first
        return (time.monotonic() - at) / (self.step - step) * (self.steps - self.step)


class Screen(Reporter, Protocol):
    """A reporter that can stand aside while something else is printed."""

    def aside(self, speak: Callable[[], object]) -> None:
        """Let `speak` print, with no live line in its way."""

    def settle(self) -> None:
        """The training is over: its line is said once more, for good."""


class Plain:
    """Reporter for logs and pipes: whole lines, few of them."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.course: Course | None = None
        self.spoken = 0.0
        self.phases: dict[str, float] = {}

    def event(self, event: Event) -> None:
        """One line for what matters, a step now and then."""
        if isinstance(event, Started):
            self.course = Course(event)
        if isinstance(event, Stepped) and self.course:
            self.course.add(event)
            last = event.step == self.course.steps
            if time.monotonic() - self.spoken >= QUIET_SECONDS or last:
                self.spoken = time.monotonic()
                self._say(training_words(self.course))
        elif (words := event_words(event)) is not None:
            self._say(words)

    def progress(self, what: str, done: int, total: int | None) -> None:
        """A line when a phase ends, and now and then while it is long."""
        began = self.phases.setdefault(what, time.monotonic())
        if total is not None and done >= total:
            del self.phases[what]
            if (seconds := time.monotonic() - began) >= WORTH_SECONDS:
                self._say(Text(f"{what}: {base.duration(seconds)}"))
        elif time.monotonic() - max(self.spoken, began) >= QUIET_SECONDS:
            self.spoken = time.monotonic()
            self._say(Text(f"{what}: {100 * done // total}%" if total else f"{what} ..."))

    def aside(self, speak: Callable[[], object]) -> None:
        """Lines are never in the way."""
        speak()

    def settle(self) -> None:
        """The last step was said when it was taken."""
        self.course = None

    def _say(self, words: Text) -> None:
        quietly(lambda: self.screen.print(base.visible(words.plain), soft_wrap=True))


class Lively:
    """Reporter for a terminal: finished lines scroll up, what is going on stays at the bottom."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.course: Course | None = None
        self.phases: dict[str, tuple[float, int, int | None]] = {}
        self.spoke = False
        self.live = Live(
            get_renderable=self.picture,
            console=screen,
            refresh_per_second=LIVELY,
            transient=True,
            redirect_stdout=False,
        )

    def event(self, event: Event) -> None:
        """Redraw, and let what matters scroll up."""
        if isinstance(event, Started):
            self.course = Course(event)
        elif isinstance(event, Stepped) and self.course:
            self.course.add(event)
        elif isinstance(event, Finished | Failed):
            self.settle()
        if not isinstance(event, Stepped):
            self._say(event_words(event))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Redraw; a finished phase becomes a line that stays."""
        began = self.phases.get(what, (time.monotonic(), 0, None))[0]
        if total is not None and done >= total:
            self.phases.pop(what, None)
            if (seconds := time.monotonic() - began) >= WORTH_SECONDS:
                self._say(phase_words(what, seconds))
        else:
            self.phases[what] = (began, done, total)

    def aside(self, speak: Callable[[], object]) -> None:
        """Take the live lines away, let `speak` print, and put them back."""
        self.live.stop()
        try:
            speak()
        finally:
            self.live.start()

    def settle(self) -> None:
        """Let the training line scroll up."""
        if self.course:
            whole = self.course.step == self.course.steps
            self._say(base.mark("good" if whole else "quiet", training_words(self.course)))
        self.course = None

    def picture(self) -> RenderableType:
        """What is going on now."""
        grid = Table.grid()
        for what, (began, done, total) in self.phases.items():
            grid.add_row(doing_words(what, done, total, time.monotonic() - began))
        if self.course:
            grid.add_row(training_picture(self.course, self.screen.width))
        return grid

    def _say(self, words: Text | None) -> None:
        if words is not None:
            self.spoke = True
            quietly(lambda: self.screen.print(words))


def training_words(course: Course) -> Text:
    """The training in one plain line."""
    parts = [f"step {course.step}/{course.steps}", f"loss {base.number(course.loss_nats)}"]
    if course.tokens_a_second:
        parts.append(f"{base.short_count(course.tokens_a_second)} tokens/s")
    if course.step < course.steps and course.seconds_left is not None:
        parts.append(f"{base.duration(course.seconds_left)} left")
    return Text("  ".join(parts))


def training_picture(course: Course, width: int) -> Text:
    """The training line of a terminal: bar, loss with its course, rate, time left."""
    tail = [f"{course.step}/{course.steps}", f"loss {base.number(course.loss_nats)}"]
    rate = f"{base.short_count(course.tokens_a_second)} tok/s" if course.tokens_a_second else ""
    left = f"{base.duration(course.seconds_left)} left" if course.seconds_left is not None else ""
    spark = base.sparkline(course.losses, 10)
    used = sum(len(part) + 2 for part in (*tail, rate, left)) + len(spark) + 14
    room = max(6, min(24, width - used))
    full = round(room * course.step / course.steps) if course.steps else 0
    return Text.assemble(
        ("  training ", "strong"), ("━" * full, "accent"), ("━" * (room - full), "quiet"),
        f"  {tail[0]}  {tail[1]} ", (spark, "accent"), (f"  {rate}" if rate else "", "default"),
        (f"  {left}" if left else "", "quiet"), no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


def doing_words(what: str, done: int, total: int | None, seconds: float) -> Text:
    """A phase that goes on."""
    line = Text("  ")
    line.append(base.short(base.visible(what), 40).ljust(40) + " ")
    if total:
        room = 20
        full = min(room, round(room * done / total))
        line.append("━" * full, "accent").append("━" * (room - full), "quiet")
        line.append(f" {100 * done // total:3d}%")
    return line.append(f"  {base.duration(seconds)}", "quiet")


def phase_words(what: str, seconds: float) -> Text:
    """A phase that ended."""
    line = Text.assemble(("✓ ", "good"), base.short(base.visible(what), 58).ljust(58))
    return line.append(f"{base.duration(seconds):>10}", "quiet")


def event_words(event: Event) -> Text | None:
    """What an event says to a person; None for those that only move the bar."""
    match event:
        case Started(resumed_from=str(origin)):
            return Text(
                f"{_stage(event)}  goes on after step {event.step} of {event.steps} ({base.visible(origin)})"
            )
        case Started(stage=str()):
            return Text(f"{_stage(event)}  from step {event.step + 1} of {event.steps}")
        case Evaluated():
            return Text.assemble(
                (f"  step {event.step}", "quiet"), f"  held-out loss {event.loss_nats:.4f}", _standing(event)
            )
        case Rescued():
            rows = f" ({', '.join(event.rows[:3])})" if event.rows else ""
            at = f"step {event.step}: " if event.step else ""  # what is found before any step is of none
            return base.mark("warn", base.visible(f"{at}{event.reason}{rows}; {event.action}"))
        case Saved() | Started() | Stepped() | Failed() | Finished():
            return None


def _standing(event: Evaluated) -> tuple[str, str]:
    """How a held-out loss compares: with that before training, and with those since."""
    if event.before_nats is not None and event.loss_nats > event.before_nats:
        return f"  worse than before training ({event.before_nats:.4f})", "warn"
    return ("  best so far" if event.best else ""), "good"


def _stage(event: Started) -> str:
    return f"  stage {base.visible(event.stage)}:" if event.stage else ""


def quietly(speak: Callable[[], object]) -> None:
    """Progress is never worth a failure: a closed terminal must not end a training."""
    try:
        speak()
    except (OSError, ValueError):
        return


@contextmanager
def reporting() -> Iterator[Screen]:
    """The reporter that suits standard error, for the length of one verb."""
    screen = base.console(sys.stderr)
    if not screen.is_terminal or screen.is_dumb_terminal or os.environ.get("CI"):
        yield Plain(screen)
        return
    lively = Lively(screen)
    lively.live.start()
    try:
        yield lively
    finally:
        lively.phases.clear()
        lively.course = None
        quietly(lively.live.stop)
        if lively.spoke:
            quietly(screen.print)  # what follows is the answer
