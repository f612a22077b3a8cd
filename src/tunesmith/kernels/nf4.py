"""A linear layer over a weight held in 4 bits: y = dequantise(W4) x + b, with the wide weight never kept.

W4 is a bitsandbytes Params4bit: codes [o i / 2], an absmax for each 64 weights (arXiv:2305.14314, section 3).
Dequantising is one Triton kernel on CUDA (triton_nf4.py), bitsandbytes' own elsewhere, and plain torch where that is
wrong; the wide weight is made anew in forward and in backward and dropped at once.

Shapes: n tokens, i inputs, o outputs; W [o i].
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.card import has_triton
from tunesmith.kernels.product import linear, mm


def held_in_four_bits(weight: Tensor) -> bool:
    """Whether a weight is bitsandbytes' 4-bit one; told by name, for importing bitsandbytes takes seconds."""
    return type(weight).__name__ == "Params4bit"


def dequantise(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The wide weight: [o, i] in `dtype`, each value the fp32 one rounded once."""
    held: Any = weight
    if held.data.is_cuda and has_triton():
        from tunesmith.kernels import triton_nf4

        return triton_nf4.dequantise(weight, dtype)
    # On processors bitsandbytes (0.50) begins a block anew with each row, which is not how it quantised.
    if not held.data.is_cuda and held.quant_state.shape[-1] % held.quant_state.blocksize:
        return plain_dequantise(weight, dtype)
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(held.quant_state)
    state.dtype = dtype
    return dequantize_4bit(held.data, state)


def plain_dequantise(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What the codes say, in plain torch: table[nibble] times the scale of its block, in fp32, rounded once."""
    held: Any = weight
    state, codes = held.quant_state, held.data.reshape(-1).int()
    scales = state.absmax
    if state.nested:
        inner = state.state2
        blocks = torch.arange(len(scales), device=scales.device) // inner.blocksize
        scales = inner.code[scales.int()] * inner.absmax[blocks] + state.offset
    values = state.code[torch.stack([codes >> 4, codes & 15], dim=1)].view(-1)
    count = state.shape.numel()
    blocks = torch.arange(count, device=codes.device) // state.blocksize
    return (values[:count] * scales[blocks]).to(dtype).view(state.shape)


def wide(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight to compute with, whichever way it is held."""
    return dequantise(weight, dtype) if held_in_four_bits(weight) else weight


def four_bit_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., i] -> [..., o], in the dtype of x, or of autocast; W gets no gradient."""
    x = x.to(computed_in(x))
    out = _FourBitLinear.apply(x, weight)
    return out if bias is None else out + bias.to(out.dtype)


class _FourBitLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight  # no saved tensor: that would lose the scales that stand beside the codes
        return linear(x, dequantise(weight, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [grad] = grads
        return mm(grad.flatten(0, -2), dequantise(ctx.weight, grad.dtype)).view(*grad.shape[:-1], -1), None
