"""Freed memory goes back to the machine."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

MAPPED = """
import ctypes, sys
from tunesmith.data.heap import large_blocks_apart
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usm fsm used free keep".split()]
libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Info
if sys.argv[1] == "apart":
    large_blocks_apart()
first = bytearray(16 << 20)
del first  # glibc takes it for a size that comes and goes, and keeps the next ones in the heap
again = bytearray(8 << 20)
print(libc.mallinfo2().hblkhd)
"""


# mutation tried: large_blocks_apart that sets another threshold (1 << 30)
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc")
def test_a_large_block_is_mapped_by_itself() -> None:
    mapped = {
        how: int(
            subprocess.run([sys.executable, "-c", MAPPED, how], stdout=subprocess.PIPE, check=True).stdout
        )
        for how in ("plain", "apart")
    }
    assert mapped["apart"] >= 8 << 20 > mapped["plain"], "glibc itself learns otherwise"
