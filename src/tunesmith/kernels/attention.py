"""Attention over packed documents: each attends to itself alone, grouped by length, never through a T x T mask.

    tokens -> slots of the groups (documents.py) -> attention within each -> back in the order of those who asked
    longer ones on a processor stay where they stand, a call each
A document's output is a function of that document only; windows, scaling and soft caps are those the model's own
layers ask for. Keys and values that stand before the row's own (prefix tuning) are seen by every token of every
document:

    prefix    [P P]    each document attends to [P P d d d], causally; the window counts the document's own tokens

Shapes: B batch, T tokens of a row, H heads, D head size; N documents of a group, K keys and Q queries of one, P prefix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from tunesmith.kernels import varlen, wide_backward
from tunesmith.kernels.documents import Documents, Group

NAME = "tunesmith_packed"


class Gather(torch.autograd.Function):
    """x[index] whose backward is a gather as well: every real token stands in exactly one slot.

    Faster than index_add, and deterministic on every device.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, back_real: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, *([] if back_real is None else [back_real]))
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back, *real = ctx.saved_tensors
        grad = grads[0].index_select(0, back)
        if real:
            grad.masked_fill_(~real[0].view(-1, *[1] * (grad.dim() - 1)), 0)
        return grad, None, None, None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Documents,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query [B H T D], key and value [B Hkv P+T D] -> [B T H D].

    `documents.width` is T; Q may be fewer: then query [B H Q D] is of those who ask. The prefix, if there is
    one, is the same in every row of the batch.
    """
    assert attention_mask is None, "packed attention takes documents, not a mask"
    batch, heads, asking = query.shape[:3]
    before = key.shape[2] - documents.width
    if varlen.usable(query, documents, prefix=before, dropout=dropout, softcap=softcap):
        return varlen.attend(query, key, value, documents, scaling, sliding_window), None
    prefix = (key[0, :, :before], value[0, :, :before]) if before else None
    key, value = key[:, :, before:], value[:, :, before:]
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    query, key, value = _in_slots(query, key, value, documents)
    asked = [group.documents * group.asked for group in documents.groups]
    held = [group.documents * group.length for group in documents.groups]
    limits: Any = {"scaling": scaling, "dropout": dropout, "window": sliding_window, "softcap": softcap}
    outputs = [
        _attend(group, q, k, v, prefix, **limits)
        for group, q, k, v in zip(documents.groups, query.split(asked), key.split(held), value.split(held))
    ]
    out = torch.cat(outputs)
    if not documents.in_place:
        out = Gather.apply(out, documents.query_place, documents.queries, documents.query_real)
    if documents.asking_real is not None:
        out = out.masked_fill(~documents.asking_real.view(-1, 1, 1), 0)
    return out.view(batch, asking, heads, -1), None


def _in_slots(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents
) -> tuple[Tensor, Tensor, Tensor]:
    """What stands in each slot of the groups: query [asking H D], key and value [B*T Hkv D] -> [slots ... D]."""
    if documents.in_place:
        return query, key, value
    query = Gather.apply(query, documents.queries, documents.query_place, documents.asking_real)
    if documents.key_place is None:  # keys of several branches: their gradients are summed
        return query, key.index_select(0, documents.keys), value.index_select(0, documents.keys)
    places = documents.keys, documents.key_place, documents.key_real
    return query, Gather.apply(key, *places), Gather.apply(value, *places)


def _attend(
    group: Group,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention within each document of a group, prefix [Hkv P D] before it.

    query [N*Q H D], key and value [N*K Hkv D] -> [N*Q H D]
    """
    query, key, value = (
        x.view(group.documents, -1, *x.shape[1:]).transpose(1, 2) for x in (query, key, value)
    )
    before = 0 if prefix is None else prefix[0].shape[1]
    square = group.at is None
    if prefix is not None:
        key, value = (torch.cat([p.expand(len(x), -1, -1, -1), x], 2) for p, x in zip(prefix, (key, value)))
        if square:
            # as many queries that ask nothing: a square is causal without a mask, and quick kernels take it
            query = torch.nn.functional.pad(query, (0, 0, before, 0))
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
    mask = None
    if not square or softcap is not None or (window is not None and group.length > window):
        mask = _mask(group, before, window, query.device)
    if softcap is not None:
        # torch's own attention has no cap; scores are made again in the backward pass, so that none is kept
        out = checkpoint(
            _capped, query, key, value, mask, scaling, softcap, dropout, use_reentrant=False
        )  # fmt: skip
    elif wide_backward.pays(query, key, dropout):
        out = wide_backward.attend(query, key, value, mask, scaling)
    else:
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, dropout_p=dropout
        )
    return out[:, :, before if square else 0 :].transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])


def _mask(group: Group, before: int, window: int | None, device: torch.device) -> Tensor:
    """What each query sees: Bool[P+K P+K] of a square, else Bool[N 1 Q P+K]."""
    keys = torch.arange(-before, group.length, device=device)
    asked = keys if group.at is None else group.at[:, None]
    distance = asked[..., None] - keys
    return ((distance >= 0) & (distance < (window or len(keys) + before))) | ((keys < 0) & (distance >= 0))


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float,
    dropout: float,
) -> Tensor:
    """Attention whose scores are capped: c tanh(score / c), as Gemma 2 does. [N H L D] -> [N H L D]."""
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    shares = torch.softmax(wide.masked_fill(~mask, -torch.inf), dim=-1).to(query.dtype)
    return torch.nn.functional.dropout(shares, dropout) @ value
