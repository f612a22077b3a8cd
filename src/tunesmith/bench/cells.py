"""The cells in which the memory forecast is held against what a step allocates. Torch for unknown families alone.

family x method x length x recomputed layers x micro-batches, each small enough for any machine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.model.facts import ModelFacts, facts_from_config, read_facts
from tunesmith.model.families import FAMILIES
from tunesmith.plan.memory import Load, forecast_memory
from tunesmith.plan.peak import Memory
from tunesmith.recipe import Model, Tuning, parse

_WIDE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_WIDE, "vocab_size": 4096},
    "mistral": {**_GROUPED, "vocab_size": 8000},
    "qwen2": {**_GROUPED, "vocab_size": 24000, "tie_word_embeddings": True},
    "qwen3": {**_GROUPED, "vocab_size": 12000, "head_dim": 64},
    "gemma2": {**_GROUPED, "vocab_size": 16000, "head_dim": 32},
    "phi3": {**_GROUPED, "vocab_size": 4096, "pad_token_id": 0},
    "gpt2": {
        "n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": 2048, "vocab_size": 8000,
    },
    "olmo2": {**_GROUPED, "vocab_size": 8000},
    "granite": {**_GROUPED, "vocab_size": 4096},
    # two that no row of families.py describes: traced, run through their own forward
    "opt": {
        "hidden_size": 256, "ffn_dim": 1024, "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 4096,
        "word_embed_proj_dim": 256, "max_position_embeddings": 2048,
    },
    "stablelm": {**_WIDE, "num_key_value_heads": 8, "vocab_size": 4096},
}  # fmt: skip
LEARNT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: `tokens` a micro-batch in documents of `length`, half of each learnt."""

    family: str
    tuning: Mapping[str, Any] = field(default_factory=lambda: {"method": "lora"})
    tokens: int = 2048
    length: int = 128
    checkpointing: str | int = "off"
    micro_batches: int = 1
    optimizer: str = "adamw"
    bf16: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The model's config."""
        return {"model_type": self.family, **SHAPES[self.family]}

    @property
    def facts(self) -> ModelFacts:
        """What the config says."""
        if self.family in FAMILIES:
            return facts_from_config(self.config, name=self.family)
        return read_facts(Model(from_config=self.config, tokenizer="none"))

    @property
    def method(self) -> Tuning:
        """The tuning section."""
        return parse({"model": "m", "data": {"train": "t"}, "tuning": dict(self.tuning)}).tuning

    def load(self, device: Any) -> Load:
        """What the forecast is made from."""
        return Load(
            facts=self.facts, tuning=self.method, device=device, bf16=self.bf16, frozen_bytes=2 if self.bf16 else 4,
            checkpointing=self.checkpointing, tokens=self.tokens,  # type: ignore[arg-type]
            targets=round(self.tokens * LEARNT_SHARE), accumulates=self.micro_batches > 1, slack=1.0,
            length=float(self.length), optimizer=self.optimizer,
        )  # fmt: skip

    def forecast(self, device: Any) -> Memory:
        """Of a step; these cells do not evaluate."""
        return forecast_memory(self.load(device), whole_run=False)

    def to_json(self) -> dict[str, Any]:
        """As one process tells another."""
        return {**asdict(self), "tuning": dict(self.tuning)}


_FULL, _FREEZE = {"method": "full"}, {"method": "freeze", "last_layers": 2}
MATRIX: tuple[Cell, ...] = (
    Cell("llama", _FULL), Cell("llama", _FULL, checkpointing="full"), Cell("llama", _FULL, checkpointing=3),
    Cell("llama"), Cell("llama", checkpointing="full"), Cell("llama", checkpointing=2, micro_batches=2),
    Cell("llama", length=1024), Cell("llama", tokens=8192), Cell("llama", _FREEZE, tokens=4096),
    Cell("mistral", _FULL, micro_batches=2), Cell("mistral", _FREEZE, checkpointing="full"),
    Cell("mistral", {"method": "qlora"}), Cell("mistral", {"method": "lora", "rank": 64}, length=512),
    Cell("qwen2", _FULL), Cell("qwen2", _FULL, optimizer="adamw_8bit"), Cell("qwen2", micro_batches=2),
    Cell("qwen2", checkpointing="full", length=512), Cell("qwen2", {"method": "prefix"}),
    Cell("qwen3", _FULL, tokens=1024, length=64), Cell("qwen3"), Cell("qwen3", {"method": "dora"}),
    Cell("qwen3", {"method": "adalora"}), Cell("qwen3", {"method": "adapter"}, checkpointing=4),
    Cell("qwen3", bf16=True, tokens=1024), Cell("gemma2", _FULL), Cell("gemma2"), Cell("phi3", length=256),
    Cell("phi3", _FULL), Cell("gpt2", _FULL), Cell("gpt2"), Cell("olmo2", _FULL), Cell("olmo2", checkpointing=3),
    Cell("granite"), Cell("granite", {"method": "p_tuning_v2"}), Cell("llama", {"method": "vera"}),
    Cell("llama", {"method": "relora"}), Cell("opt"), Cell("opt", _FULL, tokens=1024), Cell("stablelm", _FREEZE),
)  # fmt: skip
