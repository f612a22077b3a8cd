"""Peak memory of a run by term, for each phase of a step; the dearest phase is the forecast.

    loss         weights + optimiser + saved activations + a chunk of logits
    backward     weights + optimiser + saved activations + one layer's live gradients (+ gradients so far)
    update       weights + optimiser + all gradients
    evaluation   weights + optimiser + what lives in one layer, nothing kept
Counted in bytes of tensors, plus what the libraries themselves hold. Arithmetic only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.packing import filled
from tunesmith.kernels.chunks import TABLE_BLOCK
from tunesmith.kernels.processor import onednn_is_quicker, products_kept
from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import (
    APART_FROM,
    FP32,
    INDEX,
    Numbers,
    Saved,
    Trains,
    layer_costs,
    numbers,
    recomputed_layers,
    saved_bytes,
    uncertainty,
    what_trains,
)
from tunesmith.plan.backward import dearest, live_bytes
from tunesmith.plan.beside import frozen_numbers, virtual_inputs, virtual_keys
from tunesmith.plan.head import chunk_bytes, head_bytes
from tunesmith.plan.measured import UNMEASURED
from tunesmith.plan.peak import Memory
from tunesmith.plan.slack import allocator_slack, framework_bytes, piece_bytes
from tunesmith.recipe import GaLore, Tuning
from tunesmith.tuning.footprint import footprint, trainable_parameters
from tunesmith.tuning.targets import all_targets

# What oneDNN compiled for ever new shapes (measured on runs of the bundled model, docs/plan.md), of each that is kept.
COMPILED, COMPILED_BYTES = "compiled products", 15 * 2**16
# The CUDA context stands outside torch's own numbers, but not outside the card.
CONTEXT_BYTES: Mapping[str, int] = {"cpu": 0, "cuda": 600 * 2**20}
# A weight in 4 bits, and its share of the scales: one fp32 for 64 weights, or one byte and an fp32 for 256 of those.
FOUR_BIT_BYTES = 0.5
SCALE_BYTES: Mapping[bool, float] = {False: FP32 / 64, True: (1 + FP32 / 256) / 64}
BF16 = 2
# Two moments in fp32; in bf16; or in a byte each, with an fp32 scale for each block of 256.
STATE_BYTES: Mapping[str, float] = {
    "adamw": 2 * FP32, "paged_adamw": 2 * FP32, "adamw_bf16": 2 * BF16, "adamw_8bit": 2 * (1 + FP32 / 256),
    "paged_adamw_8bit": 2 * (1 + FP32 / 256),
}  # fmt: skip

# With a trunk that is let go of while it trains: phases in which it is there, and nothing of the optimiser is.
BACK, BETWEEN = "taking the frozen layers back", "evaluation between steps"
AROUND = ("evaluation", "answering", BACK)
# Phases after the dearest of what comes and goes.
AFTERWARDS = ("end of the backward", "update", "backward of the embedding", BACK)

# off, full, or so many layers, the first that gradients reach.
Checkpointing = Literal["off", "full"] | int


@dataclass(frozen=True, slots=True)
class Load:
    """What memory depends on. `frozen_bytes` an element of a frozen weight; slack as in activations.py; `length`: mean
    tokens of a document. For the time: `padding`, tokens with those of padded rows for one of the data's, and
    `share`, that of a micro-batch which one token of the data is (0: micro-batches are full)."""

    facts: ModelFacts
    tuning: Tuning
    device: Literal["cpu", "cuda"]
    bf16: bool
    frozen_bytes: int
    checkpointing: Checkpointing
    tokens: int
    targets: int
    accumulates: bool
    slack: float = 1.05
    length: float = 512.0
    optimizer: str = "adamw"
    room: int = 0  # tokens that a micro-batch may have at most; 0: as many as it has
    card_bytes: int = 0  # memory of the card; 0 where it is not known
    offload: bool = False  # inputs of recomputed layers are kept on the host
    answer_tokens: int = 0  # tokens whose keys and values are held at once while answers are generated
    trunk: int = 0  # layers whose outputs are kept on disk
    let_go: bool = False  # the weights of these layers are not held meanwhile
    padding: float = 1.0
    share: float = 0.0
    packed: bool = True  # documents end to end, no row padded

    def micro_batches(self, tokens: float) -> float:
        """How many a step of so many tokens takes, on average."""
        return max(1.0, tokens * self.share if self.share else tokens / self.tokens)

    @property
    def trains(self) -> Trains:
        """What trains, by layer."""
        return what_trains(self.tuning, self.facts)

    @property
    def numbers(self) -> Numbers:
        """Bytes of what it computes with."""
        return numbers(self.trains, self.bf16, self.device)

    @property
    def recomputed(self) -> int:
        """Layers that are computed again in the backward pass."""
        level = self.checkpointing
        return {"off": 0, "full": self.facts.layers}[level] if isinstance(level, str) else level

    @property
    def computed(self) -> float:
        """Tokens computed: those of the text, and learnt ones in front of each document."""
        return self._filled[0] * (1 + virtual_inputs(self.tuning) / self.length)

    @property
    def asked(self) -> int:
        """Targets computed."""
        return self._filled[1]

    @property
    def padded(self) -> float:
        """Tokens computed for one of the data's."""
        return self.padding * self._filled[0] / self.tokens

    @property
    def _filled(self) -> tuple[int, int]:  # data/filling.py
        own = self.tokens, self.targets
        return filled(*own) if self.packed and self.bf16 and self.device == "cpu" else own

    @property
    def away(self) -> float:
        """Bytes of a layer's input that is kept on the host; 0 where inputs stay."""
        wide = self.numbers.residual
        return self.computed * self.facts.hidden_size * wide if self.offload and self.recomputed else 0.0

    @property
    def attended(self) -> float:
        """Slots attended a token computed: padding within a group, and learnt keys in front of each document."""
        return (1.0 if self.apart else self.slack) * self._with_keys

    @property
    def gathered(self) -> float:
        """The same where documents are laid side by side, whatever their length: in the last layer."""
        return self.slack * self._with_keys

    @property
    def apart(self) -> bool:
        """Whether documents are attended where they stand."""
        return self.packed and self.device == "cpu" and self.length >= APART_FROM

    @property
    def native(self) -> bool:
        """Whether a card's own kernel attends to documents of any length (kernels/varlen.py)."""
        capped, learnt = self.facts.spelling.capped_attention, virtual_keys(self.tuning)
        return (
            self.device == "cuda" and self.bf16 and not capped and not learnt and self.facts.head_dim <= 256
        )

    @property
    def _with_keys(self) -> float:
        return 1 + virtual_keys(self.tuning) / self.length


