"""The engine of `tunesmith train` on a model made at random on the device: what both GPU scripts measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch


def stepper(recipe: Any, device: str, dtype: torch.dtype, autocast: bool, recomputed: Any = ()) -> Any:
    """What takes the steps of a recipe with `model.from_config`: loaded, tuned and stepped as `tunesmith train` does.

    dtype: of the base's weights; autocast: compute in bf16 all the same; recomputed: numbers of those layers.
    """
    from tunesmith.engine.optim import make_optimizer, set_rate
    from tunesmith.engine.step import Stepper
    from tunesmith.model.load import checkpoint_layers, load_model
    from tunesmith.model.quantised import Held, hold
    from tunesmith.objectives.language_modelling import summed_loss
    from tunesmith.tuning.build import build
    from tunesmith.tuning.method import Moments, Setting

    with torch.device(device):
        model = load_model(recipe.model, device, dtype)
        hold(model, Held.by(recipe.tuning))
    if device == "cuda":  # the dense weights are gone, and were never part of the run
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    method = build(recipe.tuning)
    tuned = method.prepare(model, Setting())
    if recomputed:
        checkpoint_layers(tuned.model, recomputed, recipe.compute.offload == "checkpoints")
    groups = method.parameter_groups(tuned, recipe.optim)
    optimizer = make_optimizer(groups, (0.9, 0.999), recipe.optim.optimizer)
    set_rate(optimizer, recipe.optim.lr)
    taking = Stepper(
        tuned, optimizer, method.hooks(tuned, Moments(optimizer)), summed_loss, packing=True,
        autocast=autocast, grad_clip=1.0,
    )  # fmt: skip
    tuned.model.train()
    return taking


def samples(rows: Iterable[np.ndarray], learnt: Callable[[np.ndarray], Any]) -> list[Any]:
    """Rows as the data side hands them over: each token learns the next one, where `learnt` says so of that one."""
    from tunesmith.data.samples import IGNORED, Sample

    return [
        Sample(ids[:-1], np.where(learnt(ids[1:]), ids[1:], IGNORED).astype(np.int32), "row:1")
        for ids in rows
    ]
