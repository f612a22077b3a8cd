"""How long a run takes: its arithmetic and memory traffic, over what this machine was just measured to do.

seconds a step = flops / flops_per_second + bytes moved / bytes_per_second + operators x their overhead
                 + attention scores x theirs, all of it x how busy the machine is just now
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tunesmith.kernels.processor import ONEDNN_OVER_OPENBLAS, onednn_is_quicker
from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32, Numbers, Trains, asking_share, layer_costs, recomputed_layers
from tunesmith.plan.cards import card_of
from tunesmith.plan.device import Device
from tunesmith.plan.head import head_rows, in_blocks
from tunesmith.plan.memory import FOUR_BIT_BYTES, STATE_BYTES, Load
from tunesmith.plan.walk import LayerCost
from tunesmith.tuning.footprint import trainable_parameters

# Share of the rate of a card's products that a step's own reach; like CARD_OPERATOR_SECONDS, what an operator takes to
# be started there, held against steps on H200s (docs/plan.md, the card table).
CARD_SHARE = 0.9
# Held against steps of three models, three methods and two lengths on one processor core (docs/plan.md).
FLOPS_SHARE = 0.92  # of the rate just measured, over all the products of a step
# A byte that a layer writes on its way forward is written and read so often, there and on the way back; more where
# it is computed again. Kept or not kept: what the backward pass makes again costs the same traffic.
TRAFFIC_FORWARD, TRAFFIC_BACKWARD, TRAFFIC_ADAPTER = 2.1, 6.3, 2.0
HEAD_TRAFFIC = 9 * FP32  # a logit: made, exponentiated, turned into its gradient
UPDATE_TRAFFIC = 14 * FP32  # a trained weight: AdamW reads four numbers and writes three; clipping reads one
ACCUMULATE_TRAFFIC = 3 * FP32
BUS = 20e9  # bytes a second, pinned, each way: PCIe 4.0 x16
PAGED_TRAFFIC = 50  # bytes of a card's own traffic that take as long as one over the bus to it
# Of a layer there and back, of an adapter beside it, and each time that a weight in 4 bits is made wide.
OPERATORS_PER_LAYER, OPERATORS_PER_ADAPTER, OPERATORS_PER_WIDENING = 110, 14, 5
CARD_OPERATOR_SECONDS = 34e-6
# On a processor, what numpy takes to add eight numbers so many times over; longer where other threads must be woken.
# Held against eleven runs on a Zen 5 with one thread and with two (docs/plan.md).
ADDITIONS, WOKEN = 120, 1.5
# A number of a query with one of a key, forward and backward, on one core; on a card it is part of the flops. A
# document of few tokens costs what blocks of FLOOR cost, and heads of few numbers what NARROW ones cost.
SECONDS_PER_SCORE = 1.2e-10
FLOOR, NARROW = 80, 24
# bf16 on a processor compiles each product for its shape, as oneDNN says itself in 1.5 to 3.6 ms: as many operators'
# time for each number of rows (all tokens; those that the last layer and the head are asked for), 110 ms where
# every micro-batch has new ones, and on average an eighth of that where they are filled up (data/filling.py).
COMPILED, COMPILED_ANEW = 300, 2400
# What matrix units gain over fp32 in all the products of a step; without them bf16 is made up from fp32. Beside the
# products it gains nothing: numbers are widened, and made narrow again. Fitted to widths of 192 to 1024 (docs/log.md).
BF16_GAIN, BF16_WITHOUT_UNITS, BF16_NUMBER = 4.0, 0.5, 3.5
# Below this a machine counts as having nothing else to do.
HARDLY_BUSY = 1.1
# What a further core adds to element-wise work; share of the rate of large products that several cores reach in a
# step, which waits for the last of them at each operator. Of the same runs.
SHARE_OF_FURTHER_CORES, TOGETHER = 0.5, 0.75


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine does in a second, and what an operator and a score of attention cost it."""

    flops: float
    bytes: float
    operator_seconds: float
    score_seconds: float = 0.0
    launches_ahead: bool = False  # operators are started while others compute
    busy: float = 1.0  # how many times as long as alone: other work is on the machine


