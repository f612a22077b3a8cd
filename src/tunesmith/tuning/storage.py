"""Where a base or an optimiser cannot be held as the recipe asks. From config and device alone, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import Problem
from tunesmith.recipe import OptimizerKind, Tuned

if TYPE_CHECKING:
    from tunesmith.model.facts import ModelFacts


def base_problems(tuning: Tuned, facts: ModelFacts) -> list[Problem]:
    """Where the folder holds 4-bit weights and the recipe speaks of others."""
    if facts.stored is None or facts.stored == tuning.base:
        return []
    what = f"{facts.name} is stored in 4 bits ({facts.stored})"
    return [Problem("tuning.base", what, f"set tuning.base: {facts.stored}, or use the model's 16-bit form")]


def optimizer_problems(optimizer: OptimizerKind, device: str) -> list[Problem]:
    """Where an optimiser cannot be had: `device` is cpu or cuda."""
    if not optimizer.startswith("paged") or device == "cuda":
        return []
    what = (
        f"{optimizer} pages its moments out through CUDA's unified memory, and there is no CUDA device here"
    )
    return [Problem("optim.optimizer", what, "set optim.optimizer: adamw_8bit, which runs everywhere")]


def offload_problems(offload: str, device: str) -> list[Problem]:
    """Whether there is another memory to move activations to."""
    if offload == "none" or device == "cuda":
        return []
    what = "on a processor activations are in the main memory already: a copy would only cost time"
    return [Problem("compute.offload", what, "set compute.offload: none")]
