"""The `tuning` key: one section a method, told apart by `method`; only that method's fields exist.

weights    full freeze bitfit ln lisa galore        low rank   lora lora_fa vera adalora relora plora lora_drop
activations   adapter ia3 oft                       prompts    prefix p_tuning_v2 prompt p_tuning
aliases    rslora dora pissa olora eva lora_plus qlora: expanded in the saved recipe
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunesmith.recipe.section import Count, Section, ShareOrCount

Positive = Annotated[float, Field(gt=0)]
Targets = Literal["all_linear"] | tuple[str, ...]


class Tuned(Section):
    """What every method takes."""

    base: Literal["none", "nf4", "fp4"] = "none"
    """Hold the frozen linear layers in 4 bits (QLoRA, arXiv:2305.14314), or as they are."""
    double_quant: bool = True
    """With a 4-bit base: quantise its scales again, 0.4 bit a weight less."""
    tables: Literal[16, 8, 4] = 16
    """Bits of a weight of embedding and head while both are frozen; fewer leave room where the vocabulary is large."""
    also_train: tuple[str, ...] = ()
    """Modules whose own weights train as well, such as [embed_tokens, lm_head]."""
    new_tokens_only: bool = False
    """Of also_train's embeddings and head, only the rows of tokens that the base has not learnt."""

    @model_validator(mode="after")
    def _new_tokens_have_a_table(self) -> Tuned:
        if self.new_tokens_only and not self.also_train:
            raise ValueError(
                "new_tokens_only is said of no table; name them: also_train: [embed_tokens, lm_head]"
            )
        return self


# --- weights of the model itself ----------------------------------------------------------------------------


class Full(Tuned):
    """Every weight trains."""

    method: Literal["full"]


class Freeze(Tuned):
    """Only some layers, or named modules, train; the rest is frozen."""

    method: Literal["freeze"]
    last_layers: Annotated[int, Field(ge=0)] | None = None
    """Number of decoder layers that train, counted from the output; 2 where nothing else is named."""
    first_layers: Annotated[int, Field(ge=0)] = 0
    """Number of decoder layers that train, counted from the input."""
    modules: tuple[str, ...] = ()
    """Further modules by name, such as lm_head or model.norm."""

    @property
    def last(self) -> int:
        """Layers that train at the output's end."""
        named = bool(self.first_layers or self.modules)
        return self.last_layers if self.last_layers is not None else 0 if named else 2

    @model_validator(mode="after")
    def _trains_something(self) -> Freeze:
        if not (self.last or self.first_layers or self.modules):
            raise ValueError("trains nothing; set last_layers or first_layers to 1 or more, or name modules")
        return self


class BitFit(Tuned):
    """Only biases train (Ben Zaken et al. 2021, arXiv:2106.10199)."""

    method: Literal["bitfit"]
    add_biases: bool = False
    """Give the linear layers biases, which begin at 0, where the model has none."""
    targets: Targets = "all_linear"
    """Linear layers that get a bias with add_biases; all_linear is every one but the head."""


class LayerNorms(Tuned):
    """Only the scales and shifts of norms train (arXiv:2312.11420)."""

    method: Literal["ln"]


class Lisa(Tuned):
    """A few layers, drawn anew again and again, train with embeddings and head (arXiv:2403.17919)."""

    method: Literal["lisa"]
    layers: Annotated[int, Field(ge=1)] = 2
    """Decoder layers that train at a time."""
    every: ShareOrCount = 0.05
    """Steps, or share of the run, between draws."""


class GaLore(Tuned):
    """Every weight trains; Adam works on low-rank projections of the gradients (arXiv:2403.03507)."""

    method: Literal["galore"]
    rank: Annotated[int, Field(ge=1)] = 128
    """Rank of the projection; matrices no larger keep their whole gradient."""
    every: Count = 200
    """Steps between new projections."""
    scale: Positive = 0.25
    """Factor on the projected update."""
    targets: Targets = "all_linear"
    """Linear layers whose gradients are projected; all else gets plain AdamW."""


# --- low rank -----------------------------------------------------------------------------------------------


