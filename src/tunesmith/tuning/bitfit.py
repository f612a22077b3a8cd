"""BitFit: only biases train; a model without them may be given some, at 0, which changes nothing at first.

    native      y = W x + b    b trains: every bias the model has, those of its norms too
    add_biases  y = W x + b    b = 0 stands beside each target that has none (BEFT, arXiv:2509.15974)
Ben Zaken et al. 2021, arXiv:2106.10199. Biases are fp32. On disk: PEFT's BEFT where all that trains was added, else a
delta (saved.py). Merged where the model's config can say that its linear layers have biases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError, RecipeError
from tunesmith.model.adapted import CONFIG, WEIGHTS
from tunesmith.model.families import FAMILIES
from tunesmith.recipe import BitFit, Optim
from tunesmith.tuning import saved
from tunesmith.tuning.full import KIND, in_fp32, put_weights
from tunesmith.tuning.method import (
    Hooks,
    Moments,
    ParameterGroup,
    Setting,
    TunedModel,
    decay_matrices,
    train_only,
)
from tunesmith.tuning.peft_alone import BeftConfig
from tunesmith.tuning.precision import narrow
from tunesmith.tuning.targets import bias_flags

_PREFIX, _SUFFIX = "base_model.model.", ".beft_bias"


@dataclass(frozen=True, slots=True)
class BiasTuning:
    """Train biases, the model's own and those that were added."""

    bitfit: BitFit

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Add biases where asked, freeze all else."""
        if self.bitfit.add_biases:
            add_biases(lm, _targets(lm, self.bitfit.targets))
        names = {name for name, _ in lm.named_parameters() if name.endswith(".bias")}
        if not names:
            what = f"the model has no biases ({type(lm).__name__}), so nothing would train"
            raise RecipeError.at("tuning.add_biases", what, "set tuning.add_biases: true")
        in_fp32(lm, names)
        return train_only(lm, names)

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """Biases do not decay."""
        return decay_matrices(tuned, optim.weight_decay)

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """None."""
        return Hooks()

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """As BEFT for plain PEFT, which knows added biases only; the model's own are a delta."""
        added = {f"{name}.bias" for name in _added(tuned.model)}
        if added != set(tuned.trainable):
            saved.write(folder, saved.Saved(KIND, tuned.trainable))
            return
        folder.mkdir(parents=True, exist_ok=True)
        lm: Any = tuned.model
        names = sorted(name.removesuffix(".bias") for name in added)
        config = BeftConfig(target_modules=names, task_type="CAUSAL_LM", inference_mode=True)
        config.base_model_name_or_path = lm.name_or_path
        config.save_pretrained(str(folder))
        tensors = {
            f"{_PREFIX}{name.removesuffix('.bias')}{_SUFFIX}": bias.detach().cpu().reshape(1, -1).contiguous()
            for name, bias in tuned.trainable.items()
        }
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """Put the trained biases on a base model, adding those that it has not."""
        if not (folder / CONFIG).is_file():
            return put_biases(lm, folder, dict(saved.read(folder).tensors))
        found = {
            f"{name.removeprefix(_PREFIX).removesuffix(_SUFFIX)}.bias": tensor.flatten()
            for name, tensor in load_file(folder / WEIGHTS).items()
            if name.endswith(_SUFFIX)
        }
        return put_biases(lm, folder, found)

    def merge(self, model: nn.Module) -> nn.Module:
        """The biases are in place; the config says so, and what stands under the same flag gets zeros."""
        narrow(model)
        lm: Any = model.float()
        if _added(lm):
            _declare_biases(lm)
        return lm


def add_biases(lm: nn.Module, names: Iterable[str]) -> None:
    """Give linear layers a bias of zeros, in fp32."""
    for name in names:
        linear: Any = lm.get_submodule(name)
        linear.bias = nn.Parameter(torch.zeros(linear.out_features, device=linear.weight.device))
        linear.bias_was_added = True


def put_biases(lm: nn.Module, folder: Path, biases: dict[str, Tensor]) -> nn.Module:
    """Put trained tensors in place; a bias that the base lacks is added. Raises ModelError where one does not fit."""
    own = {name for name, _ in lm.named_parameters()}
    missing = [name.removesuffix(".bias") for name in biases if name.endswith(".bias") and name not in own]
    linears = dict(lm.named_modules())
    for name in missing:
        if not isinstance(linears.get(name), nn.Linear):
            raise saved.does_not_fit(folder, f"{name}.bias")
    add_biases(lm, missing)
    return put_weights(lm, folder, biases)


def _targets(lm: Any, wanted: str | tuple[str, ...]) -> list[str]:
    """Names of the linear layers without bias that are asked for; the head is none of them."""
    head = lm.get_output_embeddings()
    linears = {n: m for n, m in lm.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if wanted != "all_linear":
        linears = {n: m for n, m in linears.items() if any(n == w or n.endswith(f".{w}") for w in wanted)}
        if not linears:
            where = "tuning.targets"
            raise RecipeError.at(where, f"no linear layer is called {', '.join(wanted)}", "use all_linear")
    return [name for name, linear in linears.items() if linear.bias is None]


def _added(lm: nn.Module) -> list[str]:
    """Names of the linear layers whose bias was added."""
    return [name for name, module in lm.named_modules() if getattr(module, "bias_was_added", False)]


def _declare_biases(lm: Any) -> None:
    """Set the flags of the config that stand for the added biases. Raises ModelError where there are none."""
    family = FAMILIES.get(lm.config.model_type)
    flags = bias_flags(family) if family else {}
    needed = set()
    for name in _added(lm):
        key = next((key for ending, key in flags.items() if name.endswith(f".{ending}")), None)
        if key is None:
            what = f"the config of {lm.config.model_type} cannot say that {name} has a bias"
            raise ModelError.at("merged", what, "export it with --to adapter")
        needed.add(key)
    for key in needed:
        setattr(lm.config, key, True)
    under = tuple(f".{ending}" for ending, key in flags.items() if key in needed)
    linears = dict(lm.named_modules())
    add_biases(lm, [n for n, m in linears.items() if n.endswith(under) and getattr(m, "bias", 1) is None])
