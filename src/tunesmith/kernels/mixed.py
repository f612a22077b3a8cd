"""A linear layer on a card that computes in 16 bits and whose fp32 weight trains, as one node.

    y = x W16' + b      dx = dy W16      dW = dy' x, summed in fp32 by the matrix units
Autocast keeps the narrow copy of each weight until the backward pass is over (2 bytes a weight), and makes dW in 16
bits to copy it wide. Here W16 is made anew in each pass, and dW is rounded nowhere.

Shapes: n tokens, i inputs, o outputs; W [o i].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_mixed(x: Tensor, weight: Tensor) -> bool:
    """Whether a linear layer is such a one."""
    trains = x.is_cuda and weight.requires_grad and weight.dtype == torch.float32
    return trains and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda").itemsize == 2


def mixed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x W' + bias, with gradient, computed in `dtype`: [..., i], fp32 [o i] -> [..., o]."""
    out: Tensor = _MixedLinear.apply(x, weight, bias, dtype)
    return out


class _MixedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.given = dtype, x.dtype
        narrow = x.to(dtype)
        ctx.save_for_backward(narrow if ctx.needs_input_grad[1] else None, weight)
        return _narrow_linear(narrow, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs, grad = ctx.needs_input_grad, grads[0].to(ctx.dtype)
        flat = grad.reshape(-1, grad.shape[-1])
        of_x = None
        if needs[0]:
            of_x = (flat @ weight.to(ctx.dtype)).view(*grad.shape[:-1], -1).to(ctx.given)
        of_weight = summed_wide(flat.t(), x.reshape(-1, x.shape[-1])) if needs[1] else None
        return of_x, of_weight, flat.sum(0, dtype=torch.float32) if needs[2] else None, None


def _narrow_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W' + bias in the dtype of x."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def summed_wide(a: Tensor, b: Tensor) -> Tensor:
    """a b in fp32, of two in 16 bits: [o n], [n i] -> [o i]. On a processor it is made from wide copies."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
