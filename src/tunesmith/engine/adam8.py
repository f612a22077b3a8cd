"""AdamW whose moments take a byte a number: each block of 256 has a scale, each number one of 256 codes.

    m  -> m / max |m|            -> nearest of 256 signed codes        (Dettmers et al. 2022, arXiv:2110.02861)
    v  -> v / max v              -> one of the two codes around it, at random so that its mean is v; codes are
                                    the squares of 256 unsigned ones, for what Adam divides by is the root of v
Two departures from the paper, both because beta2 = 0.999 moves v by a thousandth a step. To the nearest code it
would stand still for ever (measured: the root 2.3 times too large, 2000 steps after gradients fell to a fifth);
at random it follows, the root 9 to 16% about the true one. And v never falls to 0 while m has not: it stops at the
smallest code.
Tensors below 4096 numbers keep fp32 moments. Bytes a parameter: 2 x (1 + 4/256) = 2.03.
On a card one Triton program does all this in one pass (kernels/triton_adam.py).
"""

from __future__ import annotations

from functools import cache
from typing import final

import torch
from torch import Tensor

from tunesmith.engine.small_adam import PIECE, PIECE_ON_CARD, Due, Moments, SmallAdamW
from tunesmith.kernels.card import takes

BLOCK = 256
LEAST = 4096
assert PIECE % BLOCK == PIECE_ON_CARD % BLOCK == 0
DECADES = 7


@final
class AdamW8bit(SmallAdamW):
    """Both moments coded; those of a small tensor in fp32."""

    def first_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Codes of 0 and a scale for each block."""
        size, where = parameter.numel(), parameter.device
        if size < LEAST:
            return {name: torch.zeros(size, device=where) for name in ("exp_avg", "exp_avg_sq")}
        blocks, state = -(-size // BLOCK), {}
        zero = {"m": int((signed_codes() == 0).nonzero()), "v": 0}
        for name, code in zero.items():
            state[f"{name}_codes"] = torch.full((blocks, BLOCK), code, dtype=torch.uint8, device=where)
            state[f"{name}_scales"] = torch.zeros(blocks, device=where)
        return state

    def moments(self, state: dict[str, Tensor], cut: slice, seed: int) -> Moments:
        """The blocks of these numbers; a small tensor is one piece."""
        if "m_codes" not in state:
            return _Wide(state)
        rows = slice(cut.start // BLOCK, -(-cut.stop // BLOCK))
        return _Coded(state, rows, cut.stop - cut.start, seed)

    def update(self, due: Due) -> None:
        """As the plain twin does, or on a card in one pass."""
        parameter, state, group = due.parameter, due.state, due.group
        alike = parameter.is_contiguous() and due.gradient.is_contiguous()
        if "m_codes" not in state or not alike or not takes(parameter, due.gradient):
            super().update(due)
            return
        from tunesmith.kernels import triton_adam

        held = (state["m_codes"], state["m_scales"], state["v_codes"], state["v_scales"])
        tables, seed = (signed_codes(parameter.device), square_codes(parameter.device)), due.seed % 2**31
        triton_adam.step(
            parameter,
            due.gradient,
            held,
            tables,
            seed,
            due.count,
            group["lr"],
            due.kept,
            group["betas"],
            group["eps"],
        )


class _Wide:
    """Moments that are fp32 already; they change where they stand."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def wide(self) -> tuple[Tensor, Tensor]:
        return self.state["exp_avg"], self.state["exp_avg_sq"]

    def keep(self, first: Tensor, second: Tensor) -> None:
        """Nothing to do."""


class _Coded:
    """Some blocks of coded moments; what is behind the tensor's end in the last block is 0."""

    def __init__(self, state: dict[str, Tensor], rows: slice, size: int, seed: int) -> None:
        self.m, self.v = state["m_codes"][rows], state["v_codes"][rows]
        self.m_scales, self.v_scales = state["m_scales"][rows], state["v_scales"][rows]
        self.size, self.seed = size, seed

    def wide(self) -> tuple[Tensor, Tensor]:
        first = signed_codes(self.m.device)[self.m.int()] * self.m_scales[:, None]
        second = square_codes(self.v.device)[self.v.int()] * self.v_scales[:, None]
        return first.view(-1)[: self.size], second.view(-1)[: self.size]

    def keep(self, first: Tensor, second: Tensor) -> None:
        first, second = (self._blocks(moment) for moment in (first, second))
        self.m_scales.copy_(first.abs().amax(dim=1))
        self.v_scales.copy_(second.amax(dim=1))
        self.m.copy_(nearest(_share(first, self.m_scales), signed_codes(first.device)))
        generator = torch.Generator(device=second.device).manual_seed(self.seed)
        chance = torch.rand(second.shape, generator=generator, device=second.device)
        self.v.copy_(one_of_two(_share(second, self.v_scales), square_codes(second.device), chance))

    def _blocks(self, flat: Tensor) -> Tensor:
        rest = self.m.numel() - self.size
        flat = torch.nn.functional.pad(flat, (0, rest)) if rest else flat
        return flat.view(-1, BLOCK)


def _share(blocks: Tensor, scales: Tensor) -> Tensor:
    return blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


def nearest(values: Tensor, codes: Tensor) -> Tensor:
    """The place of the nearest code: UInt8, of the shape of `values`."""
    return torch.bucketize(values, (codes[1:] + codes[:-1]) / 2).to(torch.uint8)


def one_of_two(values: Tensor, codes: Tensor, chance: Tensor) -> Tensor:
    """The place of the code below or above, whose mean over `chance` in [0, 1) is the value; only 0 becomes 0."""
    values = torch.where(values > 0, values.clamp(codes[1], codes[-1]), values)
    above = torch.bucketize(values, codes).clamp_(1, len(codes) - 1)
    low, high = codes[above - 1], codes[above]
    return torch.where(chance * (high - low) < values - low, above, above - 1).to(torch.uint8)


@cache
def signed_codes(device: torch.device | str = "cpu") -> Tensor:
    """256 numbers of [-1, 1], ascending; seven decades, the largest the finest: Float32[256]."""
    positive = _decades(first=1)
    return torch.tensor(sorted([-value for value in positive] + [0.0, *positive, 1.0]), device=device)


@cache
def square_codes(device: torch.device | str = "cpu") -> Tensor:
    """Squares of 256 numbers of [0, 1], ascending: Float32[256]."""
    return torch.tensor(sorted([0.0, *_decades(first=2), 1.0]), device=device).square_()


def _decades(first: int) -> list[float]:
    """In the decade that ends at 10^-6, `first` means of equal parts of it; twice as many in each next one."""
    found = []
    for decade in range(DECADES):
        parts, top = first * 2**decade, 10.0 ** (decade - DECADES + 1)
        found += [top * (0.1 + 0.9 * (part + 0.5) / parts) for part in range(parts)]
    return found
