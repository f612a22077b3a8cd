"""The methods whose layers, formats or numbers are PEFT's; importing them imports PEFT: 10 MiB and 0.1 s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith import recipe
from tunesmith.tuning.adalora import AdaLoraTuning
from tunesmith.tuning.bitfit import BiasTuning
from tunesmith.tuning.lora import LoraFATuning, LoraTuning
from tunesmith.tuning.lora_drop import DropTuning
from tunesmith.tuning.method import Method
from tunesmith.tuning.peft_methods import IA3Tuning, OftTuning, VeraTuning
from tunesmith.tuning.prefix import PrefixTuning
from tunesmith.tuning.prompt import SoftPromptTuning
from tunesmith.tuning.stages import StagedTuning

BUILDERS: Mapping[type[recipe.Tuned], Callable[[Any], Method]] = {
    recipe.BitFit: BiasTuning,
    recipe.Lora: LoraTuning,
    recipe.Prefix: PrefixTuning,
    recipe.PTuningV2: PrefixTuning,
    recipe.Prompt: SoftPromptTuning,
    recipe.PTuning: SoftPromptTuning,
    recipe.LoraFA: LoraFATuning,
    recipe.Vera: VeraTuning,
    recipe.IA3: IA3Tuning,
    recipe.Oft: OftTuning,
    recipe.AdaLora: AdaLoraTuning,
    recipe.ReLora: StagedTuning,
    recipe.PLora: StagedTuning,
    recipe.LoraDrop: DropTuning,
}
