"""How fast this machine multiplies matrices, in fp32 and in bf16: whether bf16 is fast here is measured, not believed.

1024 x 1024, again and again in five stretches each -> operations a second; the best stretch counts
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

WARM_UP, STRETCHES = 2, 5
SECONDS = 8.0
# A machine with matrix units for bf16 is at least this much faster with them.
FAST = 1.5
_SIZES = {"cpu": 1024, "cuda": 4096}


@dataclass(frozen=True, slots=True)
class Rates:
    """Multiply-adds count as two operations. bf16 is 0 where torch cannot do it at all."""

    device: str
    size: int
    fp32: float
    bf16: float

    @property
    def bf16_is_fast(self) -> bool:
        """Whether training in bf16 pays here."""
        return self.bf16 >= FAST * self.fp32

    def to_json(self) -> dict[str, Any]:
        """As the doctor tells it."""
        return {
            "device": self.device,
            "size": self.size,
            "fp32_flops": self.fp32,
            "bf16_flops": self.bf16,
            "bf16_is_fast": self.bf16_is_fast,
        }


def measure(seconds: float = SECONDS) -> Rates:
    """Both rates, in about `seconds`; the threads are those that training would use."""
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    size, share = _SIZES[kind], seconds / 2
    return Rates(
        kind, size, _rate(kind, size, torch.float32, share), _rate(kind, size, torch.bfloat16, share)
    )


def _rate(kind: str, size: int, dtype: object, seconds: float) -> float:
    """Operations a second of the best stretch: what else runs on the machine only ever makes it slower."""
    import torch

    generator = torch.Generator(kind).manual_seed(0)
    try:
        one, other = (torch.randn(size, size, device=kind, generator=generator).to(dtype) for _ in range(2))  # type: ignore[call-overload]
        for _ in range(WARM_UP):
            one @ other
    except RuntimeError:
        return 0.0
    best = 0.0
    for _ in range(STRETCHES):
        _wait(kind)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / STRETCHES:
            one @ other
            count += 1
            if kind == "cuda" and count % 8 == 0:
                _wait(kind)
        _wait(kind)
        best = max(best, 2 * size**3 * count / (time.perf_counter() - began))
    return best


def _wait(kind: str) -> None:
    import torch

    if kind == "cuda":
        torch.cuda.synchronize()
