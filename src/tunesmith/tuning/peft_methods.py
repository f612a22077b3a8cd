"""Methods whose layers PEFT has: wrap the targets, train what was added, save and load in PEFT's own format.

lm --PeftConfig--> PeftModel --save--> adapter_config.json + adapter_model.safetensors --attach--> the same function
Here: VeRA (arXiv:2310.11454), IA3 (arXiv:2205.05638), OFT (arXiv:2306.07280); the LoRA family stands in lora.py.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError, RecipeError
from tunesmith.model.families import FAMILIES
from tunesmith.recipe import IA3, Oft, Optim, Vera
from tunesmith.tuning.footprint import scaled_parts
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Setting, TunedModel, decay_matrices
from tunesmith.tuning.peft_alone import (
    IA3Config,
    OFTConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
    injecting,
)
from tunesmith.tuning.targets import Wanted


def wrap(lm: nn.Module, config: PeftConfig, seed: int) -> PeftModel:
    """PEFT's layers around the targets, drawn from `seed` alone. Raises RecipeError for names that are not there."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with injecting():
                return get_peft_model(lm, config)
        except ValueError as error:
            what, fix = str(error).splitlines()[0][:300], "name linear layers such as [q_proj, v_proj]"
            raise RecipeError.at("tuning.targets", what, fix) from error


def peft_targets(wanted: Wanted) -> str | list[str]:
    """Targets as PEFT spells them; its all-linear leaves the head out, as ours does."""
    return "all-linear" if wanted == "all_linear" else list(wanted)


def stored_transposed(lm: nn.Module) -> bool:
    """Whether weights lie as [inputs, outputs], which PEFT calls fan_in_fan_out (GPT-2's)."""
    return any(isinstance(module, Conv1D) for module in lm.modules())


def training(model: nn.Module) -> TunedModel:
    """What of a wrapped model trains."""
    return TunedModel(model, {name: p for name, p in model.named_parameters() if p.requires_grad})


def attach_adapter(lm: nn.Module, folder: Path, name: str = "default") -> PeftModel:
    """The base with a saved adapter on it. Raises ModelError where it does not fit, in whole or in part.

    PEFT only warns where the file lacks what the config promises: such an adapter would answer like its base.
    """
    try:
        with injecting(), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            found = PeftModel.from_pretrained(lm, folder, adapter_name=name, is_trainable=False)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:300]
        what, fix = f"the adapter does not fit: {first}", "use the base it was trained on"
        raise ModelError.at(str(folder), what, fix) from error
    warned = (
        str(each.message).partition("missing adapter keys while loading the checkpoint: ") for each in heard
    )
    require_all(folder, [names for _, said, names in warned if said])
    return found


def require_all(folder: Path, lacking: Sequence[str]) -> None:
    """Raise ModelError where an adapter's file lacks weights that its config names."""
    if lacking:
        what = f"the adapter lacks weights that its config names: {', '.join(lacking):.200}"
        fix = "copy the adapter again, whole, or name the base it was trained on"
        raise ModelError.at(str(folder), what, fix)


@dataclass(frozen=True, slots=True)
class PeftTuning(ABC):
    """What all methods of PEFT's share; each says only how it is configured."""

    @abstractmethod
    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """The method in PEFT's words."""

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Wrap the targets; the function is unchanged."""
        return training(wrap(lm, self.config(lm, setting), setting.seed))

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """Matrices decay, towards the base; vectors do not."""
        return decay_matrices(tuned, optim.weight_decay)

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """None."""
        return Hooks()

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """adapter_config.json and adapter_model.safetensors, as PEFT loads them."""
        model: Any = tuned.model
        model.save_pretrained(folder, safe_serialization=True)

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """The base with the saved adapter on it."""
        return attach_adapter(lm, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """The adapter folded into the weights, in fp32; the caller rounds once."""
        wrapped: Any = model.float()
        return wrapped.merge_and_unload()


@dataclass(frozen=True, slots=True)
class VeraTuning(PeftTuning):
    """y = W x + b * (B (d * (A x))): b, d train; A, B are one random pair for all layers, sliced to fit."""

    vera: Vera

    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """The random pair is drawn from the seed and kept in the file: other versions may draw otherwise."""
        return VeraConfig(
            r=self.vera.rank,
            target_modules=peft_targets(self.vera.targets),
            d_initial=self.vera.d_initial,
            projection_prng_key=setting.seed,
            save_projection=True,
            fan_in_fan_out=stored_transposed(lm),
            task_type="CAUSAL_LM",
        )

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """b = 0: the function is unchanged."""
        tuned = training(wrap(lm, self.config(lm, setting), setting.seed))
        with torch.no_grad():  # beside bf16 weights PEFT has rounded it once
            for name, parameter in tuned.trainable.items():
                if "vera_lambda_d" in name:
                    parameter.fill_(self.vera.d_initial)
        return tuned


@dataclass(frozen=True, slots=True)
class IA3Tuning(PeftTuning):
    """Factors on outputs of linear layers, and on the inputs of the feed-forward's last one."""

    ia3: IA3

    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """Targets by name: what PEFT takes by itself is queries and values on some families."""
        config: Any = lm.config
        outputs, inputs = scaled_parts(self.ia3, FAMILIES.get(config.model_type, FAMILIES["llama"]))
        return IA3Config(
            target_modules=[*outputs, *inputs],
            feedforward_modules=list(inputs),
            fan_in_fan_out=stored_transposed(lm),
            task_type="CAUSAL_LM",
        )

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """No decay: factors begin at 1, and 0 would silence a layer."""
        return decay_matrices(tuned, 0.0)


@dataclass(frozen=True, slots=True)
class OftTuning(PeftTuning):
    """y = W R x, R orthogonal in blocks: R = (I + Q)^-1 (I - Q) with Q skew-symmetric, 0 at first."""

    oft: Oft

    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """The exact Cayley transform: PEFT's five-term series leaves the orthogonal matrices as Q grows."""
        return OFTConfig(
            oft_block_size=self.oft.block,
            target_modules=peft_targets(self.oft.targets),
            use_cayley_neumann=False,
            task_type="CAUSAL_LM",
        )
