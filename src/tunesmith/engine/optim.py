"""How weights move: AdamW over the method's groups, and the rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tunesmith.engine.adam8 import AdamW8bit
from tunesmith.engine.adam16 import AdamWbf16
from tunesmith.engine.galore import GaLoreAdamW
from tunesmith.engine.paged import make_paged
from tunesmith.recipe import Optim, OptimizerKind, steps_of
from tunesmith.tuning.method import ParameterGroup

FLOOR = 0.1  # cosine and linear end at this share of the peak (note 001, point 24)
EPSILON = 1e-8
DECAY_SHARE = 0.2  # wsd: the last fifth of the run decays (arXiv:2404.06395)


def make_optimizer(
    groups: Sequence[ParameterGroup], betas: tuple[float, float], kind: OptimizerKind = "adamw"
) -> torch.optim.Optimizer:
    """The optimiser of a recipe; `lr` is set at each step.

    adamw          fused, with fp32 states (Loshchilov & Hutter, arXiv:1711.05101); of projected gradients: galore.py
    adamw_bf16     states in bf16, rounded at random: adam16.py
    adamw_8bit     states in 8 bits, on every device: adam8.py
    paged_adamw    states that leave the card when it is full, CUDA only; paged_adamw_8bit likewise: paged.py
    """
    own = [
        {"params": list(group.parameters), "weight_decay": group.weight_decay, "lr_scale": group.lr_scale}
        for group in groups
    ]
    if any(group.projection for group in groups):
        for made, group in zip(own, groups, strict=True):
            made["projection"] = group.projection
        return GaLoreAdamW(own, lr=0.0, betas=betas, eps=EPSILON, fused=True)
    return _MAKERS[kind](own, betas)


def _adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=EPSILON, fused=True)


_MAKERS: Mapping[
    OptimizerKind, Callable[[list[dict[str, Any]], tuple[float, float]], torch.optim.Optimizer]
] = {
    "adamw": _adamw,
    "adamw_bf16": lambda groups, betas: AdamWbf16(groups, betas, EPSILON),
    "adamw_8bit": lambda groups, betas: AdamW8bit(groups, betas, EPSILON),
    "paged_adamw": lambda groups, betas: make_paged(groups, betas, EPSILON, eight_bit=False),
    "paged_adamw_8bit": lambda groups, betas: make_paged(groups, betas, EPSILON, eight_bit=True),
}


def rate(step: int, steps: int, peak: float, optim: Optim) -> float:
    """Learning rate of a step, counted from 1, of a run of `steps`.

    Warm-up rises linearly and reaches the peak at its last step; then the schedule.
    """
    warmup = min(steps_of(optim.warmup, steps) if optim.warmup else 0, steps)
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match optim.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - (1 - FLOOR) * done)
        case "wsd":
            begin = 1 - DECAY_SHARE
            return peak if done <= begin else peak * (1 - (1 - FLOOR) * (done - begin) / DECAY_SHARE)
        case "cosine":
            return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
