"""What a tuning method is: prepare, parameter groups, hooks of the one loop, save and attach.

prepare -> [on_start] -> ( on_batch -> loss + extra_loss -> clip -> before_step -> step -> after_step )* -> on_end
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch
    from tunesmith.model.facts import ModelFacts
    from tunesmith.recipe import Optim


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a method can do; checked against the recipe before anything heavy loads."""

    merge: Literal["exact", "rounded", "no"]
    serve: frozenset[Literal["lora", "merged", "hf"]]
    quantised_base: bool
    checkpointing: bool
    packing: bool
    fused_loss: bool
    needs_calibration: bool


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a rate and a decay. `lr_scale` multiplies the schedule's rate."""

    parameters: tuple[nn.Parameter, ...]
    weight_decay: float
    lr_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A prepared model: `model` runs, `trainable` names every tensor that moves, each once."""

    model: nn.Module
    trainable: Mapping[str, nn.Parameter]

    @property
    def trainable_count(self) -> int:
        """Trainable parameters."""
        return sum(parameter.numel() for parameter in self.trainable.values())


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where a method takes part in the loop; `step` counts optimiser steps from 1. Unset: nothing to do."""

    on_start: Callable[[], None] = lambda: None
    on_batch: Callable[[Batch], Batch] = lambda batch: batch
    extra_loss: Callable[[], Tensor | None] = lambda: None
    before_step: Callable[[int], None] = lambda step: None
    after_step: Callable[[int], None] = lambda step: None
    on_end: Callable[[], None] = lambda: None
    state_dict: Callable[[], dict[str, Any]] = dict
    load_state_dict: Callable[[dict[str, Any]], None] = lambda state: None


class Method(Protocol):
    """A tuning method: a pure function of recipe and seed."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def trainable_parameters(self, facts: ModelFacts) -> int:
        """How many parameters train, from the config alone; prepare() must agree."""

    def prepare(self, lm: nn.Module, seed: int) -> TunedModel:
        """Freeze, wrap, initialise."""

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """What decays and at which rate."""

    def hooks(self, tuned: TunedModel) -> Hooks:
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