def forecast_memory(load: Load, whole_run: bool = True) -> Memory:
    """The dearest phase of a step; of a whole run also of what comes between steps, and what it has beside them."""
    found = _phases(load) | _phases_around(load)
    phases = {
        phase: {**_static(load, phase), **{name: round(count) for name, count in terms.items()}}
        for phase, terms in found.items()
        if whole_run or phase not in (*AROUND, BETWEEN)
    }
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    terms = dict(phases[phase])
    # what a step has left in the allocator is there to the end
    terms["allocator"] = round(allocator_slack(load, phases["loss"] if phase in AFTERWARDS else terms))
    terms["framework"] = framework_bytes(load.device, whole_run)
    if whole_run and load.device == "cpu" and (load.bf16 or onednn_is_quicker()):
        terms[COMPILED] = products_kept() * COMPILED_BYTES
    error_share = UNMEASURED[load.device] + uncertainty(load.facts)
    return Memory(
        terms, phases, phase, error_share, CONTEXT_BYTES[load.device], host_bytes=round(_host_bytes(load))
    )


def _host_bytes(load: Load) -> float:
    """What stands in the main memory: inputs of recomputed layers, in pinned blocks of 2^n; a paged optimiser."""
    one, paged = load.away, load.device == "cuda" and load.optimizer.startswith("paged")
    states = trainable_parameters(load.tuning, load.facts) * STATE_BYTES[load.optimizer] if paged else 0.0
    if not one:
        return states
    costs = layer_costs(load.facts, load.trains, load.numbers, 1.0)
    return float(len(recomputed_layers(costs, load.recomputed)) * 2.0 ** math.ceil(math.log2(one)) + states)


def _static(load: Load, phase: str) -> dict[str, int]:
    """What is there in a phase, whatever is computed. A trunk is there only before and after the steps."""
    facts, found = load.facts, footprint(load.tuning, load.facts)
    trainable = found.count(facts)
    sizes = dict(facts.named_parameters())
    trained = sum(sizes[name] for name in found.names)
    added = trainable - trained + frozen_numbers(load.tuning, facts)
    whole, around = _weights(load, found.names, sizes), load.let_go and phase in AROUND
    away = 0 if around else _trunk_bytes(load, sizes)
    return {
        "weights": whole - away,
        "adapters": added * FP32,
        "optimiser states": 0 if around else round(_states(load, trainable)),
        "gradients": 0,
        "batch": round(_batch(load)),
        "products": piece_bytes(load, phase),
        "saved activations": 0,
        "keys and values": 0,
        "live layer": 0,
        "head": 0,
    }


