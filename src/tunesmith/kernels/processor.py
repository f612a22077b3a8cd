"""Who multiplies quickest on this processor: one rule for the kernels and for the forecast. No torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# On one core of a Zen 5, GFLOP/s in fp32, products of 704 rows by 512 x 1376: MKL 107, numpy's OpenBLAS 128, oneDNN 240
ONEDNN_OVER_OPENBLAS = 1.85


@cache
def onednn_is_quicker() -> bool:
    """Whether MKL does not use this processor whole: it has AVX-512 and is not Intel's."""
    try:
        about = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in about and "avx512f" in about.split()
