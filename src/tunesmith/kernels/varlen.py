"""Packed attention on a card, one call a layer: torch's kernel for documents of any length, or for equal ones.

    tokens [a a a b b c c c]   cumulative [0 3 5 8]   each token sees its own document up to itself, or a window of it
    tokens [a a a b b b]       [2 3 H D], causal      full rows, as cut at data.max_length
torch.nn.attention.varlen (torch >= 2.10, FlashAttention's kernels) takes 16-bit tensors on CUDA; caps, prefixes, shared
beginnings and the pruned last layer go by groups (attention.py), which is the plain twin of both. Equal documents go
to cuDNN, which takes half the time on an H200 (16k tokens, forward and backward: 3.8 ms for 7.1 at length 4096, 1.2
for 2.1 at 512). It plans for each new shape anew, so only for lengths that come again; and it is not deterministic.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.kernels.documents import Documents

WIDEST_HEAD = 256
EVEN = 256  # lengths that come again are multiples of this


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
    if _even(documents, batch * width) and (window is None or window >= documents.longest):
        return _attend_even(query, key, value, documents.longest, scaling)
    flat = [x.transpose(1, 2).reshape(batch * width, *x.shape[1::2]) for x in (query, key, value)]
    cumulative, longest = documents.cumulative, documents.longest
    limits: dict[str, Any] = {"scale": scaling, "window_size": (window - 1 if window else -1, 0)}
    kernel = _kernel()
    if heads != key.shape[1] and _asks_leave(kernel):
        limits["enable_gqa"] = True
    out = kernel(*flat, cumulative, cumulative, longest, longest, **limits)
    if documents.asking_real is not None:
        out = out.masked_fill(~documents.asking_real.view(-1, 1, 1), 0)
    return out.view(batch, width, heads, -1)


def _even(documents: Documents, tokens: int) -> bool:
    """Whether all documents are as long as each other, as full rows are."""
    cumulative, longest = documents.cumulative, documents.longest
    if cumulative is None or documents.asking_real is not None or not longest or longest % EVEN:
        return False
    return longest * (len(cumulative) - 1) == tokens and not torch.are_deterministic_algorithms_enabled()


def _attend_even(query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float | None) -> Tensor:
    """query [B H T D], key and value [B Hkv T D], T = documents of `length` -> [B T H D]."""
    batch, heads, width, size = query.shape
    query, key, value = (
        x.transpose(1, 2).reshape(-1, length, x.shape[1], size).transpose(1, 2) for x in (query, key, value)
    )
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != key.shape[1]
        )
    return out.transpose(1, 2).reshape(batch, width, heads, size)


@cache
def _asks_leave(kernel: Any) -> bool:
    """Whether it must be told that heads share keys: from torch 2.12 on."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def _kernel() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
