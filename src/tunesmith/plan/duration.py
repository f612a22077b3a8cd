"""How long a run takes: its arithmetic and memory traffic, over what this machine was just measured to do.

seconds a step = flops / flops_per_second + bytes moved / bytes_per_second + operators x their overhead
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32, Numbers, Trains, layer_cost
from tunesmith.plan.device import Device
from tunesmith.tuning.table import trainable_parameters

if TYPE_CHECKING:
    from tunesmith.recipe import Tuning

# Dense bf16 flops a second (fp32 on cards without bf16) and bytes a second, by a part of the card's name.
CARDS: Mapping[str, tuple[float, float]] = {
    "H200": (790e12, 4.3e12), "H100": (700e12, 3.0e12), "A100": (280e12, 1.6e12), "L40": (300e12, 0.8e12),
    "A10": (110e12, 0.55e12), "A6000": (140e12, 0.7e12), "L4": (100e12, 0.27e12), "4090": (160e12, 0.95e12),
    "3090": (70e12, 0.85e12), "T4": (8e12, 0.28e12), "V100": (14e12, 0.8e12),
}  # fmt: skip
_UNKNOWN_CARD = (50e12, 0.5e12)
# Share of a card's peak that training reaches; published runs lie between 0.35 and 0.55.
CARD_SHARE = 0.45
# Times a byte kept for the backward pass is written or read, over forward and backward.
TRAFFIC_PER_SAVED_BYTE = 4.0
# AdamW reads weight, gradient and two moments and writes three; clipping reads the gradient again.
UPDATE_BYTES = 8 * FP32
OPERATORS_PER_LAYER, OPERATORS_PER_ADAPTER = 110, 14
SECONDS_PER_OPERATOR: Mapping[str, float] = {"cpu": 12e-6, "cuda": 9e-6}


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine does in a second."""

    flops: float
    bytes: float
    operator_seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a stretch of training asks for: arithmetic, traffic, operators started."""

    flops: float
    bytes: float
    operators: float

    def seconds(self, speed: Speed) -> float:
        """Time on a machine."""
        return self.flops / speed.flops + self.bytes / speed.bytes + self.operators * speed.operator_seconds


def find_speed(device: Device, facts: ModelFacts) -> Speed:
    """From the table of cards, or measured here on matrices of the model's own shape."""
    if device.kind == "cuda":
        flops, rate = next((v for part, v in CARDS.items() if part in device.name), _UNKNOWN_CARD)
        return Speed(flops * CARD_SHARE, rate, SECONDS_PER_OPERATOR["cuda"])
    flops, rate = _measure(facts.hidden_size, facts.intermediate_size)
    return Speed(flops, rate, SECONDS_PER_OPERATOR["cpu"])


@lru_cache(maxsize=16)
def _measure(hidden: int, inner: int) -> tuple[float, float]:
    """(flops, bytes) a second of this processor: fp32 products of this shape, and copying."""
    import numpy as np

    rows = max(32, min(1024, int(1.5e9 / (2 * hidden * inner))))
    left, right = np.ones((rows, hidden), np.float32), np.ones((hidden, inner), np.float32)
    block = np.ones(8_000_000, np.float32)
    target = np.empty_like(block)
    product = _best_seconds(lambda: left @ right)
    copy = _best_seconds(lambda: np.copyto(target, block))
    return 2 * rows * hidden * inner / product, 2 * block.nbytes / copy


def _best_seconds(work: Callable[[], object], times: int = 4) -> float:
    work()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def train_work(
    facts: ModelFacts,
    tuning: Tuning,
    trains: Trains,
    size: Numbers,
    *,
    tokens: int,
    targets: int,
    micro_batches: float,
    length: float,
    checkpointing: bool,
) -> Work:
    """One step of `tokens` tokens in `micro_batches`, documents of about `length` tokens."""
    flops = traffic = operators = 0.0
    flows = trains.embedding
    again = 1 if checkpointing else 0
    for layer in range(facts.layers):
        cost = layer_cost(facts, trains, layer, flows, size, 1.0)
        adapters = trains.adapters(layer)
        forward = 2 * facts.linear_parameters + 2 * facts.attention_size * length
        extra = sum(2 * trains.rank * (a.inputs + a.outputs) for a in adapters)
        learnt = sum(
            a.inputs * a.outputs
            for a in facts.linears
            if f"model.layers.{layer}.{a.name}.weight" in trains.names
        )
        back = 2 * facts.linear_parameters + 5 * facts.attention_size * length if cost.flows else 0.0
        flops += tokens * ((1 + again * cost.flows) * (forward + extra) + back + 2 * extra + 2 * learnt)
        kept = cost.saved or _forward_bytes(facts, size)
        traffic += tokens * kept * (TRAFFIC_PER_SAVED_BYTE + again) * (1.0 if cost.flows else 0.25)
        passes = (3 + again) / 3 if cost.flows else 1 / 3
        operators += micro_batches * passes * (OPERATORS_PER_LAYER + OPERATORS_PER_ADAPTER * len(adapters))
        flows = cost.flows
    flops += targets * facts.embedding_parameters * (4 + 2 * trains.head(facts))
    traffic += targets * facts.vocab_size * FP32 * 5
    traffic += trainable_parameters(tuning, facts) * (UPDATE_BYTES + 2 * FP32 * micro_batches)
    return Work(flops, traffic, operators)


def forward_work(facts: ModelFacts, size: Numbers, *, tokens: int, targets: int, length: float) -> Work:
    """Evaluating `tokens` tokens: no gradients."""
    flops = tokens * facts.layers * (2 * facts.linear_parameters + 2 * facts.attention_size * length)
    flops += targets * 2 * facts.embedding_parameters
    traffic = tokens * facts.layers * _forward_bytes(facts, size) + targets * facts.vocab_size * FP32 * 3
    return Work(flops, traffic, tokens / 2048 * facts.layers * OPERATORS_PER_LAYER / 3)


def _forward_bytes(facts: ModelFacts, size: Numbers) -> float:
    """Bytes a token a layer writes on its way forward."""
    return (6 * facts.hidden_size + 6 * facts.attention_size + 4 * facts.intermediate_size) * size.compute
