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
    state, codes = held.quant_state, held.data.reshape(-1)
    count = state.shape.numel()
    out = torch.empty(
        codes.numel() * 2, dtype=dtype, device=codes.device
    )  # an odd count has a nibble to spare
    inner = state.state2 if state.nested else None
    _widen[(triton.cdiv(codes.numel(), BYTES),)](
        codes, state.code, state.absmax,
        inner.code if inner else state.code, inner.absmax if inner else state.absmax,
        state.offset if inner else state.code, out, codes.numel(),
        block=state.blocksize, nested_block=inner.blocksize if inner else 1, nested=inner is not None,
        size=BYTES, enable_fp_fusion=False,
    )  # fmt: skip
    return out[:count].view(state.shape)
