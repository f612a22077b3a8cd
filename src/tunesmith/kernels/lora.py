"""LoRA's linear layers as autograd nodes: several over one input x, and the one behind a gate, whose input is remade.

    y_k = x W_k' + b_k + s_k (x A_k') B_k'                     q, k, v; gate and up; or a layer by itself
    y   = h W' + b + s (h A') B',  h = act(gate) * up          down: keeps gate and up, not act(gate) and h
One product with all A stacked, outputs and the gradient of x written into one place; of the layers x and x A' are
kept, of dropout a mask of one byte. W may be held in few bits: then it is made wide in each pass, and not kept.
Equal to the layer by layer form in value and gradient (tests, float64). Hu et al. 2021, arXiv:2106.09685.

Shapes: n tokens, i inputs, o outputs, r rank; W [o i], A [r i], B [o r].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.dropout import draw_mask, kept_share
from tunesmith.kernels.gate import Act, gate, gate_backward
from tunesmith.kernels.nf4 import held_in_four_bits, wide
from tunesmith.kernels.product import add_mm, linear, mm


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
    return _LoraLinears.apply(x, parts, computed_in(x), *(t for part in parts for t in (part.a, part.b)))


def gated_lora(gates: Tensor, up: Tensor, act: Act, part: Part) -> Tensor:
    """gates, up [..., i] -> part(act(gates) * up) [..., o]."""
    return _GatedLora.apply(gates, up, act, part, computed_in(gates), part.a, part.b)


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Parts in the dtype they compute in; one without an update has one of rank 0."""

    dtype: torch.dtype
    weights: Sequence[Tensor]
    a: Sequence[Tensor]
    b: Sequence[Tensor]
    scales: Sequence[float]

    @classmethod
    def of(
        cls, dtype: torch.dtype, weights: Sequence[Tensor], factors: Sequence[Any], scales: Sequence[float]
    ) -> _Layers:
        """factors: a and b of each part, one after the other."""
        like: Any = {"dtype": dtype, "device": weights[0].device}
        shapes = [tuple(getattr(w, "quant_state", w).shape) for w in weights]
        a = [
            torch.empty(0, i, **like) if t is None else t.to(dtype) for t, (_, i) in zip(factors[::2], shapes)
        ]
        b = [
            torch.empty(o, 0, **like) if t is None else t.to(dtype)
            for t, (o, _) in zip(factors[1::2], shapes)
        ]
        return cls(dtype, weights, a, b, scales)

    def wide(self, place: int) -> Tensor:
        """W of a part, made anew where it is held in few bits."""
        return wide(self.weights[place], self.dtype).to(self.dtype)

    def inner(self, x: Tensor, masks: Sequence[Tensor | None]) -> list[Tensor]:
        """x A' of each part, one product for all unless each has a mask of its own."""
        if masks:
            return [mm(_left(x, mask), a.t()) for a, mask in zip(self.a, masks)]
        return list(mm(x, _stacked(self.a).t()).split([len(a) for a in self.a], 1))

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
        w, b, scale = self.wide(place), self.b[place], self.scales[place]
        bias = None if bias is None else bias.to(self.dtype)
        if not x.is_cuda or not b.shape[1]:
            out = linear(x.view(*shape), w, bias)
            out.view(-1, len(w)).addmm_(inner, b.t(), alpha=scale)
            return out
        out = x.new_empty(*shape[:-1], len(w))
        add_to_update(out.view(-1, len(w)), x, w, bias, inner, b, scale)
        return out

    def grads(self, grads: Sequence[Tensor | None], inner: Sequence[Tensor]) -> tuple[list[Any], list[Any]]:
        """Of each part d loss / d (x A'), and d loss / d B."""
        of_inner: list[Tensor] = []
        of_b: list[Tensor | None] = []
        for grad, mine, b, scale in zip(grads, inner, self.b, self.scales):
            of_inner.append(torch.zeros_like(mine) if grad is None else mm(grad, b).mul_(scale))
            # the narrow side first: three times as fast as the other way round
            of_b.append(None if grad is None else mm(mine.t(), grad).mul_(scale).t())
        return of_inner, of_b

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
            return total.addmm_(_side_by_side(of_inner), _stacked(self.a))
        for one, a, mask in zip(of_inner, self.a, masks):
            total.add_(_left(mm(one, a), mask))
        return total

    def grads_a(self, x: Tensor, of_inner: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """d loss / d A of each part."""
        if masks:
            return [mm(one.t(), _left(x, mask)) for one, mask in zip(of_inner, masks)]
        return list(mm(_side_by_side(of_inner).t(), x).split([len(a) for a in self.a]))


def add_to_update(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, inner: Tensor, b: Tensor, scale: float
) -> None:
    """x W' + bias + s inner B' into [n o], the last first."""
    if bias is None:
        torch.addmm(out, inner, b.t(), beta=0, alpha=scale, out=out)
    else:
        torch.addmm(bias, inner, b.t(), alpha=scale, out=out)
    out.addmm_(x, weight.t())


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _masks(x: Tensor, parts: Sequence[Part]) -> list[Tensor | None]:
    """What each part's dropout leaves, Int8[n i]; none where nothing is dropped at all."""
    if not any(part.dropout for part in parts):
        return []
    return [draw_mask(x, part.dropout) if part.dropout else None for part in parts]


def _left(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _scales(parts: Sequence[Part]) -> list[float]:
    return [part.scaling / kept_share(part.dropout) for part in parts]


def _keep(ctx: Any, parts: Sequence[Part], layers: _Layers, *others: Tensor | None) -> None:
    """Weights in few bits are no saved tensors: they would lose the scales that stand beside their codes."""
    ctx.dtype, ctx.scales = layers.dtype, layers.scales
    ctx.held = [part.weight if held_in_four_bits(part.weight) else None for part in parts]
    weights = [None if held is not None else part.weight for held, part in zip(ctx.held, parts)]
    factors = [factor for part in parts for factor in (part.a, part.b)]
    ctx.save_for_backward(*weights, *factors, *others)


def _kept(ctx: Any) -> tuple[_Layers, Sequence[Any]]:
    """The layers of a node, and what else it kept."""
    count = len(ctx.held)
    saved = ctx.saved_tensors
    weights = [held if held is not None else weight for held, weight in zip(ctx.held, saved)]
    return _Layers.of(ctx.dtype, weights, saved[count : 3 * count], ctx.scales), saved[3 * count :]


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, parts: Sequence[Part], dtype: torch.dtype, *factors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.given = x.shape, x.dtype
        layers = _Layers.of(dtype, [part.weight for part in parts], factors, _scales(parts))
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        masks = _masks(flat, parts)
        inner = layers.inner(flat, masks)
        outs = layers.outputs(flat, x.shape, [part.bias for part in parts], inner)
        asked = any(ctx.needs_input_grad[3::2])  # only a gradient of A asks for x (LoRA-FA has none)
        if not ctx.needs_input_grad[0]:  # what has no update then needs no gradient either
            learns = [a or b for a, b in zip(ctx.needs_input_grad[3::2], ctx.needs_input_grad[4::2])]
            ctx.mark_non_differentiable(*(out for out, one in zip(outs, learns) if not one))
        _keep(ctx, parts, layers, flat if asked else None, *inner, *masks)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        layers, (flat, *rest) = _kept(ctx)
        inner, masks = rest[: len(layers.a)], rest[len(layers.a) :]
        rows = [None if g is None else g.reshape(-1, g.shape[-1]).to(ctx.dtype) for g in grads]
        of_inner, of_b = layers.grads(rows, inner)
        of_x = None
        if ctx.needs_input_grad[0] and any(row is not None for row in rows):
            of_x = layers.grad_x(rows, of_inner, masks).view(ctx.shape).to(ctx.given)
        of_a = [None] * len(inner) if flat is None else layers.grads_a(flat, of_inner, masks)
        return of_x, None, None, *_wanted(ctx.needs_input_grad[3:], of_a, of_b)


def _wanted(needs: Sequence[bool], of_a: Sequence[Any], of_b: Sequence[Any]) -> list[Tensor | None]:
    """Gradients of a and b of each part, one after the other; autograd casts them to the factors' own dtype."""
    pairs = [one for pair in zip(of_a, of_b) for one in pair]
    return [one if need else None for need, one in zip(needs, pairs)]


class _GatedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        up: Tensor,
        act: Act,
        part: Part,
        dtype: torch.dtype,
        a: Tensor | None,
        b: Tensor | None,
    ) -> Tensor:
        layers = _Layers.of(dtype, [part.weight], (a, b), _scales([part]))
        hidden = gate(gates.flatten(0, -2), up.flatten(0, -2), act).to(dtype)
        masks = _masks(hidden, [part])
        inner = layers.inner(hidden, masks)
        [out] = layers.outputs(hidden, up.shape, [part.bias], inner)
        ctx.act = act
        _keep(ctx, [part], layers, gates, up, *inner, *masks)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layers, (gates, up, inner, *masks) = _kept(ctx)
        grad = grads[0].flatten(0, -2).to(ctx.dtype)
        of_inner, of_b = layers.grads([grad], [inner])
        of_hidden = layers.grad_x([grad], of_inner, masks).to(up.dtype)
        of_a = torch.zeros_like(layers.a[0], dtype=torch.promote_types(ctx.dtype, torch.float32))
        asked = ctx.needs_input_grad[5]

        def seen(rows: slice, hidden: Tensor) -> None:
            hidden = hidden.to(ctx.dtype)
            of_a.add_(mm(of_inner[0][rows].t(), _left(hidden, masks[0][rows] if masks else None)))

        of_gates, of_up = gate_backward(
            gates.flatten(0, -2), up.flatten(0, -2), of_hidden, ctx.act, seen if asked else None
        )
        needs, back = ctx.needs_input_grad, []
        for need, one in zip(needs, (of_gates, of_up)):
            back.append(one.view(up.shape) if need else None)
        return *back, None, None, None, *_wanted(needs[5:], [of_a], of_b)
