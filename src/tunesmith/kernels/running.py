"""Cross-entropy of a head that does not train, on a processor: blocks of words, each gone through once.

    logits of a block [n b], while they are in the cache -> exp(z - most so far), their sum, what they pull hidden to
    a higher maximum later fades what was summed before: Milakov & Gimelshein 2018, arXiv:1805.02867
Of the weight each row is read once, made wide once where it is held in few bits, and no more than n b logits exist. The
target is left out of the sum of rows, for p - 1 from numbers rounded to 16 bits would be noise where p is near 1.
Equal to torch.nn.functional.cross_entropy in value and gradient (tests, float64).

Shapes: n learnt tokens, d hidden size, V vocabulary, b words of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tunesmith.kernels.chunks import running_shape
from tunesmith.kernels.product import add_mm, by_onednn, mm
from tunesmith.kernels.tables import Table


def losses_and_slopes(
    hidden: Tensor,
    weight: Tensor | Table,
    bias: Tensor | None,
    targets: Tensor,
    scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    slopes: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Each token's loss in nats [n] and, if asked for, its derivative by hidden [n d], both in at least fp32.

    hidden [n d] in the dtype of the products, targets [n]; scale, softcap and z_loss as in head.py.
    """
    rows, words = running_shape(weight.shape[0])
    logits = Logits(weight, bias, scale, softcap)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    pull = torch.zeros_like(hidden, dtype=wide) if slopes else None
    for begin in range(0, len(hidden), rows):
        some = slice(begin, begin + rows)
        h, t, mine = hidden[some], targets[some], None if pull is None else pull[some]
        most, total, hit = _sums(h, t, logits, words, mine)
        norm = most + total.log()
        losses[some] = norm - hit
        if mine is not None:
            more = 1 + 2 * z_loss * norm  # of a loss + z norm^2
            own = more * (hit - norm).exp() - 1 if z_loss else torch.expm1(hit - norm)
            own *= scale if softcap is None else logits.slope(hit).mul_(scale)
            mine.mul_((scale * more / total)[:, None])
            mine.addcmul_(logits.take(t, wide), own[:, None])
        if z_loss:
            losses[some] += z_loss * norm**2
    return losses, pull


class Logits:
    """cap(scale (hidden W^T + bias)), some words at a time."""

    def __init__(
        self, weight: Tensor | Table, bias: Tensor | None, scale: float, softcap: float | None
    ) -> None:
        self.weight, self.bias, self.scale, self.softcap = weight, bias, scale, softcap

    def blocks(self, words: int) -> Iterator[slice]:
        """All words, so many at a time."""
        count = self.weight.shape[0]
        return (slice(begin, min(begin + words, count)) for begin in range(0, count, words))

    def rows(self, words: slice, dtype: torch.dtype) -> Tensor:
        """Rows of the weight: [b d]."""
        if isinstance(self.weight, Table):
            return self.weight.rows(words, dtype)
        return self.weight[words].to(dtype)

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of tokens: [n d]."""
        return self.weight.take(ids, dtype) if isinstance(self.weight, Table) else self.weight[ids].to(dtype)

    def of(self, hidden: Tensor, rows: Tensor, words: slice, place: Tensor | None) -> Tensor:
        """[n b] in at least fp32; made in `place` where it has the dtype for it."""
        z = mm(hidden, rows.t(), out=None if place is None else place[:, : len(rows)])
        if self.bias is not None:
            z += self.bias[words].to(z.dtype)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        if self.scale != 1.0:
            z *= self.scale
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)

    def slope(self, capped: Tensor) -> Tensor:
        """d cap(z) / dz = 1 - tanh(z / c)^2."""
        assert self.softcap is not None
        return (capped / self.softcap).square_().neg_().add_(1)


def _sums(
    hidden: Tensor, targets: Tensor, logits: Logits, words: int, pull: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the highest logit, the sum of exp(z - highest), and its target's logit; [n] each.

    Into `pull` [n d], zeros, goes the sum of exp(z - highest) cap'(z) W over all words but the target.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    most = torch.full((len(hidden),), torch.finfo(wide).min, dtype=wide, device=hidden.device)
    found = most, torch.zeros_like(most), torch.zeros_like(most)
    width = min(words, logits.weight.shape[0])
    place = None if by_onednn(hidden) else hidden.new_empty(len(hidden), width)
    for block in logits.blocks(words):
        _add_block(hidden, targets, logits, block, place, *found, pull)
    return found


def _add_block(
    hidden: Tensor,
    targets: Tensor,
    logits: Logits,
    block: slice,
    place: Tensor | None,
    most: Tensor,
    total: Tensor,
    hit: Tensor,
    pull: Tensor | None,
) -> None:
    """Take some words into what _sums has so far."""
    rows = logits.rows(block, hidden.dtype)
    z = logits.of(hidden, rows, block, place)
    here = ((targets >= block.start) & (targets < block.stop)).nonzero()[:, 0]
    at = here, targets[here] - block.start
    hit[here] = z[at]
    slope = None if logits.softcap is None or pull is None else logits.slope(z)
    higher = torch.maximum(most, z.amax(1))
    fade = (most - higher).exp_()
    most.copy_(higher)
    total.mul_(fade).add_(z.sub_(higher[:, None]).exp_().sum(1))
    if pull is None:
        return
    z[at] = 0.0
    if slope is not None:
        z.mul_(slope)
    pull.mul_(fade[:, None])
    if z.dtype == hidden.dtype:
        add_mm(pull, z, rows)
    else:
        assert place is not None
        pull.add_(place[:, : len(rows)].copy_(z) @ rows)
