"""Rows for tokens that a model does not have yet: its tables grow, what is in them stays bit for bit.

embedding [V d] -> [V + n d]     new row i = mean of the rows of the old tokens that token i stands for (or random)
head      the same, where it is a table of its own, and its bias
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def add_rows(
    lm: Any,
    of: Sequence[Sequence[int]],
    first: int,
    init: Literal["mean", "random"],
    seed: int,
    multiple: int,
) -> int:
    """Give token `first + i`, which stands for the old tokens `of[i]`, its rows; the tables' new length.

    Tables that were longer than the tokenizer keep their spare rows, which are used first. Tokens that had no row,
    and rows that only fill up, get the mean of all: no token is likelier by them than the average one.
    """
    old: int = lm.get_input_embeddings().weight.shape[0]
    needed = max(old, first + len(of))
    rows = old if needed == old else -(-needed // multiple) * multiple
    tables = [table.detach().clone() for table in _tables(lm)]
    if rows != old:
        lm.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table, before in zip(_tables(lm), tables):
            exact = before.float()
            table[:old] = before
            table[old:] = exact.mean(0).to(table.dtype)
            if of:
                fresh = _means(exact, of) if init == "mean" else _random(exact, len(of), generator)
                table[first : first + len(of)] = fresh.to(table.dtype)
    return rows


def _tables(lm: Any) -> list[Tensor]:
    """Embedding, head and the head's bias; a tied head is not listed twice."""
    embedding, head = lm.get_input_embeddings().weight, lm.get_output_embeddings()
    found = [embedding]
    if head is not None and head.weight is not embedding:
        found.append(head.weight)
    if head is not None and getattr(head, "bias", None) is not None:
        found.append(head.bias)
    return found


def _means(table: Tensor, of: Sequence[Sequence[int]]) -> Tensor:
    """Float[n ...]: the mean of the old rows of each new token; of a token that had none, of those that are there."""
    lengths = torch.tensor([len(ids) for ids in of])
    flat = torch.tensor([id for ids in of for id in ids], device=table.device).clamp(max=len(table) - 1)
    owner = torch.repeat_interleave(torch.arange(len(of)), lengths).to(table.device)
    sums = torch.zeros(len(of), *table.shape[1:], device=table.device)
    sums.index_add_(0, owner, table[flat])
    return sums / lengths.to(table.device).reshape(-1, *(1 for _ in table.shape[1:]))


def _random(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Float[n ...]: drawn around the mean row, as far as rows lie from it on average."""
    mean = table.mean(0)
    spread = (table - mean).std()
    return mean + spread * torch.randn(count, *table.shape[1:], generator=generator).to(table.device)
