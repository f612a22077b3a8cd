"""RMSNorm as one node that keeps its input as it is, and a root a row: y = w * x / sqrt(mean(x^2) + eps).

Plain torch walks five times through memory, and in 16 bits keeps the input a second time, in fp32. Three spellings:
    rms      w * (x r).to(x)           Llama and its kin
    scaled   (w * x r).to(x)           OLMo 2 and 3
    offset   ((1 + w) * x r).to(x)     Gemma
Zhang & Sennrich 2019, arXiv:1910.07467. Shapes: n rows, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.card import takes

Spelling = Literal["rms", "scaled", "offset"]
CACHED_ELEMENTS = 65_000  # input, output and gradient of so many fit a core's own cache
WIDEST = 32768  # of a row that one Triton program holds


def rms_norm(x: Tensor, weight: Tensor, eps: float, spelling: Spelling) -> Tensor:
    """x [..., d] -> [..., d]; in fp32 inside, float64 stays float64."""
    return _RMSNorm.apply(x, weight, eps, spelling)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, spelling: Spelling) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        given = _given(x, weight, spelling)
        ctx.spelling, ctx.shape = spelling, x.shape
        if _on_card(flat, weight):
            from tunesmith.kernels import triton_rows

            out, root = triton_rows.norm(flat, weight, eps, spelling == "rms", spelling == "offset", given)
            ctx.save_for_backward(flat, root, weight)
            return out.view(x.shape)
        out = torch.empty(flat.shape, dtype=given, device=x.device)
        root = torch.empty(len(flat), 1, dtype=wide, device=x.device)
        factor = _factor(weight, wide, spelling)
        for rows in _rows(flat):
            some = flat[rows].to(wide)
            torch.mean(some * some, dim=1, keepdim=True, out=root[rows])  # bit by bit as transformers has it
            root[rows].add_(eps).rsqrt_()
            if x.dtype == wide == given:
                torch.mul(some, root[rows], out=out[rows]).mul_(factor)
            elif spelling == "rms":
                out[rows] = weight * (some * root[rows]).to(x.dtype)
            else:
                out[rows] = (some * root[rows]).mul_(factor)
        ctx.save_for_backward(flat, root, weight)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, root, weight = ctx.saved_tensors
        grad, wide = grads[0].reshape(flat.shape), root.dtype
        if _on_card(flat, weight, grad):
            from tunesmith.kernels import triton_rows

            asks_x, asks_weight = ctx.needs_input_grad[:2]
            of_x, of_weight = triton_rows.norm_backward(
                flat, root, weight, grad.contiguous(), ctx.spelling == "offset", asks_x, asks_weight
            )
            return _given_back(ctx, of_x, of_weight, weight)
        factor = _factor(weight, wide, ctx.spelling)
        of_x = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(factor) if ctx.needs_input_grad[1] else None
        for rows in _rows(flat):
            g, some, r = grad[rows].to(wide), flat[rows].to(wide), root[rows]
            if of_weight is not None:
                of_weight.add_(torch.einsum("nd,nd,nq->d", g, some, r))
            if of_x is not None:
                # r (g w - x r^2 mean(g w x))
                scaled = torch.mul(g, factor, out=of_x[rows] if of_x.dtype == wide else None)
                mean = torch.linalg.vecdot(scaled, some)[:, None].mul_(r**3).div_(-flat.shape[1])
                scaled.mul_(r).addcmul_(some, mean)
                if of_x.dtype != wide:
                    of_x[rows] = scaled
        return _given_back(ctx, of_x, of_weight, weight)


def _given_back(
    ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, weight: Tensor
) -> tuple[Tensor | None, ...]:
    back = None if of_x is None else of_x.view(ctx.shape)
    return back, None if of_weight is None else of_weight.to(weight.dtype), None, None


def _given(x: Tensor, weight: Tensor, spelling: Spelling) -> torch.dtype:
    """What a norm gives. Autocast would make fp32 narrow at each linear layer behind it, a copy each."""
    own = torch.promote_types(x.dtype, weight.dtype) if spelling == "rms" else x.dtype
    return computed_in(x, own) if own == torch.float32 else own


def _on_card(flat: Tensor, *others: Tensor) -> bool:
    """Whether one Triton program takes a row. flat [n d]"""
    return flat.shape[1] <= WIDEST and flat.is_contiguous() and takes(flat, *others)


def _factor(weight: Tensor, dtype: torch.dtype, spelling: Spelling) -> Tensor:
    return weight.to(dtype) + 1 if spelling == "offset" else weight.to(dtype)


def _rows(of: Tensor) -> Iterator[slice]:
    """A few rows at a time, on a processor."""
    step = max(1, len(of) if of.is_cuda else CACHED_ELEMENTS // of.shape[1])
    return (slice(begin, begin + step) for begin in range(0, len(of), step))
