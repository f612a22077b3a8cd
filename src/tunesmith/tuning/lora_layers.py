"""LoRA's layer: PEFT's, computed as one autograd node where it can be, with any number of adapters at once.

    y = W x + s (B A) x        several: A = [A1; A2], B = [w1 B1, w2 B2], exactly their weighted sum
DoRA (arXiv:2402.09353)  y = (m / |V|) V x, V = W + s B A, |V| the lengths of its rows, held constant in gradients
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.lora import Part, lora_linear, lora_linears
from tunesmith.kernels.nf4 import four_bit_linear, held_in_four_bits
from tunesmith.kernels.product import linear
from tunesmith.model.lean import is_plain
from tunesmith.model.quantised import dense_weight, is_quantised
from tunesmith.tuning.peft_alone import LoraLinear

DEFAULT = "default"


class FusedLinear(LoraLinear):
    """PEFT's layer around a plain linear one; what it cannot do faster it leaves to PEFT."""

    def update_layer(self, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """PEFT's, with dropout that draws quickly."""
        super().update_layer(adapter_name, *args, **kwargs)
        theirs: Any = self.lora_dropout[adapter_name]
        if isinstance(theirs, nn.Dropout):
            self.lora_dropout[adapter_name] = Dropout(theirs.p)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        part = None if args or kwargs else self.part(x)
        if part is not None:
            return lora_linears(x, [part])[0]
        names = self._active()
        if not names or args or kwargs or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        if names[0] in self.lora_variant:
            return self._with_lengths(x, names)
        return super().forward(x)

    def part(self, x: Tensor) -> Part | None:
        """This layer as a part of a node (kernels/lora.py); None where PEFT, or DoRA, must be asked."""
        names = self._active()
        if not names or self.disable_adapters or self.merged or names[0] in self.lora_variant:
            return None
        base: Any = self.base_layer
        weight, bias = base.weight, base.bias
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return None
        a, b, scaling = self.joined(names)
        drops = self._drops(names)
        if drops and len(names) > 1:
            return None
        if not (torch.is_autocast_enabled(x.device.type) or _of_one_kind(x, a, weight)):
            return None
        dropout: Any = self.lora_dropout[names[0]]
        rate = dropout.p if drops and self.training else 0.0
        return Part(weight.t() if isinstance(base, Conv1D) else weight, bias, a, b, scaling, rate)

    def _active(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.lora_A]

    def base_weight(self) -> Tensor:
        """W, [outputs, inputs], or its 4-bit form."""
        weight: Any = self.base_layer.weight
        return weight.t() if isinstance(self.base_layer, Conv1D) else weight

    def joined(self, names: Sequence[str]) -> tuple[Tensor, Tensor, float]:
        """A [R, inputs], B [outputs, R] and the scale of the sum of several updates."""
        a: Any = [self.lora_A[name].weight for name in names]
        b: Any = [self.lora_B[name].weight for name in names]
        if len(names) == 1:
            return a[0], b[0], self.scaling[names[0]]
        scaled = [one * self.scaling[name] for one, name in zip(b, names)]
        return torch.cat(a), torch.cat(scaled, dim=1), 1.0

    def _drops(self, names: Sequence[str]) -> bool:
        return any(not isinstance(self.lora_dropout[name], nn.Identity) for name in names)

    def row_lengths(self, names: Sequence[str]) -> Tensor:
        """|V| of each output, without gradient: Float32[outputs]."""
        a, b, scaling = self.joined(names)
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            weight = dense_weight(self.base_layer, torch.float32)
            weight = weight.t() if isinstance(self.base_layer, Conv1D) else weight
            return torch.linalg.vector_norm(weight + scaling * (b @ a).float(), dim=1)

    def _with_lengths(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """DoRA, without PEFT's product of an identity matrix with A and B."""
        base: Any = self.base_layer
        magnitude: Any = self.lora_magnitude_vector[names[0]].weight
        scale = magnitude / self.row_lengths(names)
        if not self._drops(names):
            straight = self._straight(x, names)
            out = scale * straight
            return (out if base.bias is None else out + base.bias).to(straight.dtype)
        [dropped] = [self.lora_dropout[name](x) for name in names]  # refused with more than one adapter
        plain = self._plain(dropped)
        out = base(x) - plain + scale * (plain + self._update(dropped, names))
        return out.to(plain.dtype)

    def _straight(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """V x, without bias."""
        a, b, scaling = self.joined(names)
        if not torch.is_autocast_enabled(x.device.type) and _of_one_kind(x, a, self.base_weight()):
            return lora_linear(x, self.base_weight(), None, a, b, scaling)
        plain = self._plain(x)
        return plain + self._update(x, names).to(plain.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        """W x, without bias."""
        weight = self.base_weight()
        return four_bit_linear(x, weight, None) if held_in_four_bits(weight) else linear(x, weight)

    def _update(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """s B A x; in the adapters' precision unless autocast chooses another."""
        a, b, scaling = self.joined(names)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(a.dtype)
        return linear(linear(x, a), b) * scaling


def _of_one_kind(x: Tensor, a: Tensor, weight: Tensor) -> bool:
    """Whether input, update and weight compute in one dtype."""
    return x.dtype == a.dtype and (weight.dtype == x.dtype or held_in_four_bits(weight))


def fused_layer(target: nn.Module, adapter_name: str, **options: Any) -> nn.Module | None:
    """The fused layer for a plain linear one; None leaves the choice to PEFT."""
    if type(target) is Conv1D:
        return FusedLinear(target, adapter_name, is_target_conv_1d_layer=True, **options)
    known = is_plain(target) or is_quantised(target)
    return FusedLinear(target, adapter_name, **options) if known else None


# PEFT's way to bring one's own layer; a function may stand for the class, and decline
FUSED: dict[Any, Any] = {nn.Linear: fused_layer, Conv1D: fused_layer}


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer with a LoRA update."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "lora_A", None), nn.ModuleDict) and len(module.lora_A):
            yield name, module
