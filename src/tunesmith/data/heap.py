"""What was freed goes back to the machine: a C library keeps it for later, and later never comes.

Loading a tokenizer of 151,665 tokens leaves 100 MiB that nothing uses and every process of a preparation would hold.
A heap with columns of megabytes and small things side by side stays torn: where a worker held 29 MiB, 45 lay free.
"""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # malloc.h
_LARGE = 1 << 20


def give_back() -> None:
    """Return freed memory, where the C library is glibc (man malloc_trim); elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def large_blocks_apart() -> None:
    """From now on what is larger than a MiB is mapped by itself, and gone when it is freed (man mallopt).

    glibc otherwise takes the first such block that is freed as a sign to keep up to 32 MiB of them in the heap.
    For a process that is all ours: blocks that come and go by the thousand, as a model's do, would be slower.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_ARENA_MAX, 1)
