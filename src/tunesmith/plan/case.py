"""What a rule of advice looks at, and what it says: Case -> rule -> Advice | None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.model.facts import ModelFacts
from tunesmith.plan.device import Device
from tunesmith.recipe import Freeze, Full, GaLore, Lisa, Recipe

if TYPE_CHECKING:
    from tunesmith.plan.registry import PastRun
    from tunesmith.plan.summary import DataSummary

# The notes' rates and sizes are of models with billions of weights; below this they do not hold.
SMALL_MODEL = 100_000_000


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change, why, and where that is known from. `change`: recipe keys and values, perhaps none."""

    rule: str
    reason: str
    source: str
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """What rules look at. `data` and `steps` are None where data is not read; `nearest`: recipe keys that fit.

    runs: those on the same data that ended, None where nobody looked; room: share of the memory the run needs;
    wide_fits: whether the same run fits with a base that is not held in 4 bits.
    """

    recipe: Recipe
    facts: ModelFacts
    device: Device
    lr: float
    steps: int | None = None
    data: DataSummary | None = None
    fits: bool = True
    nearest: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[PastRun, ...] | None = None
    seconds: float | None = None
    room: float = 0.0
    wide_fits: bool = True

    @property
    def new_model(self) -> bool:
        """Whether training starts from random weights: nothing can be forgotten."""
        return self.recipe.model.from_config is not None

    @property
    def weights_train(self) -> bool:
        """Whether the model's own matrices train, not something small beside them."""
        return isinstance(self.recipe.tuning, Full | Freeze | Lisa | GaLore)

    @property
    def sft(self) -> bool:
        """Whether answers are learnt."""
        return self.recipe.objective == "sft"
