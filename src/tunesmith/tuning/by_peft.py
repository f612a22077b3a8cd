"""The methods whose layers, formats or numbers are PEFT's; importing them imports PEFT: 10 MiB and 0.1 s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.recipe import (
    IA3, AdaLora, BitFit, Lora, LoraDrop, LoraFA, Oft, PLora, Prefix, Prompt, PTuning, PTuningV2, ReLora, Tuned, Vera,
)  # fmt: skip
from tunesmith.tuning.adalora import AdaLoraTuning
from tunesmith.tuning.bitfit import BiasTuning
from tunesmith.tuning.lora import LoraFATuning, LoraTuning
from tunesmith.tuning.lora_drop import DropTuning
from tunesmith.tuning.method import Method
from tunesmith.tuning.peft_methods import IA3Tuning, OftTuning, VeraTuning
from tunesmith.tuning.prefix import PrefixTuning
from tunesmith.tuning.prompt import SoftPromptTuning
from tunesmith.tuning.stages import StagedTuning

BUILDERS: Mapping[type[Tuned], Callable[[Any], Method]] = {
    BitFit: BiasTuning,
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
}
