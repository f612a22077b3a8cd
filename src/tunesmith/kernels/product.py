"""Products of matrices by the quickest way there is: of two libraries on a processor, by a node of ours on a card.

On a card that is for weights that train in fp32 and compute in 16 bits (mixed.py), on a processor for fp32. MKL, whom
torch asks, keeps to AVX2 on processors that are not Intel's; oneDNN, which torch brings too, does not. On one core of a
Zen 5, products of 704 rows by 512 x 1376, forward as backward: 107 GFLOP/s and 240; on Intel's both the same.
Who is asked follows from processor and size alone, never from a measurement: a run that goes on has the same bits.
`torch.backends.mkldnn.flags(enabled=False)` leaves all to MKL: the plain twin.

Shapes: n rows, i inputs, o outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.gate import Act, gate, gate_backward
from tunesmith.kernels.mixed import is_mixed, mixed_linear, summed_wide
from tunesmith.kernels.processor import LEAST, PIECE, onednn_is_quicker

_onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # other builds of torch lack it


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + bias, with gradient: [..., i], [o i] -> [..., o]."""
    if is_mixed(x, weight):
        return mixed_linear(x, weight, bias, computed_in(x))
    if not _quicker(x, weight, x.numel() * len(weight)) or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def gated_linear(gates: Tensor, up: Tensor, act: Act, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """linear(act(gates) * up), with gradient; that input is made again and not kept: [..., i], [o i] -> [..., o].

    Where `remakes_input` says so.
    """
    out: Tensor = _GatedLinear.apply(gates, up, weight, bias, act)
    return out


def remakes_input(up: Tensor, weight: Tensor) -> bool:
    """Whether a layer behind a gate trains so that gated_linear does what linear does: nothing is cast, or as on a
    card that computes in 16 bits."""
    cast = up.dtype != weight.dtype or torch.is_autocast_enabled(up.device.type)
    return is_mixed(up, weight) or (weight.requires_grad and not cast and up.dtype.itemsize >= 4)


def mm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b, without gradient: [n i], [i o] -> [n o]. MKL makes it in `out`, if there is one."""
    if not _quicker(a, b, a.numel() * b.shape[1]):
        return torch.mm(a, b, out=out)
    return _asked(a, b.t(), None)


def mm_wide(a: Tensor, b: Tensor) -> Tensor:
    """a b, without gradient; summed and left in fp32 where a card computes in 16 bits: [n i], [i o] -> [n o]."""
    return summed_wide(a, b) if a.is_cuda and a.dtype.itemsize == 2 else mm(a, b)


def add_mm(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a b, without gradient, and the total again: [n o], [n i], [i o]."""
    if total.dtype != torch.float32 or not _quicker(a, b, a.numel() * b.shape[1]):
        return total.addmm_(a, b)
    rows = max(1, PIECE // (b.shape[1] + (0 if a.is_contiguous() else a.shape[1])))  # columns are copied
    for place, some in zip(total.split(rows), a.split(rows)):
        place.add_(_asked(some, b.t(), None))
    return total


def by_onednn(x: Tensor) -> bool:
    """Whether oneDNN makes what this is multiplied with, where that is much; not of a traced tensor."""
    wide = x.dtype == torch.float32 and x.is_cpu and type(x) in (Tensor, nn.Parameter)
    return wide and _onednn is not None and onednn_is_quicker() and bool(torch.backends.mkldnn.enabled)


def _quicker(a: Tensor, b: Tensor, multiplications: int) -> bool:
    return multiplications >= LEAST and by_onednn(a) and by_onednn(b)


def _asked(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn(x, weight, bias, "none", [], "").data  # no view, for OLMo clips it in place


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)
        return _asked(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs, [grad] = ctx.needs_input_grad, grads
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            mm(flat, weight).view(*grad.shape[:-1], -1) if needs[0] else None,
            mm(flat.t(), x.reshape(-1, x.shape[-1])) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, act: Act) -> Tensor:
        ctx.act, ctx.dtype, ctx.mixed = act, computed_in(up), is_mixed(up, weight)
        ctx.save_for_backward(gates, up, weight)
        return linear(gate(gates.flatten(0, -2), up.flatten(0, -2), act).view(up.shape), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, up, weight = ctx.saved_tensors
        needs, flat = ctx.needs_input_grad, grads[0].flatten(0, -2).to(ctx.dtype)
        both, product = (gates.flatten(0, -2), up.flatten(0, -2)), summed_wide if ctx.mixed else mm
        of_weight = product(flat.t(), gate(*both, ctx.act).to(ctx.dtype)) if needs[2] else None
        of_gates, of_up = gate_backward(*both, mm(flat, weight.to(ctx.dtype)).to(up.dtype), ctx.act)
        of_bias = flat.sum(0, dtype=weight.dtype) if needs[3] else None
        return of_gates.view(up.shape), of_up.view(up.shape), of_weight, of_bias, None
