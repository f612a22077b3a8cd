"""The peak of a run's memory by term, as forecast: what memory.py finds, and what the plan's page and JSON show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What is no tensor.
BESIDE = ("allocator", "framework", "compiled products")


@dataclass(frozen=True, slots=True)
class Memory:
    """Terms at the peak; they sum to peak_bytes. phases: the tensors of each. error_share: how far off it may be."""

    terms: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]
    phase: str
    error_share: float
    context_bytes: int
    allocated_error_share: float | None = None
    held_against: int = 0  # measurements that the stated error comes from
    # of the main memory beside a card: activations, paged moments, a checkpoint being written
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Most memory held at once."""
        return sum(self.terms.values())

    @property
    def allocated_bytes(self) -> int:
        """Of those, bytes of tensors."""
        return sum(count for name, count in self.terms.items() if name not in BESIDE)

    @property
    def device_bytes(self) -> int:
        """What the device must have: the peak and what stands beside it."""
        return self.peak_bytes + self.context_bytes

    def to_json(self) -> dict[str, Any]:
        """The contracted shape."""
        return {
            "terms": [{"name": name, "bytes": count} for name, count in self.terms.items()],
            "peak_bytes": self.peak_bytes,
            "allocated_bytes": self.allocated_bytes,
            "host_bytes": self.host_bytes,
            "phase": self.phase,
            "phases": [
                {"name": phase, "terms": [{"name": name, "bytes": count} for name, count in terms.items()]}
                for phase, terms in self.phases.items()
            ],
            "error_share": self.error_share,
            "allocated_error_share": self.allocated_error_share,
            "held_against": self.held_against,
        }