def _batch(load: Load) -> float:
    """Ids, targets, places and documents of a micro-batch; and what the frozen layers gave, where that is read."""
    states = load.facts.hidden_size * load.numbers.residual * (load.trunk > 0)
    return load.computed * (4 * INDEX + states)


def _weights(load: Load, names: Collection[str], sizes: Mapping[str, int]) -> int:
    """The model's own weights: fp32 where they train; else as stored, or in 4 bits."""
    own = sum(sizes[name] for name in names)
    tables, bits_of_tables = held_tables(load.tuning, load.facts)
    held = 0 if load.tuning.base == "none" else sum(n for name, n in _held(load.facts) if name not in names)
    bits = FOUR_BIT_BYTES + SCALE_BYTES[load.tuning.double_quant]
    wide = load.facts.parameters - own - held - tables
    return round(wide * load.frozen_bytes + own * FP32 + held * bits + tables * bits_of_tables)


def held_tables(tuning: Tuning, facts: ModelFacts) -> tuple[int, float]:
    """Weights of embedding and head that are held in few bits, and the bytes of each (kernels/tables.py)."""
    if tuning.tables == 16:
        return 0, 0.0
    block = TABLE_BLOCK if facts.hidden_size % TABLE_BLOCK == 0 else facts.hidden_size
    return facts.embedding_parameters * (1 if facts.tied else 2), tuning.tables / 8 + FP32 / block


def _trunk_bytes(load: Load, sizes: Mapping[str, int]) -> int:
    """Weights of the layers whose outputs are kept on disk, and of an embedding that is not the head, too.

    The scales of 4-bit weights stay.
    """
    if not load.let_go:
        return 0
    facts = load.facts
    starts = tuple(f"{facts.layer(index)}." for index in range(load.trunk))
    held = {} if load.tuning.base == "none" else dict(_held(facts))
    narrow = load.tuning.tables != 16  # it stays
    table = 0 if facts.tied or narrow else sizes[f"{facts.spelling.embedding}.weight"] * load.frozen_bytes
    inside = (
        count * (FOUR_BIT_BYTES if name in held else load.frozen_bytes)
        for name, count in sizes.items()
        if name.startswith(starts)
    )
    return round(table + sum(inside))


def _phases_around(load: Load) -> dict[str, dict[str, float]]:
    """Where a trunk is let go of: evaluations between steps have none; it comes back beside what has trained."""
    if not load.let_go:
        return {}
    size, whole = load.numbers, _static(load, BACK)["weights"]
    away = _trunk_bytes(load, dict(load.facts.named_parameters()))
    # the base is loaded anew, on a processor beside its mapped file; onto a card, but for 4 bits, one by one
    beside = whole - away if load.tuning.base != "none" else 0
    beside = 2 * whole - away if load.device == "cpu" else beside
    return {BETWEEN: _evaluation(load, size.compute), BACK: {"weights": whole + beside}}


def _held(facts: ModelFacts) -> Iterator[tuple[str, int]]:
    """Weights of the decoder's linear layers: what a 4-bit base holds in 4 bits."""
    for index in range(facts.layers):
        for linear in facts.linears_of(index):
            yield f"{facts.layer(index)}.{linear.name}.weight", linear.inputs * linear.outputs


def _states(load: Load, trainable: int) -> float:
    """Bytes of the optimiser: two moments of each number that trains, or of its projection."""
    if load.device == "cuda" and load.optimizer.startswith("paged"):
        return 0  # they stand in the main memory, and come when they are needed
    if isinstance(load.tuning, GaLore):
        return galore_states(load.tuning, load.facts) * FP32
    return trainable * STATE_BYTES[load.optimizer]


def galore_states(tuning: GaLore, facts: ModelFacts) -> int:
    """Numbers: two moments of the short side's projection and the projection itself; two a number elsewhere."""
    whole, projected = 2 * facts.parameters, 0
    for linear in all_targets(tuning.targets, facts):
        short, long = sorted((linear.inputs, linear.outputs))
        if tuning.rank < short:
            whole -= 2 * short * long
            projected += tuning.rank * (2 * long + short)
    return whole + projected


