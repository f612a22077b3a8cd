"""Attention in bf16 on a processor whose backward pass computes in fp32: short documents want it.

    forward   bf16 -> bf16      keeps q, k, v, the output and a log-sum, as torch's own attention does
    backward  those in fp32 -> gradients in bf16
torch's own backward in bf16 hands every block of every head to the matrix units by itself, at some 150 us each: 180
us a document of 45 tokens and a head where fp32 takes 28 (torch 2.13, one core with AMX). From 256 tokens on the
units earn that back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.chunks import WIDE_LONGEST, WIDE_TOKENS

_ATEN = torch.ops.aten


def pays(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether a group of documents [N H L D] is better served so."""
    if query.device.type != "cpu" or dropout or key.shape[2] > WIDE_LONGEST or not torch.is_grad_enabled():
        return False
    return computed_in(query) == torch.bfloat16


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """[N H Q D] and [N H K D] twice -> [N H Q D]; causal where there is no mask, Bool[N 1 Q K] or [Q K]."""
    query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    if mask is not None:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        mask = mask.expand(len(query), 1, *mask.shape[-2:])
    out: Tensor = _WideBackward.apply(query, key, value, mask, scale)
    return out


class _WideBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        out: Tensor
        out, log_sum = _ATEN._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, mask is None, attn_mask=mask, scale=scale
        )
        ctx.save_for_backward(query, key, value, out, log_sum, *([] if mask is None else [mask]))
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_sum, *masks = ctx.saved_tensors
        found = [torch.empty_like(x) for x in (query, key, value)]
        step = max(1, WIDE_TOKENS // key.shape[2])
        for at in range(0, len(query), step):
            part = slice(at, at + step)
            wide = (x[part].float() for x in (grads[0], query, key, value, out))
            mask = masks[0][part].float() if masks else None
            here = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(
                *wide, log_sum[part], 0.0, mask is None, attn_mask=mask, scale=ctx.scale
            )
            for whole, piece in zip(found, here):
                whole[part] = piece
            del here, piece  # or they would stand beside the next ones
        return *found, None, None
