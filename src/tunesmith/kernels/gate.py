"""The gate of a feed-forward part, h = act(gate) * up, as one node that keeps gate and up alone.

Plain torch keeps act(gate) too. Rows are walked a few at a time, so that what is made on the way stays in the cache;
in 16 bits act and product are rounded where the plain form rounds them.

Shapes: n tokens, i inner size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.kernels.card import takes
from tunesmith.kernels.chunks import walked_rows

Act = Literal["silu", "gelu", "gelu_tanh"]
_aten = torch.ops.aten

# act into `out`; its gradient into `out`, which may be the gradient's own memory
_ACTS: dict[Act, tuple[Callable[[Tensor, Tensor], Any], Callable[[Tensor, Tensor, Tensor], Any]]] = {
    "silu": (
        lambda x, out: _aten.silu.out(x, out=out),
        lambda grad, x, out: _aten.silu_backward.grad_input(grad, x, grad_input=out),
    ),
    "gelu": (
        lambda x, out: _aten.gelu.out(x, out=out),
        lambda grad, x, out: _aten.gelu_backward.grad_input(grad, x, grad_input=out),
    ),
    "gelu_tanh": (
        lambda x, out: _aten.gelu.out(x, approximate="tanh", out=out),
        lambda grad, x, out: _aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out),
    ),
}


def gated(gates: Tensor, up: Tensor, act: Act) -> Tensor:
    """act(gates) * up, with gradient: [..., i]."""
    return _Gated.apply(gates, up, act)


def gate(gates: Tensor, up: Tensor, act: Act) -> Tensor:
    """act(gates) * up, without gradient. [n i], [n i] -> [n i]"""
    if gates.dtype == up.dtype and takes(gates, up):
        from tunesmith.kernels import triton_rows

        return triton_rows.gate(gates, up, act)
    out = torch.empty_like(up, memory_format=torch.contiguous_format)
    for rows in _rows(up):
        _ACTS[act][0](gates[rows], out[rows])
        out[rows].mul_(up[rows])
    return out


def gate_backward(
    gates: Tensor, up: Tensor, grad: Tensor, act: Act, seen: Callable[[slice, Tensor], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of gates and up from that of h, which is written over: [n i], [n i].

    `seen` is shown h = act(gates) * up again, some rows at a time.
    """
    forward, backward = _ACTS[act]
    of_gates = torch.empty_like(grad)
    some = grad.new_empty(min(len(grad), walked_rows(grad.shape[1], grad.is_cuda)), grad.shape[1])
    one_pass = gates.dtype == up.dtype == grad.dtype and grad.is_contiguous() and takes(gates, up, grad)
    for rows in _rows(grad):
        g, u, dh, dg = gates[rows], up[rows], grad[rows], of_gates[rows]
        made = some[: len(g)]
        if one_pass:
            from tunesmith.kernels import triton_rows

            triton_rows.gate_backward(g, u, dh, act, dg, dh, None if seen is None else made)
            if seen is not None:
                seen(rows, made)
            continue
        if seen is not None:
            forward(g, made)
            seen(rows, torch.mul(made, u, out=dg))
        else:
            forward(g, made)
        torch.mul(dh, u, out=dg)
        backward(dg, g, dg)
        dh.mul_(made)
    return of_gates, grad


def _rows(of: Tensor) -> Iterator[slice]:
    """A few rows at a time."""
    step = walked_rows(of.shape[1], of.is_cuda)
    return (slice(begin, begin + step) for begin in range(0, len(of), step))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, up: Tensor, act: Act) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(gates, up)
        return gate(gates.flatten(0, -2), up.flatten(0, -2), act).view(up.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gates, up = ctx.saved_tensors
        grad = grads[0].flatten(0, -2).clone()
        of_gates, of_up = gate_backward(gates.flatten(0, -2), up.flatten(0, -2), grad, ctx.act)
        needs = ctx.needs_input_grad
        return of_gates.view(up.shape) if needs[0] else None, of_up.view(up.shape) if needs[1] else None, None
