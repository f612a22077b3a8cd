"""Norms, gates and rotary positions on a card, each in one pass over memory.

    RMSNorm   a program some rows: read x, write y and a root; back: read x and dy, write dx, and a sum for dw
    gate      a program 2,048 numbers: act(gate) * up; back: read gate, up, dh, write d gate, d up and h again
    rotary    a program a token's heads, of queries and keys: y = x cos + turn(x) sin, in place of five passes each
Plain torch walks memory once an operator, which on an H200 is a fifth of a step of LoRA on 8B. Sums are fp32; in
16 bits numbers are rounded where the plain twins (norm.py, gate.py, rotary.py) round them.
What differs from batch to batch is never compiled for: a second variant cost a second in the middle of a run (H200).
Runs on CUDA; on processors through Triton's interpreter alone (TRITON_INTERPRET=1), as the tests do.

Shapes: n rows or tokens, d width, i inner size, B batch, T tokens, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tunesmith.kernels.triton_head import tanh

TILE = 4096  # numbers of a program that walks rows
INNER = 2048  # numbers of a program of the gate
WEIGHT_PROGRAMS = 512  # partial sums of a norm's weight gradient


@triton.jit(do_not_specialize=["count"])
def _norm(  # type: ignore[no-untyped-def]
    x, weight, out, roots, count, width, eps,
    rounded: tl.constexpr, offset: tl.constexpr, rows: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    place = tl.arange(0, size)[None, :]
    inside = (row < count) & (place < width)
    some = tl.load(x + row * width + place, mask=inside, other=0.0).to(tl.float32)
    root = 1.0 / tl.sqrt(tl.sum(some * some, 1)[:, None] / width + eps)
    tl.store(roots + row, root, mask=row < count)
    factor = tl.load(weight + place, mask=place < width, other=0.0).to(tl.float32)
    if offset:
        factor += 1.0
    value = some * root
    if rounded:
        value = value.to(x.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + place, (value * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "each"])
def _norm_back(  # type: ignore[no-untyped-def]
    x, roots, weight, grad, of_x, of_weight, count, width, each,
    offset: tl.constexpr, asks_x: tl.constexpr, asks_weight: tl.constexpr, rows: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    place = tl.arange(0, size)[None, :]
    factor = tl.load(weight + place, mask=place < width, other=0.0).to(tl.float32)
    if offset:
        factor += 1.0
    total = tl.zeros((rows, size), dtype=tl.float32)
    for block in range(each):
        row = (tl.program_id(0).to(tl.int64) * each + block) * rows + tl.arange(0, rows)[:, None]
        inside = (row < count) & (place < width)
        some = tl.load(x + row * width + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * width + place, mask=inside, other=0.0).to(tl.float32)
        root = tl.load(roots + row, mask=row < count, other=0.0)
        if asks_weight:
            total += g * some * root
        if asks_x:
            g *= factor
            mean = tl.sum(g * some, 1)[:, None] * root * root * root / width
            tl.store(
                of_x + row * width + place, (g * root - some * mean).to(of_x.dtype.element_ty), mask=inside
            )
    if asks_weight:
        found = tl.sum(total, 0)[None, :]
        tl.store(of_weight + tl.program_id(0) * width + place, found, mask=place < width)


def _norm_shape(width: int) -> dict[str, Any]:
    size = triton.next_power_of_2(width)
    return {"rows": max(1, TILE // size), "size": size,
            "num_warps": 4 if size <= 4096 else 8}  # fmt: skip


def norm(
    x: Tensor, weight: Tensor, eps: float, rounded: bool, offset: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(y in `dtype` [n d], roots [n 1]) of x [n d]; `rounded`: to x's dtype before the weight, `offset`: weight + 1."""
    count, width = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    roots = torch.empty(count, 1, dtype=torch.float32, device=x.device)
    shape = _norm_shape(width)
    if count:
        _norm[(triton.cdiv(count, shape["rows"]),)](
            x, weight, out, roots, count, width, eps, rounded=rounded, offset=offset, **shape
        )
    return out, roots


