"""Who multiplies quickest on this processor: one rule for the kernels and for the forecast. No torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

ONEDNN = "TUNESMITH_ONEDNN"
"""0 or 1: whether oneDNN makes the products in fp32; unset, the processor decides."""
CPUINFO = Path("/proc/cpuinfo")
# On one core of a Zen 5, GFLOP/s in fp32, products of 704 rows by 512 x 1376: MKL 107, numpy's OpenBLAS 128, oneDNN 240
ONEDNN_OVER_OPENBLAS = 1.85
LEAST = 2**20  # multiplications below which asking oneDNN costs more than it saves
# Numbers that are made at once where oneDNN's product is added to what is there: it cannot add itself
PIECE = 2**19


def onednn_is_quicker() -> bool:
    """Whether oneDNN is asked for products in fp32, and not MKL."""
    told = os.environ.get(ONEDNN)
    return told == "1" if told else _mkl_leaves_half()


@cache
def _mkl_leaves_half() -> bool:
    """MKL uses AVX-512 on Intel's processors alone."""
    try:
        about = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in about and "avx512f" in about.split()


def products_kept() -> int:
    """Compiled products that oneDNN should keep, 0.5 to 1 MB apiece.

    In bf16, whose micro-batches are filled up (data/filling.py), 192 hold most where compiling takes long. In fp32 a
    micro-batch's own are enough: 752 learnt tokens a second with 16, 740 with 64, 710 with 192 (967, 1,034, 1,124 MiB).
    """
    return 32 if onednn_is_quicker() else 192
