"""AdamW in 8 bits by one Triton program some blocks of 256: codes made wide, weights moved, codes made again.

    m, v = level[code] * scale    m, v, weight: one step of AdamW (arXiv:1711.05101)    codes of m / max|m|, v / max v
A code is found by halving 255 bounds eight times. What adam8.py says of codes, roundings and scales holds here: it is
the plain twin, but for what is drawn (Philox here, torch's generator there).
Runs on CUDA; on processors through Triton's interpreter alone (TRITON_INTERPRET=1), as the tests do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4  # blocks of a program
_TINY = torch.finfo(torch.float32).tiny


@triton.jit
def _below(bounds, value):
    """How many of 255 ascending bounds are below each value."""
    found = tl.zeros(value.shape, dtype=tl.int32)
    for step in tl.static_range(8):
        width = 128 >> step
        found += tl.where(tl.load(bounds + found + (width - 1)) < value, width, 0)
    return found


@triton.jit(do_not_specialize=["seed"])
def _step(  # type: ignore[no-untyped-def]
    weight, gradient, m_codes, m_scales, v_codes, v_scales, signed, middles, squares, count, seed,
    decay, keep_1, beta_2, root_2, rate, eps, tiny, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    place = row[:, None] * block + tl.arange(0, block)[None, :]
    inside = place < count
    held = row[:, None] * block < count  # codes stand there, up to the end of the last block
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    m_scale = tl.load(m_scales + row, mask=row * block < count, other=0.0)[:, None]
    v_scale = tl.load(v_scales + row, mask=row * block < count, other=0.0)[:, None]
    m = tl.load(signed + tl.load(m_codes + place, mask=held, other=0).to(tl.int32)) * m_scale
    v = tl.load(squares + tl.load(v_codes + place, mask=held, other=0).to(tl.int32)) * v_scale
    m = tl.where(inside, m + (g - m) * keep_1, 0.0)
    v = tl.where(inside, v * beta_2 + g * g * (1.0 - beta_2), 0.0)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * decay
    w -= rate * m / (tl.sqrt(v / root_2) + eps)
    tl.store(weight + place, w.to(weight.dtype.element_ty), mask=inside)
    m_scale = tl.max(tl.abs(m), 1)
    v_scale = tl.max(v, 1)
    tl.store(m_scales + row, m_scale, mask=row * block < count)
    tl.store(v_scales + row, v_scale, mask=row * block < count)
    m /= tl.maximum(m_scale, tiny)[:, None]
    v /= tl.maximum(v_scale, tiny)[:, None]
    tl.store(m_codes + place, _below(middles, m).to(tl.uint8), mask=held)
    least = tl.load(squares + 1)
    v = tl.where(v > 0.0, tl.minimum(tl.maximum(v, least), 1.0), v)
    above = tl.maximum(_below(squares, v), 1)
    low, high = tl.load(squares + above - 1), tl.load(squares + above)
    chance = tl.rand(seed, place)
    code = tl.where(chance * (high - low) < v - low, above, above - 1)
    tl.store(v_codes + place, code.to(tl.uint8), mask=held)


def step(
    weight: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor, Tensor, Tensor],
    tables: tuple[Tensor, Tensor],
    seed: int,
    count: int,
    rate: float,
    decay: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Move a weight in place, and its moments: codes of m UInt8[n 256], scales [n], codes and scales of v.

    tables: 256 ascending signed levels, and squares. count: steps from 1; decay: what a weight keeps of itself.
    """
    signed, squares = tables
    middles = (signed[1:] + signed[:-1]) / 2
    (beta_1, beta_2), block = betas, moments[0].shape[1]
    _step[(triton.cdiv(weight.numel(), ROWS * block),)](
        weight, gradient, *moments, signed, middles, squares, weight.numel(), seed, decay, 1 - beta_1, beta_2,
        1 - beta_2**count, rate / (1 - beta_1**count), eps, _TINY, rows=ROWS, block=block, num_warps=4,
    )  # fmt: skip
