"""Inputs of recomputed layers, moved to the host in the forward pass and brought back one layer ahead in the backward.

    forward     layer 1 | layer 2 | layer 3 | ..          a second stream copies x1, then x2, beside the layers
    backward    .. | layer 3 | layer 2 | layer 1          while layer 3 computes, x2 is on its way back
A layer's input leaves the card when its copy is done; at most two copies are on their way, and the two inputs that the
backward pass wants first are still there. Between the pinned copies and the card nothing is rounded: gradients are
those of the same run without it, bit for bit. Off a card the same is done without streams, for the tests.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tunesmith.model.forward import decoder_layers

ON_THEIR_WAY = 2  # inputs whose copies may be under way at once


@final
class Away:
    """A layer's input on the host; `below` is that of the layer before it, which the backward pass wants next."""

    def __init__(self, here: Tensor, below: Away | None) -> None:
        self.device, self.below = here.device, below
        self.host = torch.empty(here.shape, dtype=here.dtype, pin_memory=here.is_cuda)
        self.here: Tensor | None = here  # until it is copied; and again once it has been sent for
        self.done: torch.cuda.Event | None = None  # of the copy that is under way


@final
class Offload:
    """The traffic between card and host of one model."""

    def __init__(self) -> None:
        self.leaving: deque[Away] = deque()
        self.coming: Away | None = None
        self.last: weakref.ref[Away] | None = None
        self.side: torch.cuda.Stream | None = None

    def checkpointed(self, function: Any, *args: Any) -> Any:
        """A layer's call, of which only the input is kept, on the host: in place of torch's own `checkpoint`."""
        with saved_tensors_hooks(self.put_away, self.fetch):
            return checkpoint(function, *args, use_reentrant=False)

    def begin(self) -> None:
        """A forward pass begins: what an earlier one left behind, because it failed, is let go."""
        for away in (*self.leaving, self.coming):
            if away is not None:
                self._let_go(away)
        self.leaving.clear()
        self.last = self.coming = None

    def put_away(self, x: Tensor) -> Away:
        """Start the copy to the host. x is given up on the card when ON_THEIR_WAY others have followed it."""
        away = Away(x, None if self.last is None else self.last())
        self.last = weakref.ref(away)
        if len(self.leaving) == ON_THEIR_WAY:
            self._let_go(self.leaving.popleft())
        away.done = self._copy(away.host, x)
        self.leaving.append(away)
        return away

    def fetch(self, away: Away) -> Tensor:
        """The input, for a layer that is computed again; the one below it is sent for."""
        x = self._sent_for(away)
        self._let_go(away)
        if away in self.leaving:
            self.leaving.remove(away)
        self.coming = away.below
        if self.coming is not None:
            self._sent_for(self.coming)
        return x

    def _sent_for(self, away: Away) -> Tensor:
        """The tensor on the card, or where it is about to be."""
        if away.here is None:
            away.here = torch.empty_like(away.host, device=away.device, pin_memory=False)
            away.done = self._copy(away.here, away.host)
        return away.here

    def _let_go(self, away: Away) -> None:
        """What is computed from now on waits for the copy; the tensor, and its memory, are no longer held here."""
        if away.done is not None:
            torch.cuda.current_stream(away.device).wait_event(away.done)
        away.here = away.done = None

    def _copy(self, target: Tensor, source: Tensor) -> torch.cuda.Event | None:
        """On the second stream, after all that the first was told so far; its end, where it is not done already."""
        if not (target.is_cuda or source.is_cuda):
            target.copy_(source)
            return None
        device = target.device if target.is_cuda else source.device
        if self.side is None:
            self.side = torch.cuda.Stream(device)
        self.side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.side):
            target.copy_(source, non_blocking=True)
        return self.side.record_event()


def offload_inputs(lm: Any) -> None:
    """Let the decoder layers of a model that are recomputed keep their inputs on the host."""
    offload, layers = Offload(), decoder_layers(lm)[1]
    for layer in layers:
        if getattr(layer, "gradient_checkpointing", False):
            setattr(layer, "_gradient_checkpointing_func", offload.checkpointed)  # noqa: B010
    lm.base_model.register_forward_pre_hook(lambda module, args: offload.begin())
