"""The recipe's tuning section -> the method that carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tunesmith.tuning.peft_alone  # noqa: F401 (first)
from tunesmith.recipe import (
    IA3,
    AdaLora,
    Adapter,
    BitFit,
    Freeze,
    Full,
    GaLore,
    LayerNorms,
    Lisa,
    Lora,
    LoraDrop,
    LoraFA,
    Oft,
    PLora,
    Prefix,
    Prompt,
    PTuning,
    PTuningV2,
    ReLora,
    Tuned,
    Tuning,
    Vera,
)  # fmt: skip
from tunesmith.tuning.adalora import AdaLoraTuning
from tunesmith.tuning.also import AlsoTuning
from tunesmith.tuning.bitfit import BiasTuning
from tunesmith.tuning.bottleneck import BottleneckTuning
from tunesmith.tuning.full import Frozen, WeightTuning, norm_parameters
from tunesmith.tuning.galore import GaLoreTuning
from tunesmith.tuning.lisa import LisaTuning
from tunesmith.tuning.lora import LoraFATuning, LoraTuning
from tunesmith.tuning.lora_drop import DropTuning
from tunesmith.tuning.method import Method
from tunesmith.tuning.methods import METHODS
from tunesmith.tuning.peft_methods import IA3Tuning, OftTuning, VeraTuning
from tunesmith.tuning.prefix import PrefixTuning
from tunesmith.tuning.prompt import SoftPromptTuning
from tunesmith.tuning.stages import StagedTuning

_BUILDERS: Mapping[type[Tuned], Callable[[Any], Method]] = {
    Full: lambda tuning: WeightTuning(),
    Freeze: lambda tuning: WeightTuning(Frozen(tuning)),
    BitFit: BiasTuning,
    LayerNorms: lambda tuning: WeightTuning(norm_parameters),
    Lora: LoraTuning,
    Prefix: PrefixTuning,
    PTuningV2: PrefixTuning,
    Prompt: SoftPromptTuning,
    PTuning: SoftPromptTuning,
    LoraFA: LoraFATuning,
    Vera: VeraTuning,
    IA3: IA3Tuning,
    Oft: OftTuning,
    AdaLora: AdaLoraTuning,
    ReLora: StagedTuning,
    PLora: StagedTuning,
    LoraDrop: DropTuning,
    Lisa: LisaTuning,
    GaLore: GaLoreTuning,
    Adapter: BottleneckTuning,
}


def build(tuning: Tuning) -> Method:
    """The method of a tuning section, with the weights that train beside it."""
    method = _BUILDERS[type(tuning)](tuning)
    beside = tuning.also_train and not METHODS[tuning.method].can.whole
    return AlsoTuning(method, tuning) if beside else method
