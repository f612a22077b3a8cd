"""A gated feed-forward part whose layers carry LoRA's updates, as one node over its input x.

    g = x Wg' + (x s Ag') Bg'      u = x Wu' + (x s Au') Bu'      h = act(g) * u      y = h Wd' + (h s Ad') Bd'
Of the wide middle g and u alone are kept; act(g) and h are made again, some rows at a time.
Gate and up may be one layer, whose output is both. Equal to the layer by layer form (tests, float64).

Shapes: n tokens, i inner size, r rank; see lora.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.gate import Act, gate, gate_backward
from tunesmith.kernels.lora import Layers, Part, factors, left, masks_of, wanted
from tunesmith.kernels.product import mm_wide


def lora_mlp(x: Tensor, inputs: Sequence[Part], act: Act, down: Part) -> Tensor:
    """x [..., d] -> [..., o]. inputs: gate and up, or one layer that gives both, side by side."""
    keeps = torch.is_grad_enabled()
    return _LoraMLP.apply(x, inputs, act, down, computed_in(x), keeps, *factors([*inputs, down]))


def _halves(made: Sequence[Any]) -> tuple[Any, Any]:
    """Of gate and of up, [n i] or [n 2i]."""
    gates, up = made if len(made) == 2 else made[0].chunk(2, -1)
    return gates, up


class _LoraMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        inputs: Sequence[Part],
        act: Act,
        down: Part,
        dtype: torch.dtype,
        keeps: bool,
        *given: Tensor | None,
    ) -> Tensor:
        ctx.shape, ctx.given, ctx.act = x.shape, x.dtype, act
        layers, last = Layers.of(dtype, inputs), Layers.of(dtype, [down])
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        masks = masks_of(flat, inputs)
        inner = layers.inner(flat, masks)
        made = layers.outputs(flat, flat.shape, [part.bias for part in inputs], inner)
        hidden = gate(*_halves(made), act)
        if not keeps:
            made = ()  # or they would stand beside the output
        last_masks = masks_of(hidden, [down])
        last_inner = last.inner(hidden, last_masks)
        [out] = last.outputs(hidden, (*x.shape[:-1], hidden.shape[1]), [down.bias], last_inner)
        ctx.layers, ctx.last = layers.emptied(), last.emptied()
        asked = any(ctx.needs_input_grad[6:-2:2])  # only a gradient of A asks for x
        ctx.save_for_backward(
            flat if asked else None, *made, *inner, *layers.saved(), *last_inner, *last.saved(),
            *(last_masks or [None]), *masks,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count, needs = len(ctx.layers.ranks), ctx.needs_input_grad
        flat, *rest = ctx.saved_tensors
        made, inner, rest = rest[:count], rest[count : 2 * count], rest[2 * count :]
        layers, rest = ctx.layers.filled(rest), rest[2 * count + 1 :]
        last_inner, last, (mask, *masks) = rest[:1], ctx.last.filled(rest[1:4]), rest[4:]
        grad = [grads[0].reshape(-1, grads[0].shape[-1]).to(last.dtype)]
        last_of_inner, last_of_b = last.grads_inner(grad, last_inner), last.grads_b(grad, last_inner)
        of_hidden = last.grad_x(grad, last_of_inner, [] if mask is None else [mask])
        rows, last_of_a = _middle_back(made, of_hidden, ctx.act, last_of_inner[0], mask, last.a)
        del of_hidden
        of_inner, of_b = layers.grads_inner(rows, inner), layers.grads_b(rows, inner)
        of_x = layers.grad_x(rows, of_inner, masks).view(ctx.shape).to(ctx.given) if needs[0] else None
        of_a = [None] * count if flat is None else layers.grads_a(flat, of_inner, masks)
        found = wanted(needs[6:], [*of_a, *last.scaled([last_of_a])], [*of_b, *last_of_b])
        return of_x, None, None, None, None, None, *found


def _middle_back(
    made: Sequence[Tensor], of_hidden: Tensor, act: Act, of_inner: Tensor, mask: Tensor | None, a: Tensor
) -> tuple[Sequence[Tensor], Tensor]:
    """(gradients of what gate and up gave, one of them in the memory of h's own; the gradient of s Ad)."""
    of_a = torch.zeros(a.shape, dtype=torch.promote_types(a.dtype, torch.float32), device=a.device)

    def seen(rows: slice, hidden: Tensor) -> None:
        of_a.add_(mm_wide(of_inner[rows].t(), left(hidden, None if mask is None else mask[rows])))

    halves = gate_backward(*_halves(made), of_hidden, act, seen if len(a) else None)
    return halves if len(made) == 2 else [torch.cat(halves, 1)], of_a