@dataclass(frozen=True, slots=True)
class Work:
    """What a stretch of training asks for: arithmetic, traffic, operators started, attention scores.

    away: bytes that go over the bus to the host and come back, beside the computing."""

    flops: float = 0.0
    bytes: float = 0.0
    operators: float = 0.0
    scores: float = 0.0
    away: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.operators + other.operators,
            self.scores + other.scores,
            self.away + other.away,
        )

    def seconds(self, speed: Speed) -> float:
        """Time on a machine."""
        moving = self.bytes / speed.bytes + self.scores * speed.score_seconds
        computing, starting = self.flops / speed.flops + moving, self.operators * speed.operator_seconds
        whole = max(computing, starting) if speed.launches_ahead else computing + starting
        # they go beside the forward pass, a quarter of a step that recomputes, and come back beside the rest
        whole += sum(max(0.0, self.away / BUS - share * whole) for share in (0.25, 0.75))
        return speed.busy * whole


def card_speed(name: str) -> Speed:
    """A card's, from the table."""
    card = card_of(name)
    return Speed(card.flops * CARD_SHARE, card.bandwidth, CARD_OPERATOR_SECONDS, launches_ahead=True)


def find_speed(device: Device, facts: ModelFacts, bf16: bool) -> Speed:
    """From the table of cards, or measured here on matrices of the model's own shape."""
    if device.kind == "cuda":
        return card_speed(device.name)
    found, several = _measure(facts.hidden_size, facts.intermediate_size), threads() > 1
    cores = 1 + SHARE_OF_FURTHER_CORES * (min(8, threads()) - 1)
    gain, number = (_bf16_gain(device), BF16_NUMBER) if bf16 else (_fp32_gain(), 1.0)
    flops = found.flops * FLOPS_SHARE * gain * (TOGETHER if several else 1)
    operator = ADDITIONS * found.addition * (WOKEN if several else 1)
    return Speed(flops, found.bytes * cores / number, operator, SECONDS_PER_SCORE / cores, busy=found.busy)


def _fp32_gain() -> float:
    """How much quicker a run's products are than numpy's."""
    return ONEDNN_OVER_OPENBLAS if onednn_is_quicker() else 1.0


def _bf16_gain(device: Device) -> float:
    """How much quicker the products of a step are than in fp32."""
    return BF16_GAIN if device.bf16 else BF16_WITHOUT_UNITS


def threads() -> int:
    """Threads that torch and numpy will use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Rates:
    """fp32 operations and bytes a second, and seconds of a small addition, of this processor's own time; how many
    times as long the clock says."""

    flops: float
    bytes: float
    addition: float
    busy: float


@lru_cache(maxsize=16)
def _measure(hidden: int, inner: int) -> Rates:
    """Products of this shape, copying, small additions; by the thread's time: other work must not pass for slowness."""
    import numpy as np

    rows = max(32, min(16384, int(1.5e9 / (2 * hidden * inner))))
    left, right = np.ones((rows, hidden), np.float32), np.ones((hidden, inner), np.float32)
    block = np.ones(8_000_000, np.float32)
    target = np.empty_like(block)
    product, products = _best_seconds(lambda: left @ right)
    copy, copies = _best_seconds(lambda: np.copyto(target, block))
    small, turns = np.zeros(8, np.float32), range(2000)

    def add() -> None:
        for _ in turns:
            np.add(small, small, out=small)

    addition, additions = _best_seconds(add)
    flops, rate = 2 * rows * hidden * inner / product, 2 * block.nbytes / copy
    return Rates(flops, rate, addition / len(turns), busy(products, copies, additions))


