"""Several LoRA adapters on one base at once, each with a weight: y = W x + sum_i w_i s_i B_i A_i x.

Live, so that weights can change between answers; PEFT merges them all into W; write_joined makes one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.errors import ModelError
from tunesmith.tuning.joined import Update, adapter_state, join, write_adapter
from tunesmith.tuning.lora_layers import lora_layers
from tunesmith.tuning.peft_methods import attach_adapter, require_all


def attach_several(lm: nn.Module, folders: Mapping[str, Path]) -> nn.Module:
    """The base with all adapters on it, by name (without dots). Raises ModelError where one does not fit."""
    (first, folder), *others = folders.items()
    model: Any = attach_adapter(lm, folder, first)
    for name, folder in others:
        try:
            lacking = model.load_adapter(str(folder), adapter_name=name, is_trainable=False).missing_keys
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            what = f"the adapter does not fit: {str(error).strip().splitlines()[0][:300]}"
            raise ModelError.at(str(folder), what, "use the base it was trained on") from error
        require_all(folder, lacking)
    weigh(model, dict.fromkeys(folders, 1.0))
    return model.eval()


def weigh(model: Any, weights: Mapping[str, float]) -> None:
    """Let each adapter count so much, from now on; those not named count nothing."""
    model.base_model.set_adapter([name for name in model.peft_config if weights.get(name)])
    for parameter in model.parameters():  # PEFT lets every active adapter train
        parameter.requires_grad_(False)
    for _, layer in lora_layers(model):
        for name, weight in weights.items():
            layer.set_scale(name, weight)


def write_joined(model: Any, weights: Mapping[str, float], base: str, folder: Path) -> None:
    """Their weighted sum as one plain LoRA adapter for the base, as PEFT loads it."""
    updates = [Update(adapter_state(model, name), _scale(model, name)) for name in weights]
    configs = [model.peft_config[name] for name in weights]
    config = copy(configs[0])
    config.target_modules = sorted({target for one in configs for target in one.target_modules})
    config.base_model_name_or_path = base
    write_adapter(folder, config, *join(updates))


def _scale(model: Any, name: str) -> float:
    """weight x alpha/r, as `weigh` has set it."""
    return float(next(layer.scaling[name] for _, layer in lora_layers(model) if name in layer.scaling))
