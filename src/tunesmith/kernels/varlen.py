"""Packed attention on a card by torch's own kernel for documents of any length, one call a layer.

    tokens [a a a b b c c c]   cumulative [0 3 5 8]   each token sees its own document up to itself, or a window of it
torch.nn.attention.varlen (torch >= 2.10, FlashAttention's kernels) takes 16-bit tensors on CUDA; caps, prefixes, shared
beginnings and the pruned last layer go by groups (attention.py), which is its plain twin.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.documents import Documents

WIDEST_HEAD = 256


def usable(
    query: Tensor, documents: Documents, *, prefix: int, dropout: float, softcap: float | None
) -> bool:
    """Whether the kernel can do what a layer asks. query [B H Q D]."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and documents.cumulative is not None
        and not prefix
        and not dropout
        and softcap is None
        and query.shape[-1] <= WIDEST_HEAD
        and query.shape[-1] % 8 == 0
    )


def attend(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float | None, window: int | None
) -> Tensor:
    """query [B H T D], key and value [B Hkv T D] -> [B T H D]; what stands where padding is, is 0."""
    batch, heads, width = query.shape[:3]
    flat = [x.transpose(1, 2).reshape(batch * width, *x.shape[1::2]) for x in (query, key, value)]
    cumulative, longest = documents.cumulative, documents.longest
    limits: dict[str, Any] = {"scale": scaling, "window_size": (window - 1 if window else -1, 0)}
    kernel = _kernel()
    if heads != key.shape[1] and "enable_gqa" in inspect.signature(kernel).parameters:
        limits["enable_gqa"] = True  # until torch 2.11 it asked for no leave
    out = kernel(*flat, cumulative, cumulative, longest, longest, **limits)
    if documents.asking_real is not None:
        out = out.masked_fill(~documents.asking_real.view(-1, 1, 1), 0)
    return out.view(batch, width, heads, -1)


def _kernel() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
