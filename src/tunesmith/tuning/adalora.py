"""AdaLoRA on PEFT's layers: y = W x + s P L Q x, whose ranks are cut where they matter least.

Zhang et al. 2023 (arXiv:2303.10512). PEFT has the layers and the allocator; when it is asked stands here, by steps
of this run. Kept twice: as PEFT's AdaLoRA with its ranks, and in lora/ folded to a plain LoRA that any server knows.

    scores   after each step, gradients alive, until steps - settle
    budget   r0 until warmup, then down with the cube of what is left, then r
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import RecipeError
from tunesmith.recipe import AdaLora, Optim
from tunesmith.tuning.lengths import cutting, length_problems
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Setting, TunedModel, decay_matrices
from tunesmith.tuning.peft_alone import AdaLoraConfig
from tunesmith.tuning.peft_methods import attach_adapter, peft_targets, stored_transposed, training, wrap

FOLDED = "lora"  # the folder of the plain form, inside the adapter's
_SCORES = ("exp_avg_ipt", "exp_avg_unc")  # PEFT's names of what the importance is made of
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# PEFT draws P and Q with this deviation, so that their vectors have the length 1 that the penalty asks for at a width
# of 2,500 only; at 128 they are 4 times too short, and L learns 16 times slower. Here they begin with length 1.
DRAWN = 0.02
_RANK_FLOOR = 1e-5  # PEFT divides by the first rank and this


@dataclass(frozen=True, slots=True)
class AdaLoraTuning:
    """Updates P L Q beside frozen linear layers, under one budget of ranks."""

    section: AdaLora

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Wrap the targets; the function is unchanged (L = 0). Vectors of P and Q begin with length 1."""
        section = self.section
        if problems := length_problems(section, setting.steps):
            raise RecipeError(problems)
        warmup, settle = cutting(section, setting.steps)
        config = AdaLoraConfig(
            init_r=section.first_rank,
            target_r=section.rank,
            tinit=warmup,
            tfinal=settle,
            total_step=setting.steps,
            beta1=section.beta,
            beta2=section.beta,
            orth_reg_weight=section.orthogonality,
            lora_alpha=section.scale_alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
            lora_dropout=0.0,
            target_modules=peft_targets(section.targets),
            fan_in_fan_out=stored_transposed(lm),
            bias="none",
            task_type="CAUSAL_LM",
        )
        tuned = training(wrap(lm, config, setting.seed))
        with torch.no_grad():
            for matrix, columns in _factors(tuned):
                matrix.mul_(DRAWN**-1 * (len(matrix) if columns else matrix.shape[1]) ** -0.5)
        return tuned

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """P, L and Q decay alike."""
        return decay_matrices(tuned, optim.weight_decay)

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """The penalty on P and Q, and the allocation of ranks."""
        allocation = _Allocation(tuned.model)
        weight, factors = self.section.orthogonality, _factors(tuned)
        return Hooks(
            extra_loss=lambda: weight * orthogonality(factors) if weight else None,
            after_step=allocation.after_step,
            state_dict=allocation.state_dict,
            load_state_dict=allocation.load_state_dict,
        )

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """PEFT's AdaLoRA, cut to its ranks; and the same as a plain LoRA in lora/."""
        model: Any = tuned.model
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Adapter '.*' LoRA tensor", category=UserWarning)
            model.save_pretrained(folder, safe_serialization=True)  # a layer without any rank is meant
        if not self.section.also_train:  # the plain form would lack what trained beside it
            fold(folder, folder / FOLDED)

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """The base with the plain form on it: the same function, and less to compute."""
        plain = folder / FOLDED
        return attach_adapter(lm, plain if plain.is_dir() else folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """W + s P L Q, in fp32; the caller rounds once."""
        wrapped: Any = model.float()
        return wrapped.merge_and_unload()


class _Allocation:
    """PEFT's allocator, called by the steps of this run; its scores are kept with every checkpoint."""

    def __init__(self, model: Any) -> None:
        self.config = model.peft_config["default"]
        self.tuner = model.base_model
        self.allocator = model.base_model.rankallocator

    def after_step(self, step: int) -> None:
        """Score, and cut to the step's budget."""
        last = self.config.total_step - self.config.tfinal
        # A step that was not finite is not heard of. Were it the one at which cutting ends, the budget would never
        # be reached: so the first step after it ends the cutting (afterwards PEFT holds no scores any more).
        if step > last and self.allocator.exp_avg_ipt:
            step = last
        if step > last and self.config.rank_pattern is None:
            return  # no step was finite before
        self.tuner.update_and_allocate(step)

    def state_dict(self) -> dict[str, Any]:
        """The scores of every number, and which ranks are in use."""
        scores = {
            f"{kind}|{name}": tensor
            for kind in _SCORES
            for name, tensor in getattr(self.allocator, kind).items()
        }
        return {"rank_pattern": self.config.rank_pattern, **scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.config.rank_pattern = state.get("rank_pattern")
        self.allocator.reset_ipt()
        devices = {name: p.device for name, p in self.tuner.model.named_parameters()}
        for key, value in state.items():
            kind, _, name = key.partition("|")
            if name:
                getattr(self.allocator, kind)[name] = value.to(devices[name])
        # PEFT makes all three entries of a parameter at once
        self.allocator.ipt = {name: torch.zeros_like(t) for name, t in self.allocator.exp_avg_ipt.items()}


def _factors(tuned: TunedModel) -> list[tuple[Tensor, bool]]:
    """Every P [outputs, r] (True: its columns are the vectors) and Q [r, inputs]."""
    return [
        (parameter, "lora_B" in name)
        for name, parameter in tuned.trainable.items()
        if "lora_A" in name or "lora_B" in name
    ]


def orthogonality(factors: list[tuple[Tensor, bool]]) -> Tensor:
    """Mean over all factors of ||P^T P - I|| and ||Q Q^T - I||: []."""
    norms = []
    for matrix, columns in factors:
        gram = matrix.T @ matrix if columns else matrix @ matrix.T
        norms.append(
            torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        )
    return torch.stack(norms).mean()


def fold(adapter: Path, folder: Path) -> None:
    """A saved AdaLoRA as a plain LoRA of one rank: A <- L Q s/r0, B <- P, zeros behind; layers without a rank go."""
    config = json.loads((adapter / _CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(adapter / _WEIGHTS)
    factor = config["lora_alpha"] / (config["init_r"] + _RANK_FLOOR)
    names = [key.removesuffix(".lora_E") for key in tensors if key.endswith(".lora_E")]
    kept = [name for name in names if len(tensors[f"{name}.lora_E"])]
    rank = max((len(tensors[f"{name}.lora_E"]) for name in kept), default=1)
    plain = {key: tensor for key, tensor in tensors.items() if ".lora_" not in key}
    for name in kept:
        a, b, e = (tensors[f"{name}.lora_{part}"] for part in "ABE")
        plain[f"{name}.lora_A.weight"] = nn.functional.pad(e * a * factor, (0, 0, 0, rank - len(a)))
        plain[f"{name}.lora_B.weight"] = nn.functional.pad(b, (0, rank - b.shape[1])).contiguous()
    own = {f.name for f in AdaLoraConfig.__dataclass_fields__.values()} - {
        f.name
        for f in AdaLoraConfig.__mro__[1].__dataclass_fields__.values()  # type: ignore[attr-defined]
    }
    shown = {key: value for key, value in config.items() if key not in own and key != "rank_pattern"}
    modules = [name.removeprefix("base_model.model.") for name in kept]
    shown |= {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": modules,
        "rank_pattern": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
    save_file(plain, folder / _WEIGHTS)