class LowRank(Tuned):
    """An update s B A beside frozen linear layers."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Inner size r of the update B A."""
    alpha: Positive | None = None
    """The update is scaled by alpha/rank; null means 2 x rank."""
    targets: Targets = "all_linear"
    """Names of linear layers, such as [q_proj, v_proj]; all_linear is every one but the head."""

    @property
    def scale_alpha(self) -> float:
        """alpha, chosen or by default."""
        return self.alpha or 2 * self.rank


class Lora(LowRank):
    """Low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    method: Literal["lora"]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of A; 0 saves memory and time."""
    variant: Literal["plain", "dora"] = "plain"
    """dora learns the length of each output row beside its direction (arXiv:2402.09353)."""
    scaling: Literal["standard", "rslora"] = "standard"
    """alpha/rank, or alpha/sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
    init: Literal["default", "pissa", "olora", "eva"] = "default"
    """Where A and B begin: A random and B 0, the largest singular parts of W, its QR, or those of the inputs."""
    lr_ratio: Annotated[float, Field(ge=1)] | None = None
    """LoRA+ (arXiv:2402.12354): B learns so many times faster than A."""

    @property
    def scale_alpha(self) -> float:
        """alpha; PiSSA and OLoRA begin with parts of W itself, which a factor of 2 would double."""
        return self.alpha or (self.rank if self.init in ("pissa", "olora") else 2 * self.rank)


class LoraFA(LowRank):
    """LoRA whose A stays as it was drawn: less saved for the backward pass (arXiv:2308.03303)."""

    method: Literal["lora_fa"]


class Vera(Tuned):
    """Two learnt vectors a layer around one random pair of matrices for all (arXiv:2310.11454)."""

    method: Literal["vera"]
    rank: Annotated[int, Field(ge=1)] = 256
    """Inner size of the shared random matrices."""
    d_initial: Positive = 0.1
    """First value of the inner vector."""
    targets: Targets = "all_linear"
    """Names of linear layers; all_linear is every one but the head."""


class AdaLora(LowRank):
    """LoRA as P L Q whose ranks are cut where they matter least (Zhang et al. 2023, arXiv:2303.10512)."""

    method: Literal["adalora"]
    rank: Annotated[int, Field(ge=1)] = 8
    """Mean rank at the end."""
    initial_rank: Count | None = None
    """Rank of every update at the beginning; null means 1.5 x rank."""
    warmup: ShareOrCount = 0.1
    """Steps, or share of the run, before cutting begins."""
    settle: ShareOrCount = 0.3
    """Steps, or share of the run, after cutting has ended."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Smoothing of the importance scores."""
    orthogonality: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty that keeps P and Q orthogonal."""

    @property
    def first_rank(self) -> int:
        """Rank of every update at the beginning."""
        return self.initial_rank or -(-3 * self.rank // 2)

    @model_validator(mode="after")
    def _something_to_cut(self) -> AdaLora:
        if self.first_rank <= self.rank:
            raise ValueError("leaves nothing to cut; set initial_rank above rank")
        return self


class ReLora(LowRank):
    """LoRA merged and begun anew again and again, with jagged warm-ups (arXiv:2307.05695)."""

    method: Literal["relora"]
    every: ShareOrCount = 0.25
    """Steps, or share of the run, between merges."""
    restart_warmup: ShareOrCount = 0.02
    """Steps, or share of the run, in which the rate rises again after a merge."""
    prune: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of Adam's moments (the smallest) set to 0 at a merge."""


class PLora(LowRank):
    """LoRA in stages: each ends merged into the backbone and the next begins anew (arXiv:2402.16141)."""

    method: Literal["plora"]
    stages: Annotated[int, Field(ge=2)] = 4
    """Number of stages of equal length."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of B carried into the next stage; a form of our own, the paper's could not be read."""


class LoraDrop(LowRank):
    """LoRA that keeps its own updates only where the output moves most (arXiv:2402.07721)."""

    method: Literal["lora_drop"]
    sample: ShareOrCount = 0.1
    """Steps, or share of the run, trained before the choice."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the importance that the kept layers must hold together."""
    rest: Literal["shared", "dropped"] = "shared"
    """The other layers share one update for each kind of linear layer, or have none."""


