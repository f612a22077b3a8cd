"""The way through one decoder layer, adding up what each of its parts keeps for the backward pass.

norm -> linear layers -> norm: a part keeps its input only where something asks for it; neighbours share a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.plan.beside import FP32

if TYPE_CHECKING:
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.activations import Numbers, Trains


# Kinds of norm that give what linear layers compute with, under autocast too (kernels/norm.py).
NARROWING = ("rms", "offset", "scaled_wide")


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What a layer holds. Bytes a token; `asked` a token that asks (all, but for the last layer); `fixed` at all:
    copies of weights in the compute dtype. attends: whether its attention is gone through backward."""

    saved: float
    asked: float
    fixed: int
    flows: bool
    attends: bool = False


def norm_bytes(kind: str, width: int, groups: int, flows: bool, trains: bool, stream: int) -> tuple[int, int]:
    """Bytes a token that a norm keeps, and bytes kept once. groups: as many norms side by side, each of width / groups.

    RMSNorm keeps its input as it is, and a root (kernels/norm.py); where it is centred, as plain torch computes it.
    Torch's own layer norm keeps its input, a mean and a spread.
    """
    reached = flows or trains
    match kind:
        case "layer":  # the statistics are as wide as weights, where those train
            return (width * stream + 2 * groups * (FP32 if trains else stream)) * reached, 0
        case "layer_wide":
            return (width + 2 * groups) * FP32 * reached, 0
        case "centred":  # the input less its mean is made twice
            mean = groups * FP32 * (stream < FP32)
            return ((2 * width + groups) * FP32 + mean) * flows + width * FP32 * trains, 0
        case _:
            return (width * stream + groups * FP32) * reached, 0


class Walk:
    """Adds up what is saved on the way through one layer."""

    def __init__(self, facts: ModelFacts, trains: Trains, layer: int, size: Numbers) -> None:
        self.trains, self.size = trains, size
        self.prefix = f"{facts.layer(layer)}."
        self.linears = {linear.name: linear for linear in facts.linears}
        self.first, self.kind = next(iter(facts.spelling.norms), ""), facts.spelling.norm
        self.beside = {one.linear.name: one for one in trains.beside(layer, size.compute < FP32)}
        self.saved = 0.0
        self.asked = 0.0
        self.fewer = False  # from here on only tokens that ask
        self.fixed = 0
        self.kept: set[str] = set()
        self.wide: set[str] = set()

    def add(self, count: float, fewer: bool = False) -> None:
        """Bytes a token, or a token that asks."""
        if self.fewer or fewer:
            self.asked += count
        else:
            self.saved += count

    def norm(self, name: str, width: int, groups: int, flows: bool, stream: int, fewer: bool = False) -> bool:
        """What a norm keeps; whether its output needs a gradient."""
        trains = self._trains(name, "weight")
        saved, fixed = norm_bytes(self.kind, width, groups, flows, trains, stream)
        self.add(saved, fewer)
        self.fixed += fixed
        gives_fp32 = self.kind not in NARROWING and (trains or self.kind == "layer_wide")
        if gives_fp32 and self.size.compute < self.size.residual:
            # an fp32 weight makes an fp32 output, which each linear layer casts for itself
            self.wide |= (
                {"y", "z"} if not name else
                set() if name.endswith(("q_norm", "k_norm")) else {"y"} if name == self.first else {"z"}
            )  # fmt: skip
        return flows or trains

    def remakes(self, before: Sequence[str], behind: str) -> bool:
        """Whether the layer behind a gate makes its input again: it is one node with those before, of which no more
        than updates train (kernels/mlp.py), or trains and nothing is cast but on a card (kernels/product.py)."""
        if behind not in self.beside and self._trains(behind, "weight"):
            return self.size.compute == FP32 or not self.size.copies
        names = (*before, behind)
        trains = any(self._trains(name, kind) for name in names for kind in ("weight", "bias"))
        return not trains and all(one.node for name in names if (one := self.beside.get(name)))

    def _trains(self, name: str, kind: str) -> bool:
        return f"{self.prefix}{name}.{kind}" in self.trains.names

    def beside_norm(self, names: Sequence[str], width: int, flows: bool, stream: int) -> bool:
        """A norm of the input that another norm keeps already: only its own statistics are new."""
        found = self.norm(names[0], width, 1, flows, stream)
        if found:
            self.add(-width * stream)
        return found

    def linear(
        self,
        name: str,
        flows: bool,
        source: str,
        fewer: bool = False,
        twice: bool = False,
        remade: bool = False,
    ) -> bool:
        """A linear layer keeps its input where it trains or carries an adapter; shared, or its own copy.

        remade: its input is made again in the backward pass, and not kept.
        """
        linear, added = self.linears[name], self.beside.get(name)
        trains = self._trains(name, "weight")
        if self.size.copies and trains and flows:
            self.fixed += linear.inputs * linear.outputs * self.size.compute
        if added:
            wide = (added.wide + added.wide_back * flows) * FP32
            self.add(added.kept * self.size.compute + wide + added.mask, fewer)
            self.fixed += added.fixed + added.fixed_back * flows + added.again * twice
        if not remade and (trains or (added and added.input)):
            own = source in self.wide or bool(added and added.own)
            if own or source not in self.kept:
                self.add(linear.inputs * self.size.compute, fewer)
                self.kept |= set() if own else {source}
        return flows or trains or added is not None or self._trains(name, "bias")
