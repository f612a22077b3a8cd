"""Weights held in 4 bits made wide by one Triton kernel: codes, scales and scales of scales read once, written once.

    byte = high nibble, low nibble        w = table[nibble] * scale of its 64  (Dettmers et al. 2023, arXiv:2305.14314)
    scale = code8[byte] * scale of its 256 scales + offset      where the scales are quantised, too
Bit for bit what bitsandbytes makes of the same weight: products and sums in fp32, never contracted, rounded once.
Runs on CUDA; on processors through Triton's interpreter alone (TRITON_INTERPRET=1), as the tests do.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BYTES = 1024  # a program's share of the codes: 2048 weights


@triton.jit
def _widen(  # type: ignore[no-untyped-def]
    codes, table, scales, scale_table, scales_of_scales, offset, out, bytes_,
    block: tl.constexpr, nested_block: tl.constexpr, nested: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * size + tl.arange(0, size)
    inside = place < bytes_
    byte = tl.load(codes + place, mask=inside, other=0).to(tl.int32)
    group = (place * 2) // block
    if nested:
        coded = tl.load(scales + group, mask=inside, other=0).to(tl.int32)
        wide = tl.load(scales_of_scales + group // nested_block, mask=inside, other=0.0)
        scale = tl.load(scale_table + coded) * wide
        scale = scale + tl.load(offset)
    else:
        scale = tl.load(scales + group, mask=inside, other=0.0)
    high = tl.load(table + (byte >> 4)) * scale
    low = tl.load(table + (byte & 15)) * scale
    both = tl.arange(0, 2 * size) + tl.program_id(0) * (2 * size)
    value = tl.interleave(high, low).to(out.dtype.element_ty)
    tl.store(out + both, value, mask=both < 2 * bytes_)


def dequantise(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The wide weight of a bitsandbytes Params4bit: [o, i] in `dtype`."""
    held: Any = weight
    state = held.quant_state
    inner = state.state2 if state.nested else None
    nested = (inner.code, inner.absmax, state.offset, inner.blocksize) if inner else None
    wide = widen(held.data.reshape(-1), state.code, state.absmax, state.blocksize, dtype, nested)
    return wide[: state.shape.numel()].view(state.shape)  # an odd count has a nibble to spare


def widen(
    codes: Tensor,
    levels: Tensor,
    scales: Tensor,
    block: int,
    dtype: torch.dtype,
    nested: tuple[Tensor, Tensor, Tensor, int] | None = None,
) -> Tensor:
    """Two values a byte of `codes` [n], each level times the scale of its block: [2n] in `dtype`.

    nested: levels and scales of the scales, their offset, and how many share one.
    """
    out = torch.empty(codes.numel() * 2, dtype=dtype, device=codes.device)
    scale_levels, outer, offset, nested_block = nested or (levels, scales, levels, 1)
    _widen[(triton.cdiv(codes.numel(), BYTES),)](
        codes, levels, scales, scale_levels, outer, offset, out, codes.numel(),
        block=block, nested_block=nested_block, nested=nested is not None, size=BYTES, enable_fp_fusion=False,
    )  # fmt: skip
    return out
