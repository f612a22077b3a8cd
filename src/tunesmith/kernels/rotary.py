"""Rotary positions as one node: y = x cos + turn(x) sin, turn([x1 x2]) = [-x2 x1]; it keeps cos and sin alone.

Plain torch makes turn(x), two products and their sum, and pads with zeros on the way back. Bit by bit the same here;
under autocast y is rounded to its dtype, which attention would do next.
Su et al. 2021, arXiv:2104.09864. Shapes: B batch, T tokens, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.card import takes


def rotate(x: Sequence[Tensor], cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Queries and keys, each [B T H D], cos and sin [B T D] -> each [B T H D]."""
    return _Rotate.apply(cos, sin, *x)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cos: Tensor, sin: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(cos, sin)
        ctx.given, wide = x[0].dtype, torch.promote_types(x[0].dtype, cos.dtype)
        made = computed_in(x[0], wide)
        if _one_pass(x, cos, sin, made):
            from tunesmith.kernels import triton_rows

            outs = triton_rows.rotate(x, cos, sin)
        else:  # torch walks numbers of two kinds one by one
            outs = tuple(_turned(one.to(wide), cos[:, :, None], sin[:, :, None], False).to(made) for one in x)
        still = [out for out, need in zip(outs, ctx.needs_input_grad[2:]) if not need]
        ctx.mark_non_differentiable(*still)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [grad for grad in grads if grad is not None]
        cos, sin = ctx.saved_tensors
        if _one_pass(there, cos, sin, ctx.given):
            from tunesmith.kernels import triton_rows

            found = triton_rows.rotate(there, cos, sin, back=True)
        else:
            wide = torch.promote_types(there[0].dtype, cos.dtype)
            cos, sin = cos[:, :, None], sin[:, :, None]
            found = tuple(_turned(grad.to(wide), cos, sin, True).to(ctx.given) for grad in there)
        left = iter(found)
        return None, None, *(None if grad is None else next(left) for grad in grads)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """x cos + turn(x) sin, or the transpose of that map."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = x * cos
    if back:
        out[..., :half].add_(second * sin[..., half:])
        out[..., half:].sub_(first * sin[..., :half])
    else:
        out[..., :half].sub_(second * sin[..., :half])
        out[..., half:].add_(first * sin[..., half:])
    return out


def _one_pass(x: Sequence[Tensor], cos: Tensor, sin: Tensor, made: torch.dtype) -> bool:
    """Whether a kernel makes it, in the dtype of x: angles may be wider."""
    kind = x[0].dtype
    alike = (
        all(one.dtype == made for one in x) and cos.dtype == sin.dtype and cos.dtype in (kind, torch.float32)
    )
    return alike and cos.stride() == sin.stride() and takes(*x, cos, sin)
