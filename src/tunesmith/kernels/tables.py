"""A frozen embedding or head held in 8 or 4 bits: rows are made wide when they are looked up or multiplied with.

    W [V d] --blocks of 64 along a row--> codes x scale of their block
      8 bits    code in -127..127, scale = absmax / 127                     1.06 bytes a weight
      4 bits    NF4 (arXiv:2305.14314, appendix E), two codes a byte        0.56 bytes a weight
Rows are blocks of their own, so that any of them can be made alone: a look-up makes those of its tokens, the head
(head.py) a piece of the vocabulary after the other. On a card 4 bits are made wide by triton_nf4.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunesmith.kernels.card import has_triton
from tunesmith.kernels.chunks import PIECE_ELEMENTS, TABLE_BLOCK

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """Weights [V d]: codes Int8[V d] or UInt8[V d/2], scales Float32[V d/block]; `width` is d."""

    codes: Tensor
    scales: Tensor
    levels: Tensor  # Float32[16] of 4 bits; of 8 nothing
    bits: int
    width: int

    requires_grad = False

    @classmethod
    def of(cls, weight: Tensor, bits: int) -> Table:
        """Quantise a weight [V d], each block by itself, from its own numbers. Of 4 bits d is even."""
        assert bits == 8 or weight.shape[1] % 2 == 0
        made = [_quantise(weight[piece].detach().float(), bits) for piece in pieces(*weight.shape)]
        codes, scales = zip(*made)
        levels = torch.tensor(NF4 if bits == 4 else (), device=weight.device)
        return cls(torch.cat(codes), torch.cat(scales), levels, bits, weight.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """[V, d]."""
        return len(self.codes), self.width

    @property
    def device(self) -> torch.device:
        """Where it stands."""
        return self.codes.device

    def tensors(self) -> list[tuple[str, Tensor]]:
        """What it is made of, by name."""
        return [("codes", self.codes), ("scales", self.scales), ("levels", self.levels)]

    def to(self, device: torch.device) -> Table:
        """The same on another device."""
        codes, scales, levels = (part.to(device) for _, part in self.tensors())
        return replace(self, codes=codes, scales=scales, levels=levels)

    def rows(self, piece: slice, dtype: torch.dtype) -> Tensor:
        """Some rows, wide: [n d]."""
        return _widen(self.codes[piece], self.scales[piece], self.levels, dtype)

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of tokens, wide: Int64[n] -> [n d]."""
        return _widen(self.codes.index_select(0, ids), self.scales.index_select(0, ids), self.levels, dtype)

    def pieces(self) -> Iterator[slice]:
        """All rows, so many at a time that what is wide at once stays small."""
        return pieces(*self.shape)


def pieces(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows."""
    step = max(1, PIECE_ELEMENTS // width)
    return (slice(begin, min(begin + step, count)) for begin in range(0, count, step))


def block_of(width: int) -> int:
    """Weights that share a scale: 64, or a row where that does not divide it."""
    return TABLE_BLOCK if width % TABLE_BLOCK == 0 else width


def _quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """fp32 [n d] -> codes and scales."""
    blocks = weight.view(len(weight), -1, block_of(weight.shape[1]))
    most = blocks.abs().amax(2)
    shares = blocks / torch.where(most == 0, 1, most)[..., None]
    if bits == 8:
        return (shares * 127).round_().to(torch.int8).view_as(weight), most / 127
    levels = torch.tensor(NF4, device=weight.device)
    codes = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2).view(len(weight), -1, 2)
    return (codes[..., 0] << 4 | codes[..., 1]).to(torch.uint8), most


def _widen(codes: Tensor, scales: Tensor, levels: Tensor, dtype: torch.dtype) -> Tensor:
    """Each value in fp32, rounded once to `dtype`."""
    count, width = len(codes), codes.shape[1] * (2 if len(levels) else 1)
    if not len(levels):
        values = codes.float()
    elif codes.is_cuda and has_triton():
        from tunesmith.kernels import triton_nf4

        block = width // scales.shape[1]
        return triton_nf4.widen(codes.reshape(-1), levels, scales.reshape(-1), block, dtype).view(
            count, width
        )
    else:
        values = levels.index_select(0, torch.stack([codes >> 4, codes & 15], dim=2).view(-1).int())
    wide = values.view(*scales.shape, width // scales.shape[1]).mul_(scales[..., None])
    return wide.view(count, width).to(dtype)
