"""Cross-entropy on a processor: logits of a block of words at a time, while they are in the cache.

    a head that does not train    logits [n b] -> exp(z - most so far), their sum, what they pull hidden to; gone
    one that does                 the same, but exp(z - most so far) stay until all is summed, the first rows' in the
                                  place of the weight's gradient; then each becomes its gradient, goes through both
                                  products, and is gone
A higher maximum later fades what was summed before: Milakov & Gimelshein 2018, arXiv:1805.02867. Of the weight each row
is read once (twice), made wide once where it is held in few bits. The target is left out of the sum of rows, for
p - 1 from numbers rounded to 16 bits would be noise where p is near 1.
Equal to torch.nn.functional.cross_entropy in value and gradient (tests, float64).

Shapes: n learnt tokens, d hidden size, V vocabulary, b words of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.kernels.chunks import bytes_a_logit, rows_per_chunk, running_shape
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
    rows, words = shape_for(hidden, weight.shape[0])
    logits = Logits(weight, bias, scale, softcap)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    pull = torch.zeros_like(hidden, dtype=wide) if slopes else None
    for begin in range(0, len(hidden), rows):
        some = slice(begin, begin + rows)
        h, t, mine = hidden[some], targets[some], None if pull is None else pull[some]
        sums = _summed(h, t, logits, words, mine)
        losses[some] = sums.losses(z_loss)
        if mine is not None:
            each, own = sums.slopes(logits, z_loss)
            mine.mul_(each[:, None]).addcmul_(logits.take(t, wide), own[:, None])
    return losses, pull


@dataclass(frozen=True, slots=True)
class Gradients:
    """Where a head that trains puts its gradients, None where not asked for: by hidden [n d], weight [V d], bias [V],
    and by those rows [m d] of a frozen weight that stand at `ids` [m].

    Sums, in at least fp32; a card's kernel needs none by hidden, which is then in its own dtype.
    """

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    rows: Tensor | None = None
    ids: Tensor | None = None


def losses_and_gradients(
    hidden: Tensor,
    logits: Logits,
    targets: Tensor,
    token_weights: Tensor | None,
    z_loss: float,
    words: int,
    into: Gradients,
    first: bool,
) -> Tensor:
    """Each token's loss in nats, weighted [n]; gradients of their sum are added to `into`.

    `first`: nothing is there yet; the weight's and the bias' are written over, whatever they hold.
    """
    sums = Sums.of(hidden)
    held = [
        _exponentials(hidden, logits, targets, block, sums, _place(into.weight, block, len(hidden), first))
        for block in logits.blocks(words)
    ]
    each, own = (weigh(x, token_weights) for x in sums.slopes(logits, z_loss))
    held.reverse()
    while held:
        _add(held.pop(), hidden, logits, each, own, sums.most, into, first)
    return weigh(sums.losses(z_loss), token_weights)


# a block's words, exp(z - most) cap' of them [n b], where targets stand in it, and `most` [n]
Held = tuple[slice, Tensor, tuple[Tensor, Tensor], Tensor]


def _place(weight: Tensor | None, block: slice, rows: int, first: bool) -> Tensor | None:
    """Where a block's exponentials [n b] may wait: where its gradient [b d] will be, if nothing is there and n <= d."""
    if weight is None or not first or rows > weight.shape[1]:
        return None
    free = weight[block]
    return free.view(-1)[: rows * len(free)].view(rows, len(free))


def _exponentials(
    hidden: Tensor, logits: Logits, targets: Tensor, block: slice, sums: Sums, place: Tensor | None
) -> Held:
    """Take some words into `sums`, and keep what will be their gradient, in `place` if there is one."""
    z = logits.of(hidden, logits.rows(block, hidden.dtype), block, None)
    at = _in_block(targets, block, logits)
    slope = None if logits.softcap is None else logits.slope(z)
    sums.take(z, at)
    if slope is not None:
        z.mul_(slope)
    return block, z if place is None else place.copy_(z), at, sums.most.clone()


def _add(
    held: Held,
    hidden: Tensor,
    logits: Logits,
    each: Tensor,
    own: Tensor,
    most: Tensor,
    into: Gradients,
    first: bool,
) -> None:
    """A block's share of the gradients. each, own, most [n]: see Sums, of all words."""
    block, z, at, then = held
    z.mul_((each * (then - most).exp_())[:, None])
    z[at] = own[at[0]]
    if z.dtype == hidden.dtype:
        add_mm(into.hidden, z, logits.rows(block, hidden.dtype))
    else:
        into.hidden.add_(z.to(hidden.dtype) @ logits.rows(block, hidden.dtype))
    wide = hidden.to(z.dtype)
    if into.bias is not None:
        _put(into.bias[block], z.sum(0), first)
    if into.rows is not None and into.ids is not None:
        here, places = _in_block(into.ids, block, logits)
        into.rows[here] += mm(z[:, places].t(), wide)
    if into.weight is not None:  # last, for z may stand there
        _put(into.weight[block], mm(z.t(), wide), first)


