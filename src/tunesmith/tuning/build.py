"""The recipe's tuning section -> the method that carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.recipe import Adapter, Freeze, Full, GaLore, LayerNorms, Lisa, Tuned, Tuning
from tunesmith.tuning.also import AlsoTuning
from tunesmith.tuning.bottleneck import BottleneckTuning
from tunesmith.tuning.full import Frozen, WeightTuning, norm_parameters
from tunesmith.tuning.galore import GaLoreTuning
from tunesmith.tuning.lisa import LisaTuning
from tunesmith.tuning.method import Method
from tunesmith.tuning.methods import METHODS

_WITHOUT_PEFT: Mapping[type[Tuned], Callable[[Any], Method]] = {
    Full: lambda tuning: WeightTuning(),
    Freeze: lambda tuning: WeightTuning(Frozen(tuning)),
    LayerNorms: lambda tuning: WeightTuning(norm_parameters),
    Lisa: LisaTuning,
    GaLore: GaLoreTuning,
    Adapter: BottleneckTuning,
}


def build(tuning: Tuning) -> Method:
    """The method of a tuning section, with the weights that train beside it."""
    method = _builder(type(tuning))(tuning)
    beside = tuning.also_train and not METHODS[tuning.method].can.whole
    return AlsoTuning(method, tuning) if beside else method


def _builder(section: type[Tuned]) -> Callable[[Any], Method]:
    """What makes a method, PEFT loaded only where it is needed."""
    if section in _WITHOUT_PEFT:
        return _WITHOUT_PEFT[section]
    from tunesmith.tuning.by_peft import BUILDERS

    return BUILDERS[section]
