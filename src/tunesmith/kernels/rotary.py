"""Rotary positions as one node: y = x cos + turn(x) sin, turn([x1 x2]) = [-x2 x1]; it keeps cos and sin alone.

Plain torch makes turn(x), two products and their sum, and pads with zeros on the way back. Bit by bit the same here.
Su et al. 2021, arXiv:2104.09864. Shapes: B batch, T tokens, H heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.card import takes


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B T H D], cos and sin [B T D] -> [B T H D]."""
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        if _one_pass(x, cos, sin):
            from tunesmith.kernels import triton_rows

            return triton_rows.rotate(x, cos, sin)
        cos, sin, half = cos[:, :, None], sin[:, :, None], x.shape[-1] // 2
        out = x * cos
        out[..., :half].sub_(x[..., half:] * sin[..., :half])
        out[..., half:].add_(x[..., :half] * sin[..., half:])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        cos, sin = ctx.saved_tensors
        if _one_pass(grad, cos, sin):
            from tunesmith.kernels import triton_rows

            return triton_rows.rotate(grad, cos, sin, back=True), None, None
        cos, sin = cos[:, :, None], sin[:, :, None]
        half = grad.shape[-1] // 2
        out = grad * cos
        out[..., :half].add_(grad[..., half:] * sin[..., half:])
        out[..., half:].sub_(grad[..., :half] * sin[..., :half])
        return out, None, None


def _one_pass(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    return x.dtype == cos.dtype == sin.dtype and cos.stride() == sin.stride() and takes(x, cos, sin)