def norm_backward(
    x: Tensor, roots: Tensor, weight: Tensor, grad: Tensor, offset: bool, asks_x: bool, asks_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """(d x [n d] in x's dtype, d weight [d] in fp32), each None where it is not asked for."""
    count, width = x.shape
    shape = _norm_shape(width)
    blocks = triton.cdiv(count, shape["rows"])
    each = triton.cdiv(blocks, WEIGHT_PROGRAMS) if asks_weight else 1
    programs = triton.cdiv(blocks, each) if blocks else 0
    of_x = torch.empty_like(x) if asks_x else None
    sums = torch.empty(programs, width, dtype=torch.float32, device=x.device) if asks_weight else None
    if programs:
        _norm_back[(programs,)](
            x, roots, weight, grad, x if of_x is None else of_x, roots if sums is None else sums, count, width, each,
            offset=offset, asks_x=asks_x, asks_weight=asks_weight, **shape,
        )  # fmt: skip
    return of_x, None if sums is None else sums.sum(0)


@triton.jit
def _acted(x, act: tl.constexpr):  # type: ignore[no-untyped-def]
    if act == "silu":
        return x / (1.0 + tl.exp(-x))
    elif act == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@triton.jit
def _slope(x, act: tl.constexpr):  # type: ignore[no-untyped-def]
    if act == "silu":
        share = 1.0 / (1.0 + tl.exp(-x))
        return share * (1.0 + x * (1.0 - share))
    elif act == "gelu":
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    else:
        t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
        inner = 0.7978845608028654 * (1.0 + 0.134145 * x * x)
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


@triton.jit
def _gate(  # type: ignore[no-untyped-def]
    gates, up, out, gates_stride, up_stride, width, act: tl.constexpr, size: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * size + tl.arange(0, size)
    inside = place < width
    x = tl.load(gates + row * gates_stride + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + place, mask=inside, other=0.0).to(tl.float32)
    made = _acted(x, act).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + place, (made * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_back(  # type: ignore[no-untyped-def]
    gates, up, grad, of_gates, of_up, again, gates_stride, up_stride, width,
    act: tl.constexpr, asks_again: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * size + tl.arange(0, size)
    inside = place < width
    x = tl.load(gates + row * gates_stride + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + place, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * width + place, mask=inside, other=0.0).to(tl.float32)
    made = _acted(x, act).to(grad.dtype.element_ty).to(tl.float32)
    if asks_again:
        tl.store(again + row * width + place, (made * u).to(grad.dtype.element_ty), mask=inside)
    through = (g * u).to(grad.dtype.element_ty).to(tl.float32)
    tl.store(
        of_gates + row * width + place, (through * _slope(x, act)).to(grad.dtype.element_ty), mask=inside
    )
    tl.store(of_up + row * width + place, (g * made).to(grad.dtype.element_ty), mask=inside)


def gate(gates: Tensor, up: Tensor, act: str) -> Tensor:
    """act(gates) * up: [n i]; rows of either may stand apart."""
    count, width = up.shape
    out = torch.empty(up.shape, dtype=up.dtype, device=up.device)
    if count:
        _gate[(count, triton.cdiv(width, INNER))](
            gates, up, out, gates.stride(0), up.stride(0), width, act=act, size=INNER, num_warps=4
        )
    return out


def gate_backward(
    gates: Tensor, up: Tensor, grad: Tensor, act: str, of_gates: Tensor, of_up: Tensor, again: Tensor | None
) -> None:
    """Write d gates and d up, which may be the memory of `grad`, and act(gates) * up again where asked. All [n i]."""
    count, width = up.shape
    if count:
        _gate_back[(count, triton.cdiv(width, INNER))](
            gates, up, grad, of_gates, of_up, grad if again is None else again, gates.stride(0), up.stride(0), width,
            act=act, asks_again=again is not None, size=INNER, num_warps=4,
        )  # fmt: skip


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    x, out, at, batch, token, heads, half, x_batch, x_token, x_head, cos_1, cos_2, sin_1, sin_2,
    back: tl.constexpr, rounded: tl.constexpr, heads_size: tl.constexpr, half_size: tl.constexpr,
):  # fmt: skip
    """The heads of one token."""
    head = tl.arange(0, heads_size)[:, None]
    place = tl.arange(0, half_size)[None, :]
    inside = (head < heads) & (place < half)
    here = x + batch * x_batch + token * x_token + head * x_head + place
    first = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(here + half, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    turned_1 = first * cos_1
    turned_2 = second * cos_2
    if back:
        across_1 = second * sin_2
        across_2 = -first * sin_1
    else:
        across_1 = -second * sin_1
        across_2 = first * sin_2
    if rounded:
        turned_1, turned_2 = turned_1.to(kind).to(tl.float32), turned_2.to(kind).to(tl.float32)
        across_1, across_2 = across_1.to(kind).to(tl.float32), across_2.to(kind).to(tl.float32)
    there = out + (at * heads + head) * (2 * half) + place
    tl.store(there, (turned_1 + across_1).to(kind), mask=inside)
    tl.store(there + half, (turned_2 + across_2).to(kind), mask=inside)


@triton.jit(do_not_specialize=["tokens", "x_batch", "y_batch", "t_batch"])
def _rotate(  # type: ignore[no-untyped-def]
    x, y, cos, sin, x_out, y_out, tokens, half, x_heads, x_batch, x_token, x_head, y_heads, y_batch, y_token, y_head,
    t_batch, t_token, back: tl.constexpr, rounded: tl.constexpr,
    x_size: tl.constexpr, y_size: tl.constexpr, half_size: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    batch, token = at // tokens, at % tokens
    place = tl.arange(0, half_size)[None, :]
    angle = batch * t_batch + token * t_token + place
    cos_1 = tl.load(cos + angle, mask=place < half, other=0.0).to(tl.float32)
    cos_2 = tl.load(cos + angle + half, mask=place < half, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin + angle, mask=place < half, other=0.0).to(tl.float32)
    sin_2 = tl.load(sin + angle + half, mask=place < half, other=0.0).to(tl.float32)
    _turn(x, x_out, at, batch, token, x_heads, half, x_batch, x_token, x_head, cos_1, cos_2, sin_1, sin_2,
          back, rounded, x_size, half_size)  # fmt: skip
    if y_size:
        _turn(y, y_out, at, batch, token, y_heads, half, y_batch, y_token, y_head, cos_1, cos_2, sin_1, sin_2,
              back, rounded, y_size, half_size)  # fmt: skip


def rotate(x: Sequence[Tensor], cos: Tensor, sin: Tensor, back: bool = False) -> tuple[Tensor, ...]:
    """One or two, each [B T H D], cos and sin [B T D] or [1 T D] -> each [B T H D]; `back`: the transpose of that map.

    With angles as narrow as x products are rounded as torch rounds them; with wider ones the sum alone is.
    """
    first, last = x[0], x[-1]
    batch, tokens, _, width = first.shape
    outs = tuple(torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in x)
    cos, sin = cos.expand(batch, tokens, width), sin.expand(batch, tokens, width)
    assert cos.stride() == sin.stride()
    if first.numel():
        _rotate[(batch * tokens,)](
            first, last, cos, sin, outs[0], outs[-1], tokens, width // 2, first.shape[2], *first.stride()[:3],
            last.shape[2], *last.stride()[:3], *cos.stride()[:2], back=back, rounded=cos.dtype == first.dtype,
            x_size=triton.next_power_of_2(first.shape[2]),
            y_size=triton.next_power_of_2(last.shape[2]) if len(x) > 1 else 0,
            half_size=triton.next_power_of_2(width // 2), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return outs
