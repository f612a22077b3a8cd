"""The recipe's tuning section -> the method that carries it out."""

from __future__ import annotations

from tunesmith.recipe import Freeze, Full, Lora
from tunesmith.tuning.full import WeightTuning
from tunesmith.tuning.lora import LoraTuning
from tunesmith.tuning.method import Method


def build(tuning: Full | Freeze | Lora) -> Method:
    """The method of a tuning section."""
    match tuning:
        case Full():
            return WeightTuning()
        case Freeze():
            return WeightTuning(tuning)
        case Lora():
            return LoraTuning(tuning)