def _phases(load: Load) -> dict[str, dict[str, float]]:
    facts, trains = load.facts, load.trains
    size = load.numbers
    all_gradients = trainable_parameters(load.tuning, facts) * FP32
    found = saved_bytes(
        facts, trains, size, load.computed, load.asked, load.gathered, load.recomputed, load.length, load.offload,
        load.attended if load.apart else None, load.native,
    )  # fmt: skip
    count, at_once = len(found.recomputed), 2  # inputs on their way, out or back (model/offload.py)
    away, beside_one = load.away * min(at_once, count), load.away * (min(at_once, count) - 1)
    table, head_trains = facts.embedding_parameters * FP32, trains.head(facts)
    earlier = all_gradients if load.accumulates else 0
    begun = earlier or (table if head_trains else 0)
    saved = found.total - (table if head_trains and facts.own_forward is None else 0)
    live = live_bytes(load, trains, size.compute)
    top, lowest = _recomputed_parts(found)
    again = facts.layers - 1 in found.recomputed
    gone, most = (away - top - beside_one, live) if again else dearest(load, trains, size.compute, found)
    kept = {"gradients": earlier, "saved activations": saved + away}
    loss, backward = head_bytes(load, size.compute, table if head_trains else 0)
    phases: dict[str, dict[str, float]] = {
        "loss": {**kept, "head": loss},
        "backward of the head": {**kept, "head": backward},
        "backward of a layer": {
            "gradients": begun,
            "saved activations": saved + away - gone,
            "live layer": most,
        },
        "end of the backward": {
            "gradients": earlier or all_gradients - (table if trains.embedding and not facts.tied else 0),
            "saved activations": lowest if any(found.whole) else 0,
            "live layer": live,
        },
        "update": {"gradients": all_gradients},
        "evaluation": _evaluation(load, size.compute),
    }
    if trains.embedding:
        phases["backward of the embedding"] = {
            "gradients": all_gradients,
            "live layer": load.computed * facts.hidden_size * FP32,
        }
    if load.answer_tokens:
        phases["answering"] = _answering(load, size.compute)
    if found.recomputed and facts.layers - 1 not in found.recomputed:
        phases["backward of a recomputed layer"] = {
            "gradients": earlier or begun + _share_above(found, facts) * (all_gradients - begun),
            "saved activations": sum(found.kept[: found.recomputed.stop]) + found.shared + top + beside_one,
            "live layer": live,
        }
    return phases


def _share_above(found: Saved, facts: ModelFacts) -> float:
    """Share of the layers that stand above those that are recomputed."""
    return (facts.layers - found.recomputed.stop) / facts.layers


def _recomputed_parts(found: Saved) -> tuple[float, float]:
    """What the dearest recomputed layer holds beside its input; what the lowest layer holds at the very end."""
    beside = [found.whole[index] - found.kept[index] for index in found.recomputed]
    return max(beside, default=0.0), max(beside) if beside else max(found.whole)


def _evaluation(load: Load, compute: int) -> dict[str, float]:
    """Nothing is kept: what lives at once in a layer, or a chunk of logits, whichever is more.

    A model that runs through its own forward makes all logits of its documents at once.
    """
    facts = load.facts
    stream, heads = facts.hidden_size, (facts.heads + 2 * facts.kv_heads) * facts.head_dim
    repeated = 2 * facts.attention_size * (facts.kv_heads < facts.heads)
    attention = 2 * stream + 3 * heads + repeated
    numbers = max(attention, 4 * stream + 3 * facts.intermediate_size) + 2 * facts.head_dim
    layer = load.computed * (numbers * compute + 6 * INDEX)
    own = load.computed * facts.vocab_size * (compute + FP32)
    head = own if facts.own_forward else chunk_bytes(load, compute, learns=False)
    return {"live layer": layer} if layer > head else {"head": head}


def _answering(load: Load, compute: int) -> dict[str, float]:
    """The keys and values of all layers; those of one layer once more while a token is added; its scores."""
    facts = load.facts
    each = 2 * facts.kv_heads * facts.head_dim * compute
    live = (4 * facts.hidden_size + 3 * facts.intermediate_size) * compute
    return {
        "keys and values": load.answer_tokens * (facts.layers + 1) * each,
        "live layer": load.answer_tokens * live,
    }
