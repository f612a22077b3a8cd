"""Runs of methods whose parts come and go: a loop of a few lines, and the engine's own on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny import random_samples, tiny_model
from tests.tuning.steps import BATCH
from tunesmith.data.loader import plan_steps
from tunesmith.engine.loop import fit
from tunesmith.engine.optim import make_optimizer, rate, set_rate
from tunesmith.engine.progress import FitResult, Settings
from tunesmith.engine.store import CheckpointStore
from tunesmith.events import Recording, Silent
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Optim, Recipe, Tuning, parse
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Hooks, Method, Moments, Setting, TunedModel


def recipe_of(tuning: dict[str, Any] | str, **more: Any) -> Recipe:
    """A recipe with that tuning."""
    return parse({"model": "tiny", "data": {"train": "none.jsonl"}, "tuning": tuning, **more})


def tuning_of(tuning: dict[str, Any] | str) -> Tuning:
    """A tuning section."""
    return recipe_of(tuning).tuning


@dataclass
class Drive:
    """A prepared model, its optimiser and hooks, and a step."""

    method: Method
    tuned: TunedModel
    optimizer: torch.optim.Optimizer
    hooks: Hooks
    steps: int
    lr: float
    autocast: bool = False

    def step(self, number: int, finite: bool = True) -> float:
        """One step as the loop takes it."""
        optim = Optim()
        lr = self.hooks.rate(number, self.steps, lambda at, of: rate(at, of, self.lr, optim))
        set_rate(self.optimizer, lr)
        self.tuned.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss = summed_loss(self.tuned.model, BATCH) / 20
        loss.backward()
        penalty = self.hooks.extra_loss()
        if penalty is not None:
            penalty.backward()
        if finite:
            self.hooks.before_step(number)
            self.optimizer.step()
            self.hooks.after_step(number)
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def run(self, after: Callable[[int], None] = lambda step: None) -> None:
        """All steps."""
        for number in range(1, self.steps + 1):
            self.step(number)
            after(number)
        self.hooks.on_end()


def drive(model: Any, tuning: dict[str, Any] | str, steps: int, lr: float = 1e-2, seed: int = 0) -> Drive:
    """A method on a model, ready to be driven for a run of `steps`."""
    method = build(tuning_of(tuning))
    tuned = method.prepare(model, Setting(seed=seed, steps=steps))
    optimizer = make_optimizer(method.parameter_groups(tuned, Optim()), (0.9, 0.999))
    return Drive(method, tuned, optimizer, method.hooks(tuned, Moments(optimizer)), steps, lr)


def fit_run(
    folder: Path,
    tuning: dict[str, Any],
    *,
    steps: int = 12,
    stop_after: int | None = None,
    micro_tokens: int = 64,
    packing: bool = True,
    lr: float = 1e-2,
    **model: Any,
) -> tuple[FitResult, TunedModel, Method]:
    """A run of the engine; the same folder again resumes it."""
    checked = recipe_of(
        tuning, budget={"steps": steps}, optim={"batch_tokens": 48, "warmup": 2},
        data={"train": "none.jsonl", "packing": packing},
    )  # fmt: skip
    sources = (random_samples(60, seed=1),)
    plan = plan_steps(sources, (None,), checked.budget, checked.optim.batch_tokens, seed=3)
    method = build(checked.tuning)
    torch.manual_seed(0)
    tuned = method.prepare(tiny_model(**{"num_hidden_layers": 3, **model}), Setting(seed=4, steps=len(plan)))
    folder.mkdir(parents=True, exist_ok=True)
    bf16 = model.get("dtype") == torch.bfloat16
    settings = Settings(lr, bf16, micro_tokens, evaluate_every=50, save_every=50, stop_after=stop_after)
    result = fit(
        tuned, method, summed_loss, sources, plan, checked, settings,
        CheckpointStore(folder / "checkpoints", 2), {}, Recording(folder / "events.jsonl", Silent()), None,
    )  # fmt: skip
    return result, tuned, method


def state_of(tuned: TunedModel) -> dict[str, Tensor]:
    """Every tensor of the model."""
    return {name: tensor.detach().clone() for name, tensor in tuned.model.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
