"""LoRA's linear layers as one autograd node: several over one input x.

    y_k = x W_k' + b_k + (x s_k A_k') B_k'                     q, k, v; or a layer by itself; mlp.py has the MLP's
One product with all s A stacked, outputs and the gradient of x written into one place; of the layers x and x s A' are
kept, of dropout a mask of one byte. W may be held in few bits: then it is made wide in each pass, and not kept.
The scale is A's, which is small: no number of a token is multiplied by it.
Equal to the layer by layer form in value and gradient (tests, float64). Hu et al. 2021, arXiv:2106.09685.

Shapes: n tokens, i inputs, o outputs, r rank, R ranks of all parts; W [o i], A [r i], B [o r].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.dropout import draw_mask, kept_share
from tunesmith.kernels.nf4 import held_in_four_bits, wide
from tunesmith.kernels.product import add_mm, linear, mm, mm_wide


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A linear layer that does not train, weight [o i] and bias [o]; a low-rank update that may, a [r i], b [o r]."""

    weight: Tensor
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scaling: float = 1.0
    dropout: float = 0.0  # of the update's input, as one trains


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:
    """x [..., i] -> [..., o]. The frozen W and bias get no gradient."""
    return lora_linears(x, [Part(weight, bias, a, b, scaling, dropout)])[0]


