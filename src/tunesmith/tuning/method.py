"""What a tuning method is: prepare, parameter groups, hooks of the one loop, save and attach.

prepare -> [on_start] -> ( rate -> loss + extra_loss -> clip -> before_step -> step -> after_step )* -> on_end
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch
    from tunesmith.recipe import Optim

# (step, steps) -> learning rate of that step of a schedule so long; both count optimiser steps, from 1.
Schedule = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method may ask of the run it takes part in. `steps`: optimiser steps of the whole run.

    `words` tells the ids of a text; `sample` gives micro-batches of the first training rows, to look at.
    """

    seed: int = 0
    steps: int = 1
    words: Callable[[str], list[int]] = lambda text: []
    sample: Callable[[], Iterator[Batch]] = lambda: iter(())
    new_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Projection:
    """GaLore's low-rank space of a group's gradients (arXiv:2403.03507)."""

    rank: int
    every: int
    scale: float


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a rate and a decay. `lr_scale` multiplies the schedule's rate."""

    parameters: tuple[nn.Parameter, ...]
    weight_decay: float
    lr_scale: float = 1.0
    projection: Projection | None = None


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A prepared model: `model` runs, `trainable` names every tensor that may move, each once.

    A method may change what is in `trainable` between steps; what moves now has requires_grad.
    """

    model: nn.Module
    trainable: MutableMapping[str, nn.Parameter]

    @property
    def trainable_count(self) -> int:
        """Parameters that move now."""
        return sum(parameter.numel() for parameter in self.trainable.values() if parameter.requires_grad)


@dataclass(frozen=True, slots=True)
class Moments:
    """What the optimiser remembers of parameters, as far as a method may touch it."""

    optimizer: torch.optim.Optimizer

    def forget(self, parameters: Sequence[nn.Parameter]) -> None:
        """Begin anew: moments and step counts are gone."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)

    def prune(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """Set the smallest `share` of the moments to 0, by magnitude of the first (ReLoRA, arXiv:2307.05695).

        Both moments of a number go together, and counting begins anew: a first moment whose second is 0 would take
        a step without bound, and one whose second has just begun would be held for settled (10 times too long).
        """
        for parameter in parameters:
            held = {n: v for n, v in self.optimizer.state.get(parameter, {}).items() if torch.is_tensor(v)}
            first = held.get("exp_avg")
            if first is None or any(v.shape != first.shape for n, v in held.items() if n != "step"):
                self.forget([parameter])  # moments in 8 bits cannot be told apart
                continue
            smallest = first.abs().flatten().topk(round(share * first.numel()), largest=False).indices
            for entry, value in held.items():
                if entry == "step":
                    value.zero_()
                else:
                    value.view(-1)[smallest] = 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where a method takes part in the loop; `step` counts optimiser steps from 1. Unset: nothing to do.

    `rate` may bend the schedule; a state may hold tensors (top level) and JSON values. `forget_step`: the gradient
    of a step is computed anew, so what was seen of it so far does not count.
    """

    on_start: Callable[[], None] = lambda: None
    rate: Callable[[int, int, Schedule], float] = lambda step, steps, schedule: schedule(step, steps)
    extra_loss: Callable[[], Tensor | None] = lambda: None
    forget_step: Callable[[], None] = lambda: None
    before_step: Callable[[int], None] = lambda step: None
    after_step: Callable[[int], None] = lambda step: None
    on_end: Callable[[], None] = lambda: None
    state_dict: Callable[[], dict[str, Any]] = dict
    load_state_dict: Callable[[dict[str, Any]], None] = lambda state: None


class Method(Protocol):
    """A tuning method: a pure function of recipe and setting. What it can do stands in methods.py."""

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Freeze, wrap, initialise."""

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """What decays and at which rate."""

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """Its part in the loop."""

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """Write what was trained (safetensors and JSON), less than the whole model where it can be."""

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """Put what `save` wrote on a base model."""

    def merge(self, model: nn.Module) -> nn.Module:
        """The plain model that answers likewise; in fp32."""


def train_only(lm: nn.Module, names: set[str]) -> TunedModel:
    """Freeze all but `names`; what trains is held in fp32 (bf16 weights near 1 do not move at small rates)."""
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_(name in names)
        if name in names:
            parameter.data = parameter.data.float()
    return TunedModel(lm, {name: p for name, p in lm.named_parameters() if p.requires_grad})


def decay_matrices(tuned: TunedModel, weight_decay: float) -> list[ParameterGroup]:
    """Two groups: matrices decay; norms, biases and embeddings do not."""
    tables = {id(module.weight) for module in tuned.model.modules() if isinstance(module, nn.Embedding)}
    decays: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in tuned.trainable.values():
        (decays if parameter.dim() >= 2 and id(parameter) not in tables else rest).append(parameter)
    groups = [ParameterGroup(tuple(decays), weight_decay), ParameterGroup(tuple(rest), 0.0)]
    return [group for group in groups if group.parameters]
