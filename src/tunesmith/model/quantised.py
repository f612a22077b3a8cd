"""A base held in 4 bits: which layers, how they come there, and what they are worth when wide again.

    16/32-bit linear layers of the decoder --hold--> codes and scales (NF4 or FP4, arXiv:2305.14314) --widen--> plain
Head and embeddings stay wide unless they are held in few bits as well (tables.py); norms always do, and so does what
trains by itself (also_train).
Never write into such a weight: a small update rounds back to the code it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels.nf4 import dequantise, held_in_four_bits
from tunesmith.model import bitsandbytes_alone
from tunesmith.model.forward import decoder_layers
from tunesmith.model.lean import is_plain
from tunesmith.model.stored import Kind
from tunesmith.model.tables import hold_tables
from tunesmith.recipe import Tuned


@dataclass(frozen=True, slots=True)
class Held:
    """How a base is held: its linear layers in 4 bits, where there is a kind, but for the modules in `wide`;
    its embedding and head in `tables` bits."""

    kind: Kind | None
    double_quant: bool = True
    wide: tuple[str, ...] = ()
    tables: int = 16

    @classmethod
    def by(cls, tuning: Tuned) -> Held | None:
        """As a tuning section asks; None where nothing is quantised."""
        if tuning.base == "none" and tuning.tables == 16:
            return None
        kind = None if tuning.base == "none" else tuning.base
        return cls(kind, tuning.double_quant, tuning.also_train, tuning.tables)


def hold(lm: nn.Module, held: Held | None) -> nn.Module:
    """Quantise the decoder's linear layers and the tables where they stand, one after the other; returns `lm`."""
    if held is not None:
        hold_tables(lm, held.tables)
    if held is not None and held.kind is not None:
        bitsandbytes_alone.load()
        from tunesmith.model.four_bit import from_dense

        for name, layer in list(_held_layers(lm, held.wide)):
            lm.set_submodule(name, from_dense(layer, held.kind, held.double_quant))
    return lm


def wide_names(lm: nn.Module, wide: Sequence[str]) -> list[str]:
    """Names of the linear layers that stay wide: those outside the decoder layers, and those in `wide`."""
    chosen = {name for name, _ in _held_layers(lm, wide)}
    every = (name for name, module in lm.named_modules() if _is_linear(module))
    return [name for name in every if name not in chosen]


def _held_layers(lm: nn.Module, wide: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    prefix = decoder_layers(lm)[0]
    for name, module in lm.named_modules():
        if _is_linear(module) and name.startswith(f"{prefix}.") and not _named(name, wide):
            yield name, module


def _is_linear(module: nn.Module) -> bool:
    return is_plain(module) or isinstance(module, Conv1D)


def _named(name: str, wanted: Sequence[str]) -> bool:
    """Whether a module of this name, or one around it, is named: whole, or by the end of its dotted name."""
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(place == one or place.endswith(f".{one}") for place in around for one in wanted)


def widen(lm: nn.Module) -> nn.Module:
    """Make plain layers of 4-bit ones, dequantised in fp32: what may be merged into. Returns `lm`."""
    for name, layer in [(name, module) for name, module in lm.named_modules() if is_quantised(module)]:
        from tunesmith.model.four_bit import FourBitLinear, to_dense

        assert isinstance(layer, FourBitLinear), f"{name} is inside an adapter's layer: widen the base first"
        lm.set_submodule(name, to_dense(layer))
    return lm


def adopt(lm: Any) -> None:
    """Make our layers of those that transformers loaded in 4 bits, and a plain model of `lm` otherwise."""
    from bitsandbytes.nn import Linear4bit

    from tunesmith.model.four_bit import from_loaded

    for name, layer in [(name, m) for name, m in lm.named_modules() if isinstance(m, Linear4bit)]:
        lm.set_submodule(name, from_loaded(layer))
    # transformers' marks: they forbid casting what is still wide, and would be saved with a merged model
    for mark in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_quantized"):
        if mark in vars(lm):
            delattr(lm, mark)
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config
    # read from a 4-bit folder, it would be written in that form, which no longer holds (and cannot be reversed)
    if conversions := getattr(lm, "_weight_conversions", None):
        lm._weight_conversions = [one for one in conversions if not _reads_four_bits(one)] or None


def _reads_four_bits(conversion: Any) -> bool:
    steps = getattr(conversion, "operations", ())
    return any(type(step).__name__ == "Bnb4bitDeserialize" for step in steps)


def dense_weight(module: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
    """The weight of a linear layer (inside PEFT's layer, if there is one), wide and without gradient.

    A 4-bit one is dequantised anew, [outputs, inputs], in fp32 unless `dtype` says otherwise; any other is the
    layer's own tensor, in its own layout (GPT-2's Conv1D has [inputs, outputs]), cast where `dtype` asks for it.
    """
    weight: Tensor = _inner(module).weight
    if held_in_four_bits(weight):
        return dequantise(weight, dtype or torch.float32)
    return weight.detach() if dtype is None else weight.detach().to(dtype)


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear layer (inside PEFT's layer, if there is one) is held in 4 bits."""
    weight = getattr(_inner(module), "weight", None)
    return weight is not None and held_in_four_bits(weight)


def has_quantised(model: nn.Module) -> bool:
    """Whether any layer of a model is held in 4 bits."""
    return any(held_in_four_bits(parameter) for parameter in model.parameters())


def finite(parameter: Tensor) -> bool:
    """Whether all values are; of a 4-bit weight its scales tell. Nothing is made of the weight's own size."""
    if not held_in_four_bits(parameter):
        if not parameter.numel() or not parameter.is_floating_point():
            return True
        least, most = parameter.detach().aminmax()  # a number that is none passes through both
        return bool(torch.isfinite(torch.stack([least, most])).all())
    held: Any = parameter
    state = held.quant_state
    scales = [state.offset, state.state2.absmax] if state.nested else [state.absmax]
    return all(bool(torch.isfinite(scale).all()) for scale in scales)


def _inner(module: Any) -> Any:
    """The base's own layer inside PEFT's."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module