def _best_seconds(work: Callable[[], object], times: int = 6) -> tuple[float, tuple[float, float]]:
    """The thread's own time of the quickest turn; clock and thread's time of all turns."""
    work()
    turns, began = list[float](), time.perf_counter()
    for _ in range(times):
        start = time.thread_time()
        work()
        turns.append(time.thread_time() - start)
    return max(1e-9, min(turns)), (time.perf_counter() - began, sum(turns))


def busy(*spans: tuple[float, float]) -> float:
    """How many times as long as its own time something takes by the clock: (clock, own) of stretches of work, >= 1."""
    clock, own = (sum(span[which] for span in spans) for which in (0, 1))
    times = clock / max(own, 1e-9)
    return times if times > HARDLY_BUSY else 1.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens computed, in documents of about `length`, cut into `micro_batches`."""

    tokens: float
    targets: float
    length: float
    micro_batches: float


def train_work(load: Load, trains: Trains, size: Numbers, stretch: Stretch) -> Work:
    """One step: forward, backward where a gradient flows, update."""
    facts, total = load.facts, Work()
    costs = layer_costs(facts, trains, size, 1.0)
    again = recomputed_layers(costs, load.recomputed)
    for layer, cost in enumerate(costs):
        if layer >= load.trunk:
            total += _layer_work(load, trains, layer, cost, size, stretch, layer in again)
    total += reading_work(load, size, stretch)
    trainable = trainable_parameters(load.tuning, facts)
    flops = stretch.targets * facts.embedding_parameters * (4 + 2 * trains.head(facts))
    update = trainable * (UPDATE_TRAFFIC + ACCUMULATE_TRAFFIC * stretch.micro_batches)
    if load.optimizer.startswith("paged"):
        update += 2 * trainable * STATE_BYTES[load.optimizer] * PAGED_TRAFFIC
    update += _table_traffic(load, size, stretch)
    away = load.away / load.computed * stretch.tokens * len(again)
    return total + Work(flops, stretch.targets * facts.vocab_size * HEAD_TRAFFIC + update, away=away)


def _table_traffic(load: Load, size: Numbers, stretch: Stretch) -> float:
    """Bytes moved where a head in few bits is made wide, written and read, a chunk of rows after the other."""
    if load.tuning.tables == 16:
        return 0.0
    chunks = max(stretch.micro_batches, stretch.targets / head_rows(load, size.compute))
    each = load.tuning.tables / 8 + 2 * size.compute
    passes = 1 if in_blocks(load) else 2
    return passes * chunks * load.facts.embedding_parameters * each


def _layer_work(
    load: Load,
    trains: Trains,
    layer: int,
    cost: LayerCost,
    size: Numbers,
    stretch: Stretch,
    recomputed: bool,
) -> Work:
    """One decoder layer: forward, again where it is recomputed, and twice as much backward."""
    facts, added = load.facts, trains.beside(layer, size.compute < FP32)
    again = int(recomputed and cost.flows)
    learnt = _learnt_weights(facts, trains, layer)
    extra = 2 * sum(one.work for one in added)
    forward = 2 * facts.linear_parameters + 2 * facts.attention_size * stretch.length
    back = 2 * facts.linear_parameters + 5 * facts.attention_size * stretch.length if cost.flows else 0.0
    flops = (1 + again) * (forward + extra) + back + 2 * extra + 2 * learnt
    traffic = _forward_bytes(facts, size) * ((1 + again) * TRAFFIC_FORWARD + TRAFFIC_BACKWARD * cost.flows)
    traffic += TRAFFIC_ADAPTER * sum(one.linear.inputs + one.linear.outputs for one in added) * size.compute
    thirds, passes = (3 + again, 2 + again) if cost.flows else (1, 1)
    read = stretch.micro_batches * facts.linear_parameters * _read_bytes(load, size) * passes
    operators = thirds / 3 * (OPERATORS_PER_LAYER + OPERATORS_PER_ADAPTER * len(added))
    if load.tuning.base != "none":
        operators += passes * OPERATORS_PER_WIDENING * len(facts.linears_of(layer))
    if load.device == "cpu" and load.bf16 and layer == facts.layers - 1:  # layers share what was compiled
        narrow = not recomputed and asking_share(facts, stretch.tokens, round(stretch.targets)) is not None
        operators += thirds / 3 * (COMPILED if load.packed else COMPILED_ANEW) * (1 + narrow)
    return Work(
        stretch.tokens * flops,
        stretch.tokens * traffic + read,
        stretch.micro_batches * operators,
        stretch.tokens * _scores(facts, stretch) * thirds / 3,
    )


def _scores(facts: ModelFacts, stretch: Stretch) -> float:
    """Numbers of keys that one of a query meets in a layer, as much time as they take."""
    length = max(1.0, stretch.length)
    return facts.heads * max(NARROW, facts.head_dim) * (length + FLOOR**2 / length)


def model_flops(load: Load, trains: Trains, size: Numbers, stretch: Stretch) -> float:
    """Arithmetic that the model itself asks for in a step, nothing computed twice: what MFU is counted in.

    A token, a layer: 2 N + 2 a s forward; 2 N + 4 a s more where a gradient goes through; 2 a weight that trains.
    """
    facts, each = load.facts, 0.0
    for layer, cost in enumerate(layer_costs(facts, trains, size, 1.0)):
        through = 2 * facts.linear_parameters + 4 * facts.attention_size * stretch.length
        added = 2 * sum(one.work for one in trains.beside(layer, size.compute < FP32))
        each += 2 * facts.linear_parameters + 2 * facts.attention_size * stretch.length + 3 * added
        each += through * cost.flows + 2 * _learnt_weights(facts, trains, layer)
    head = stretch.targets * facts.embedding_parameters * (4 + 2 * trains.head(facts))
    return stretch.tokens * each + head


def _learnt_weights(facts: ModelFacts, trains: Trains, layer: int) -> int:
    """Weights of a layer's matrices that train."""
    return sum(
        linear.inputs * linear.outputs
        for linear in facts.linears
        if f"{facts.layer(layer)}.{linear.name}.weight" in trains.names
    )


