"""Embedding and head of a model held in 8 or 4 bits: frozen tables, tied ones stored once.

    embed_tokens [V d], lm_head [V d] --hold_tables--> HeldEmbedding, HeldHead over one Table (kernels/tables.py)
What else an embedding does (Gemma scales its rows) is still done by its own kind of module.
"""

from __future__ import annotations

import copy
from typing import Any, final

import torch
from torch import Tensor, nn

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.head import product
from tunesmith.kernels.tables import Table


class _Held(nn.Module):
    """A module whose weight is a table in few bits. It follows its model to a device and a dtype, the table's scales
    keep theirs."""

    like: Tensor

    def __init__(self, table: Table, dtype: torch.dtype) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=table.device), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.table.device != self.like.device:
            self.table = self.table.to(self.like.device)
        return self


@final
class HeldEmbedding(_Held):
    """Token ids -> vectors: only the rows looked up are made wide."""

    def __init__(self, table: Table, embedding: nn.Embedding) -> None:
        super().__init__(table, embedding.weight.dtype)
        self.kind = copy.copy(embedding)
        self.kind.__dict__.update(_parameters={"weight": None}, padding_idx=None)

    def forward(self, ids: Tensor) -> Tensor:
        """Int64[...] -> [..., d]."""
        rows = self.table.take(ids.reshape(-1), self.like.dtype)
        places = torch.arange(len(rows), device=rows.device).view(ids.shape)
        out: Tensor = torch.func.functional_call(self.kind, {"weight": rows}, (places,))
        return out


@final
class HeldHead(_Held):
    """Hidden states -> logits. Training in chunks takes `table` and `bias` instead."""

    def __init__(self, table: Table, head: nn.Module) -> None:
        given: Any = head
        super().__init__(table, given.weight.dtype)
        self.bias = given.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V], without gradient."""
        hidden = hidden.to(computed_in(hidden))
        logits = product(hidden.reshape(-1, hidden.shape[-1]), self.table, self.bias)
        return logits.view(*hidden.shape[:-1], -1)


def hold_tables(lm: Any, bits: int) -> None:
    """Quantise embedding and head of a model where they stand, from their own numbers."""
    if bits == 16:
        return
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    places = {id(module): name for name, module in lm.named_modules()}
    table = Table.of(embedding.weight, bits)
    if head is not None:
        lm.set_submodule(places[id(head)], HeldHead(table if tied else Table.of(head.weight, bits), head))
    lm.set_submodule(places[id(embedding)], HeldEmbedding(table, embedding))