# --- activations --------------------------------------------------------------------------------------------


class Adapter(Tuned):
    """Small bottlenecks behind attention and feed-forward parts (Houlsby et al. 2019; Pfeiffer et al. 2020)."""

    method: Literal["adapter"]
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """Behind both parts of a layer (arXiv:1902.00751), or only behind the feed-forward (arXiv:2005.00052)."""
    reduction: Annotated[float, Field(ge=1)] = 16
    """The bottleneck is the hidden size divided by this."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """Between the two projections."""


class IA3(Tuned):
    """Learnt factors on keys, values and the feed-forward's inner values (arXiv:2205.05638)."""

    method: Literal["ia3"]
    targets: Literal["auto"] | tuple[str, ...] = "auto"
    """Linear layers whose outputs are scaled; auto takes keys, values and the feed-forward's last input."""


class Oft(Tuned):
    """Weights turned by learnt block rotations (arXiv:2306.07280)."""

    method: Literal["oft"]
    block: Annotated[int, Field(ge=2)] = 32
    """Size of a rotation."""
    targets: Targets = "all_linear"
    """Names of linear layers; all_linear is every one but the head."""


# --- prompts ------------------------------------------------------------------------------------------------


class Prefix(Tuned):
    """Learnt keys and values before those of the text, in each layer (Li & Liang 2021, arXiv:2101.00190)."""

    method: Literal["prefix"]
    length: Annotated[int, Field(ge=1)] = 20
    """Virtual tokens."""
    reparameterise: bool = True
    """Make them by a small network while training, which the paper needs to be stable."""
    hidden: Annotated[int, Field(ge=1)] = 512
    """Inner size of that network."""


class PTuningV2(Tuned):
    """Free learnt keys and values in each layer (Liu et al. 2022, arXiv:2110.07602)."""

    method: Literal["p_tuning_v2"]
    length: Annotated[int, Field(ge=1)] = 20
    """Virtual tokens."""
    init_text: str | None = None
    """Begin with the keys and values of this text."""


class Prompt(Tuned):
    """Learnt embeddings before the text (Lester et al. 2021, arXiv:2104.08691)."""

    method: Literal["prompt"]
    length: Annotated[int, Field(ge=1)] = 20
    """Virtual tokens."""
    init: Literal["vocabulary", "random", "text"] = "vocabulary"
    """Begin with embeddings of random tokens, random numbers, or those of init_text."""
    init_text: str | None = None
    """The text to begin with, repeated or cut to length."""

    @model_validator(mode="after")
    def _has_its_text(self) -> Prompt:
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError("has one of init: text and init_text; give both, or neither")
        return self


class PTuning(Tuned):
    """Learnt embeddings before the text, made by a small network (Liu et al. 2021, arXiv:2103.10385)."""

    method: Literal["p_tuning"]
    length: Annotated[int, Field(ge=1)] = 20
    """Virtual tokens."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network that makes them."""
    hidden: Annotated[int, Field(ge=1)] = 128
    """Its inner size."""


Tuning = Annotated[
    Full | Freeze | BitFit | LayerNorms | Lisa | GaLore
    | Lora | LoraFA | Vera | AdaLora | ReLora | PLora | LoraDrop
    | Adapter | IA3 | Oft
    | Prefix | PTuningV2 | Prompt | PTuning,
    Field(discriminator="method"),
]  # fmt: skip
TUNING_ALIASES: Mapping[str, Mapping[str, Any]] = {
    "rslora": {"method": "lora", "scaling": "rslora"},
    "dora": {"method": "lora", "variant": "dora"},
    "pissa": {"method": "lora", "init": "pissa"},
    "olora": {"method": "lora", "init": "olora"},
    "eva": {"method": "lora", "init": "eva"},
    "lora_plus": {"method": "lora", "lr_ratio": 16.0},
    "qlora": {"method": "lora", "base": "nf4"},
}
