"""Out of memory, in the words of every library that says it; and the same work again in smaller pieces."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")

# CUDA has a class for it. torch's CPU allocator, C++ and cuBLAS say it in words.
WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a memory object",
)
# oneDNN, for want of memory to compile a product into or to pack its operands; with more words it is another fault.
WHOLE_WORDS = ("could not create a primitive", "could not execute a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (said in WHOLE_WORDS or any(words in said for words in WORDS))


def give_back() -> None:
    """Let go of what a failed attempt held. Call it outside the except block: a traceback keeps tensors alive."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_pieces(
    tokens: int,
    least: int,
    work: Callable[[int], Found],
    shrunk: Callable[[int], None] = lambda tokens: None,
) -> Found:
    """`work(tokens)`, with half as many at once as long as memory runs out, down to `least`; `shrunk` hears of it."""
    while True:
        try:
            return work(tokens)
        except Exception as error:
            if not is_out_of_memory(error) or tokens <= least:
                raise
        tokens = max(least, tokens // 2)
        give_back()
        shrunk(tokens)