def _put(place: Tensor, made: Tensor, first: bool) -> None:
    """Write what was made, or add it."""
    place.copy_(made) if first else place.add_(made)


def weigh(losses: Tensor, token_weights: Tensor | None) -> Tensor:
    """Each token's loss times its weight. [n], [n] -> [n]"""
    return losses if token_weights is None else losses * token_weights.to(losses.dtype)


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


@dataclass(frozen=True, slots=True)
class Sums:
    """Of each row the highest logit so far, the sum of exp(z - highest), and its target's logit; [n] each."""

    most: Tensor
    total: Tensor
    hit: Tensor

    @classmethod
    def of(cls, hidden: Tensor) -> Sums:
        """Of no word yet."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        most = torch.full((len(hidden),), torch.finfo(wide).min, dtype=wide, device=hidden.device)
        return cls(most, torch.zeros_like(most), torch.zeros_like(most))

    def take(self, z: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """Take a block in: z [n b] becomes exp(z - highest so far), 0 for targets, which stand at `at`; gives by what
        all that was summed before fades."""
        self.hit[at[0]] = z[at]
        higher = torch.maximum(self.most, z.amax(1))
        fade = (self.most - higher).exp_()
        self.most.copy_(higher)
        self.total.mul_(fade).add_(z.sub_(higher[:, None]).exp_().sum(1))
        z[at] = 0.0
        return fade

    def losses(self, z_loss: float) -> Tensor:
        """[n], in nats."""
        norm = self.most + self.total.log()
        return norm - self.hit + z_loss * norm**2 if z_loss else norm - self.hit

    def slopes(self, logits: Logits, z_loss: float) -> tuple[Tensor, Tensor]:
        """Of a loss by scale hidden W': the factor of each exponential, which is times cap'; and that of the target."""
        norm = self.most + self.total.log()
        more = 1 + 2 * z_loss * norm  # of a loss + z norm^2
        own = more * (self.hit - norm).exp() - 1 if z_loss else torch.expm1(self.hit - norm)
        own *= logits.scale if logits.softcap is None else logits.slope(self.hit).mul_(logits.scale)
        return logits.scale * more / self.total, own


def shape_for(hidden: Tensor, vocabulary: int) -> tuple[int, int]:
    """(rows, words) of a block: what a processor's cache holds; elsewhere all words, for who looks which targets stand
    in a block waits for the card."""
    if hidden.is_cpu:
        return running_shape(vocabulary)
    return rows_per_chunk(vocabulary, 0, bytes_a_logit(hidden.itemsize, False, False)), vocabulary


def _in_block(ids: Tensor, block: slice, logits: Logits) -> tuple[Tensor, Tensor]:
    """(which, place within the block) of the ids that stand in it."""
    if block.stop - block.start == logits.weight.shape[0]:
        return torch.arange(len(ids), device=ids.device), ids
    here = ((ids >= block.start) & (ids < block.stop)).nonzero()[:, 0]
    return here, ids[here] - block.start


def _summed(hidden: Tensor, targets: Tensor, logits: Logits, words: int, pull: Tensor | None) -> Sums:
    """Walk all words; into `pull` [n d], zeros, goes the sum of exp(z - highest) cap'(z) W but for the target."""
    sums = Sums.of(hidden)
    width = min(words, logits.weight.shape[0])
    place = None if by_onednn(hidden) else hidden.new_empty(len(hidden), width)
    for block in logits.blocks(words):
        _pull(hidden, targets, logits, block, place, sums, pull)
    return sums


def _pull(
    hidden: Tensor,
    targets: Tensor,
    logits: Logits,
    block: slice,
    place: Tensor | None,
    sums: Sums,
    pull: Tensor | None,
) -> None:
    """Take some words into what _summed has so far; nothing of them stays."""
    rows = logits.rows(block, hidden.dtype)
    z = logits.of(hidden, rows, block, place)
    slope = None if logits.softcap is None or pull is None else logits.slope(z)
    fade = sums.take(z, _in_block(targets, block, logits))
    if pull is None:
        return
    if slope is not None:
        z.mul_(slope)
    pull.mul_(fade[:, None])
    if z.dtype == hidden.dtype:
        add_mm(pull, z, rows)
    else:
        assert place is not None
        pull.add_(place[:, : len(rows)].copy_(z) @ rows)
