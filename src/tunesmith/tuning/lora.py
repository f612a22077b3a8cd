"""LoRA and its kin through PEFT: h = W x + s B A x, s = alpha/r or alpha/sqrt(r); A random, B 0.

Hu et al. 2021 (arXiv:2106.09685); rsLoRA (arXiv:2312.03732), DoRA (arXiv:2402.09353), LoRA+ (arXiv:2402.12354),
LoRA-FA (arXiv:2308.03303); other beginnings stand in lora_init.py. Adapters are fp32, in PEFT's format on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.recipe import Lora, LoraFA, Optim
from tunesmith.recipe.tuning import LowRank
from tunesmith.tuning.joined import Update, adapter_state, join, write_adapter
from tunesmith.tuning.lora_init import START, begin_with_inputs, begin_with_parts, start_tensors
from tunesmith.tuning.lora_layers import DEFAULT, FUSED, lora_layers
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Setting, TunedModel, decay_matrices
from tunesmith.tuning.peft_alone import LoraConfig, PeftConfig
from tunesmith.tuning.peft_methods import PeftTuning, peft_targets, stored_transposed, training, wrap

DELTA = 1e-8  # keeps A A^T invertible, as PEFT's LoRA-FA does


def lora_config(lm: nn.Module, tuning: LowRank, **options: Any) -> LoraConfig:
    """PEFT's config of a low-rank section, with our layer."""
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.scale_alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
        target_modules=peft_targets(tuning.targets),
        fan_in_fan_out=stored_transposed(lm),
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )
    config._register_custom_module(FUSED)
    return config


@dataclass(frozen=True, slots=True)
class LoraTuning(PeftTuning):
    """Low-rank updates beside frozen linear layers."""

    lora: Lora

    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """Variant and scaling are PEFT's; where A and B begin is ours."""
        lora = self.lora
        return lora_config(
            lm,
            lora,
            lora_dropout=lora.dropout,
            use_rslora=lora.scaling == "rslora",
            use_dora=lora.variant == "dora",
        )

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Wrap the targets; the function is unchanged, whatever A and B begin with."""
        model = wrap(lm, self.config(lm, setting), setting.seed)
        if self.lora.variant == "dora":
            with (
                torch.no_grad()
            ):  # beside bf16 weights PEFT's lengths are rounded, and W would turn into another
                for _, layer in lora_layers(model):
                    layer.lora_magnitude_vector[DEFAULT].weight.copy_(layer.row_lengths([DEFAULT]))
        if self.lora.init in ("pissa", "olora"):
            begin_with_parts(model, self.lora.init, setting.seed)
        if self.lora.init == "eva":
            begin_with_inputs(model, setting)
        return training(model)

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """A and B decay alike; with LoRA+ every B learns faster, and nothing else: no length, no other weight."""
        groups = decay_matrices(tuned, optim.weight_decay)
        ratio = self.lora.lr_ratio
        if ratio in (None, 1):
            return groups
        fast = {id(p) for name, p in tuned.trainable.items() if ".lora_B." in name}
        split = [
            ParameterGroup(
                tuple(p for p in group.parameters if (id(p) in fast) == faster),
                group.weight_decay,
                group.lr_scale * (ratio if faster else 1.0),
            )
            for group in groups
            for faster in (False, True)
        ]
        return [group for group in split if group.parameters]

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """PiSSA's and OLoRA's frozen parts travel with the checkpoint: another machine's SVD differs in its bits."""
        parts = start_tensors(tuned.model)

        def load(state: dict[str, Any]) -> None:
            with torch.no_grad():
                for name, tensor in parts.items():
                    tensor.copy_(state[name])

        return Hooks(state_dict=lambda: dict(parts), load_state_dict=load)

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """A plain LoRA against the base on disk; PiSSA and OLoRA with their frozen parts as one of rank 2 r."""
        model: Any = tuned.model
        if START not in model.peft_config:
            model.save_pretrained(folder, safe_serialization=True)
            return
        parts = [Update(adapter_state(model, name), _scale(model, name)) for name in (DEFAULT, START)]
        write_adapter(folder, model.peft_config[DEFAULT], *join(parts))

    def merge(self, model: nn.Module) -> nn.Module:
        """W + s B A, in fp32; the caller rounds once."""
        wrapped: Any = model.float()
        if START in wrapped.peft_config:
            _fold_start(wrapped)
        return wrapped.merge_and_unload()


def _scale(model: nn.Module, name: str) -> float:
    """alpha/r or alpha/sqrt(r); all layers have the same."""
    return float(next(layer.scaling[name] for _, layer in lora_layers(model)))


def _fold_start(model: Any) -> None:
    """The adapter and its frozen twin as one of rank 2 r: PEFT cannot merge two where lengths are learnt."""
    for _, layer in lora_layers(model):
        a, b, layer.scaling[DEFAULT] = layer.joined([DEFAULT, START])
        layer.lora_A[DEFAULT].weight, layer.lora_B[DEFAULT].weight = nn.Parameter(a), nn.Parameter(b)
    model.base_model.set_adapter(DEFAULT)


@dataclass(frozen=True, slots=True)
class LoraFATuning(PeftTuning):
    """LoRA whose A stays as it was drawn; B's gradient becomes that of the best step within A's row space."""

    lora: LoraFA

    def config(self, lm: nn.Module, setting: Setting) -> PeftConfig:
        """That of a plain LoRA."""
        return lora_config(lm, self.lora)

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """A is frozen before the first forward pass, or inputs would be kept for its gradient."""
        model = wrap(lm, self.config(lm, setting), setting.seed)
        for _, layer in lora_layers(model):
            layer.lora_A[DEFAULT].weight.requires_grad_(False)
        return training(model)

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """g_B <- g_B (A A^T)^-1 / s^2 before each step: then s g_B A is W's gradient, projected on A's rows."""
        conditioners: Mapping[nn.Parameter, Tensor] = {
            layer.lora_B[DEFAULT].weight: conditioner(
                layer.lora_A[DEFAULT].weight, layer.scaling[DEFAULT]
            )
            for _, layer in lora_layers(tuned.model)
        }  # fmt: skip

        def before_step(step: int) -> None:
            for b, inverse in conditioners.items():
                if b.grad is not None:
                    b.grad = b.grad @ inverse

        return Hooks(before_step=before_step)


def conditioner(a: Tensor, scaling: float) -> Tensor:
    """(A A^T + delta I)^-1 / s^2: Float32[r, r]. A never changes, so once is enough."""
    a = a.detach().double()
    inverse = torch.linalg.inv(a @ a.t() + DELTA * torch.eye(len(a), dtype=a.dtype, device=a.device))
    return (inverse / scaling**2).float()
