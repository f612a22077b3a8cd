"""Rows of an embedding that trains; their gradient is added where the table's gradient stands.

    plain   backward: zeros [V d], the few rows added; where the head is tied, a second table to be summed with
    here    backward: the few rows are added to weight.grad
One table less in memory, and none filled or added up for each micro-batch. The graph does not know of the weight:
`weight.grad` after backward() is that of plain torch, torch.autograd.grad by the weight is not to be asked for.

Shapes: n tokens, V vocabulary, d hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunesmith.kernels.pages import zeros


def lookup(weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
    """weight [V d], ids Int64[...] -> [..., d]; a token `padding` teaches nothing."""
    begin = torch.empty(0, device=weight.device, requires_grad=True)
    rows: Tensor = _Lookup.apply(begin, (weight,), ids, padding)
    return rows


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, begin: Tensor, held: tuple[Tensor], ids: Tensor, padding: int | None) -> Tensor:
        [ctx.weight], ctx.padding = held, padding
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, ctx.weight.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        weight, ids = ctx.weight, ctx.saved_tensors[0].flatten()
        grad = grads[0].flatten(0, -2).to(weight.dtype)
        if ctx.padding is not None:
            pads = ids == ctx.padding
            if not pads.is_cpu or bool(pads.any()):
                grad = grad.masked_fill(pads[:, None], 0)
        if weight.grad is None:
            weight.grad = zeros(weight.shape, weight.dtype, weight.device)
        if not weight.is_cpu:  # sorted first, so that the sum is the same each time
            weight.grad.index_put_((ids,), grad, accumulate=True)
        else:  # one after the other
            weight.grad.index_add_(0, ids, grad)
        return None, None, None, None
