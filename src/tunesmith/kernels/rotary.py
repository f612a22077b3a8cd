"""Rotary positions as one node: y = x cos + turn(x) sin, turn([x1 x2]) = [-x2 x1]; it keeps cos and sin alone.

Plain torch makes turn(x), two products and their sum, and pads with zeros on the way back. Bit by bit the same here;
under autocast y is rounded to its dtype, which attention would do next.
Su et al. 2021, arXiv:2104.09864. Shapes: B batch, T tokens, H heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.card import takes


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B T H D], cos and sin [B T D] -> [B T H D]."""
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.given, wide = x.dtype, torch.promote_types(x.dtype, cos.dtype)
        made = computed_in(x, wide)
        if _one_pass(x, cos, sin, made):
            from tunesmith.kernels import triton_rows

            return triton_rows.rotate(x, cos, sin)
        cos, sin, half = cos[:, :, None], sin[:, :, None], x.shape[-1] // 2
        x = x.to(wide)  # torch walks numbers of two kinds one by one
        out = x * cos
        out[..., :half].sub_(x[..., half:] * sin[..., :half])
        out[..., half:].add_(x[..., :half] * sin[..., half:])
        return out.to(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        cos, sin = ctx.saved_tensors
        if _one_pass(grad, cos, sin, ctx.given):
            from tunesmith.kernels import triton_rows

            return triton_rows.rotate(grad, cos, sin, back=True), None, None
        cos, sin = cos[:, :, None], sin[:, :, None]
        half = grad.shape[-1] // 2
        grad = grad.to(torch.promote_types(grad.dtype, cos.dtype))
        out = grad * cos
        out[..., :half].add_(grad[..., half:] * sin[..., half:])
        out[..., half:].sub_(grad[..., :half] * sin[..., :half])
        return out.to(ctx.given), None, None


def _one_pass(x: Tensor, cos: Tensor, sin: Tensor, made: torch.dtype) -> bool:
    """Whether a kernel makes it, in the dtype of x: angles may be wider."""
    alike = x.dtype == made and cos.dtype == sin.dtype and cos.dtype in (x.dtype, torch.float32)
    return alike and cos.stride() == sin.stride() and takes(x, cos, sin)