def _read_bytes(load: Load, size: Numbers) -> float:
    """Bytes moved for an element of a frozen matrix in a pass: read; from 4 bits also written and read again."""
    return load.frozen_bytes if load.tuning.base == "none" else FOUR_BIT_BYTES + 2 * size.compute


def forward_work(
    facts: ModelFacts, size: Numbers, stretch: Stretch, layers: int | None = None, head: bool = True
) -> Work:
    """Evaluating, through all layers or so many of them, with or without the head: no gradients."""
    layers = facts.layers if layers is None else layers
    each = layers * (2 * facts.linear_parameters + 2 * facts.attention_size * stretch.length)
    targets = stretch.targets * head
    return Work(
        stretch.tokens * each + targets * 2 * facts.embedding_parameters,
        stretch.tokens * layers * _forward_bytes(facts, size) + targets * facts.vocab_size * HEAD_TRAFFIC / 2,
        stretch.micro_batches * layers * OPERATORS_PER_LAYER / 3,
        stretch.tokens * _scores(facts, stretch) * layers / 3,
    )


def reading_work(load: Load, size: Numbers, stretch: Stretch) -> Work:
    """What the frozen layers gave, read from disk: out of the system's memory of it, into a batch, onto the device."""
    return Work(bytes=3 * stretch.tokens * load.facts.hidden_size * size.residual * (load.trunk > 0))


def _forward_bytes(facts: ModelFacts, size: Numbers) -> float:
    """Bytes a token a layer writes on its way forward."""
    return (6 * facts.hidden_size + 6 * facts.attention_size + 4 * facts.intermediate_size) * size.compute