def lora_linears(x: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """x [..., i] -> [..., o] of each part, in the dtype of x or of autocast."""
    return _LoraLinears.apply(x, parts, computed_in(x), *factors(parts))


def factors(parts: Sequence[Part]) -> list[Tensor | None]:
    """a and b of each part, one after the other: what autograd must be shown."""
    return [factor for part in parts for factor in (part.a, part.b)]


def learns(parts: Sequence[Part]) -> bool:
    """Whether anything of them trains."""
    return any(factor is not None and factor.requires_grad for factor in factors(parts))


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Parts in the dtype they compute in; one without an update has one of rank 0."""

    weights: Sequence[Any]
    a: Tensor  # all s A, one below the other: [R i]
    b: Sequence[Tensor]
    ranks: Sequence[int]
    scales: Sequence[float]
    dtype: torch.dtype

    @classmethod
    def of(cls, dtype: torch.dtype, parts: Sequence[Part]) -> Layers:
        """Casts factors, and lays those of A together."""
        scales = [part.scaling / kept_share(part.dropout) for part in parts]
        ranks = [0 if part.a is None else len(part.a) for part in parts]
        b = [_none(part, dtype, "b") if part.b is None else part.b.to(dtype) for part in parts]
        return cls([part.weight for part in parts], _stacked(parts, scales, dtype), b, ranks, scales, dtype)

    def saved(self) -> list[Tensor | None]:
        """What autograd keeps. Weights in few bits are none of it: they would lose the scales beside their codes."""
        return [*(None if held_in_four_bits(w) else w for w in self.weights), self.a, *self.b]

    def emptied(self) -> Layers:
        """Without what is saved."""
        held = [w if held_in_four_bits(w) else None for w in self.weights]
        return Layers(held, torch.empty(0), (), self.ranks, self.scales, self.dtype)

    def filled(self, saved: Sequence[Any]) -> Layers:
        """With it again."""
        count = len(self.weights)
        weights = [held if held is not None else w for held, w in zip(self.weights, saved)]
        return Layers(
            weights, saved[count], saved[count + 1 : 2 * count + 1], self.ranks, self.scales, self.dtype
        )

    def wide(self, place: int) -> Tensor:
        """W of a part, made anew where it is held in few bits."""
        return wide(self.weights[place], self.dtype).to(self.dtype)

    def inner(self, x: Tensor, masks: Sequence[Tensor | None]) -> list[Tensor]:
        """x s A' of each part, one product for all unless each has a mask of its own."""
        if masks:
            return [mm(left(x, mask), a.t()) for a, mask in zip(self.a.split(self.ranks), masks)]
        return list(mm(x, self.a.t()).split(self.ranks, 1))

    def outputs(
        self, x: Tensor, shape: Sequence[int], bias: Sequence[Tensor | None], inner: Sequence[Tensor]
    ) -> Any:
        """Each part's output, [..., o]; no views, for OLMo clips them in place."""
        return tuple(self._output(place, x, shape, bias[place], one) for place, one in enumerate(inner))

    def _output(
        self, place: int, x: Tensor, shape: Sequence[int], bias: Tensor | None, inner: Tensor
    ) -> Tensor:
        """Of one part; a weight that was made wide for it is gone when the next one's is made.

        On a card the update goes first: the large product then adds to what it finds, for next to nothing, where the
        small one would read and write all of it anew (20 ms of a step of 8B on an H200).
        """
        w, b = self.wide(place), self.b[place]
        bias = None if bias is None else bias.to(self.dtype)
        if not x.is_cuda or not b.shape[1]:
            out = linear(x.view(*shape), w, bias)
            out.view(-1, len(b)).addmm_(inner, b.t())
            return out
        out = x.new_empty(*shape[:-1], len(b))
        add_to_update(out.view(-1, len(b)), x, w, bias, inner, b)
        return out

    def grads_inner(self, grads: Sequence[Tensor | None], inner: Sequence[Tensor]) -> list[Tensor]:
        """d loss / d (x s A') of each part."""
        return [
            torch.zeros_like(mine) if grad is None else mm(grad, b)
            for grad, mine, b in zip(grads, inner, self.b)
        ]

    def grads_b(self, grads: Sequence[Tensor | None], inner: Sequence[Tensor]) -> list[Tensor | None]:
        """d loss / d B of each part. The narrow side first: three times as fast as the other way round."""
        pairs = zip(grads, inner)
        return [None if g is None or not mine.shape[1] else mm_wide(mine.t(), g).t() for g, mine in pairs]

    def grad_x(
        self, grads: Sequence[Tensor | None], of_inner: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> Tensor:
        """d loss / d x, all added up in one place: [n i]."""
        total: Any = None
        for place, grad in enumerate(grads):
            if grad is not None:
                w = self.wide(place)
                total = mm(grad, w) if total is None else add_mm(total, grad, w)
        if not masks:
            return total.addmm_(_side_by_side(of_inner), self.a)
        for one, a, mask in zip(of_inner, self.a.split(self.ranks), masks):
            total.add_(left(mm(one, a), mask))
        return total

    def grads_a(
        self, x: Tensor, of_inner: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """d loss / d A of each part."""
        if masks:
            return self.scaled([mm_wide(one.t(), left(x, mask)) for one, mask in zip(of_inner, masks)])
        whole = mm_wide(_side_by_side(of_inner).t(), x)
        if len({*self.scales}) == 1:
            return whole.mul_(self.scales[0]).split(self.ranks)
        return self.scaled(whole.split(self.ranks))

    def scaled(self, of_a: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of A from those of s A, which are written over."""
        return [one.mul_(scale) for one, scale in zip(of_a, self.scales)]


def add_to_update(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, inner: Tensor, b: Tensor
) -> None:
    """x W' + bias + inner B' into [n o], the last first."""
    if bias is None:
        torch.mm(inner, b.t(), out=out)
    else:
        torch.addmm(bias, inner, b.t(), out=out)
    out.addmm_(x, weight.t())


def _none(part: Part, dtype: torch.dtype, factor: str) -> Tensor:
    """A factor of rank 0: a [0 i] or b [o 0]."""
    outputs, inputs = getattr(part.weight, "quant_state", part.weight).shape
    shape = (0, inputs) if factor == "a" else (outputs, 0)
    return torch.empty(shape, dtype=dtype, device=part.weight.device)


def _stacked(parts: Sequence[Part], scales: Sequence[float], dtype: torch.dtype) -> Tensor:
    """All s A, one below the other: [R i]."""
    low = [(part.a, scale) for part, scale in zip(parts, scales) if part.a is not None]
    if not low:
        return _none(parts[0], dtype, "a")
    (first, scale), *others = low
    if any(one != scale for _, one in others):
        return torch.cat([a * one for a, one in low]).to(dtype)
    whole = torch.cat([a for a, _ in low]) if others else first
    return torch.mul(whole, scale, out=torch.empty(whole.shape, dtype=dtype, device=whole.device))


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def masks_of(x: Tensor, parts: Sequence[Part]) -> list[Tensor | None]:
    """What each part's dropout leaves, Int8[n i]; none where nothing is dropped at all."""
    if not any(part.dropout for part in parts):
        return []
    return [draw_mask(x, part.dropout) if part.dropout else None for part in parts]


def left(x: Tensor, mask: Tensor | None) -> Tensor:
    """What a mask leaves of x."""
    return x if mask is None else x * mask


def wanted(needs: Sequence[bool], of_a: Sequence[Any], of_b: Sequence[Any]) -> list[Tensor | None]:
    """Gradients of a and b of each part, one after the other; autograd casts them to the factors' own dtype."""
    pairs = [one for pair in zip(of_a, of_b) for one in pair]
    return [one if need else None for need, one in zip(needs, pairs)]


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, parts: Sequence[Part], dtype: torch.dtype, *given: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.given = x.shape, x.dtype
        layers = Layers.of(dtype, parts)
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        masks = masks_of(flat, parts)
        inner = layers.inner(flat, masks)
        outs = layers.outputs(flat, x.shape, [part.bias for part in parts], inner)
        asked = any(ctx.needs_input_grad[3::2])  # only a gradient of A asks for x (LoRA-FA has none)
        if not ctx.needs_input_grad[0]:  # what has no update then needs no gradient either
            learns = [a or b for a, b in zip(ctx.needs_input_grad[3::2], ctx.needs_input_grad[4::2])]
            ctx.mark_non_differentiable(*(out for out, one in zip(outs, learns) if not one))
        ctx.layers = layers.emptied()
        ctx.save_for_backward(flat if asked else None, *inner, *masks, *layers.saved())
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.layers.ranks)
        flat, *rest = ctx.saved_tensors
        inner, masks = rest[:count], rest[count : -2 * count - 1]
        layers = ctx.layers.filled(rest[-2 * count - 1 :])
        rows = [None if g is None else g.reshape(-1, g.shape[-1]).to(ctx.layers.dtype) for g in grads]
        of_inner, of_b = layers.grads_inner(rows, inner), layers.grads_b(rows, inner)
        of_x = None
        if ctx.needs_input_grad[0] and any(row is not None for row in rows):
            of_x = layers.grad_x(rows, of_inner, masks).view(ctx.shape).to(ctx.given)
        of_a = [None] * count if flat is None else layers.grads_a(flat, of_inner, masks)
        return of_x, None, None, *wanted(ctx.needs_input_grad[3:], of_a, of_b)
