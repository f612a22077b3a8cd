"""Unknown families: counted on their skeleton, run through their own forward, never seeing a neighbour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.folders import make_model
from tests.tiny import DENSE, random_samples, tiny_config
from tunesmith.data.loader import collate
from tunesmith.errors import ModelError
from tunesmith.model.facts import facts_from_config, read_facts
from tunesmith.model.forward import decoder_layers, learnt, own_forward
from tunesmith.model.load import load_model, without_dropout
from tunesmith.recipe import Freeze, Lora, Model
from tunesmith.tuning.build import build
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.method import Setting

UNKNOWN: dict[str, dict[str, Any]] = {
    "stablelm": {},  # hands attention no keywords
    "opt": {},  # linear layers outside the decoder layers, two position offsets
    "bloom": {"n_head": 4, "n_layer": 2},  # no attention interface, alibi
    "gptj": {"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4, "n_positions": 256},
    "phi3": {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
             "original_max_position_embeddings": 8},
}  # fmt: skip


def unknown(folder: Path, family: str) -> Model:
    config = tiny_config(family, **UNKNOWN[family])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return Model(path=str(folder))


# mutation tried: shortest=0.5 in _through_its_own_forward (padding is seen), the order of places left as it comes
@pytest.mark.parametrize("family", UNKNOWN)
def test_a_packed_batch_equals_each_document_alone(family: str, tmp_path: Path) -> None:
    model = unknown(tmp_path, family)
    facts = read_facts(model)
    assert facts.own_forward
    assert not facts.supported
    lm = load_model(model, "cpu", torch.float32)
    assert own_forward(lm)
    samples = list(random_samples(9, longest=12))
    found = learnt(lm, collate(samples, packing=True))
    found.summed_loss().backward()
    grads = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad()
    alone = []
    for sample in samples:
        logits = lm(torch.from_numpy(sample.input_ids).long()[None]).logits[0]
        labels = torch.from_numpy(sample.labels).long()
        losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
        losses.sum().backward()
        alone.append(losses.detach()[labels >= 0])
    torch.testing.assert_close(found.token_losses(), torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert grads
    for name, parameter in lm.named_parameters():
        if name in grads:
            assert (grads[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-6, name


@pytest.mark.parametrize("family", UNKNOWN)
@pytest.mark.parametrize(
    "tuning", [Lora(method="lora", rank=3), Freeze(method="freeze", last_layers=1)], ids=str
)
def test_what_trains_is_counted_exactly(family: str, tuning: Lora | Freeze, tmp_path: Path) -> None:
    model = unknown(tmp_path, family)
    facts = read_facts(model)
    lm = load_model(model, "cpu", torch.float32)
    assert facts.parameters == lm.num_parameters()
    assert build(tuning).prepare(lm, Setting()).trainable_count == trainable_parameters(tuning, facts)


@pytest.mark.parametrize("family", DENSE)
def test_the_table_counts_a_family_exactly_and_finds_its_layers(family: str) -> None:
    config = tiny_config(family)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    facts = facts_from_config(config.to_dict())
    assert dict(facts.named_parameters()) == {name: p.numel() for name, p in lm.named_parameters()}
    name, layers = decoder_layers(lm)
    assert facts.layer(0) == f"{name}.0"
    assert len(layers) == facts.layers


# ---- experts ----


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_a_mixture_of_experts_is_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="mixture of experts"):
        read_facts(Model(path=str(tmp_path)))


# ---- code that comes with the model ----

CONFIG = """
from transformers import PretrainedConfig
class TinyConfig(PretrainedConfig):
    model_type = "tiny_remote"
    def __init__(self, width=16, num_layers=2, padded_vocab_size=97, **rest):
        self.width, self.num_layers, self.padded_vocab_size = width, num_layers, padded_vocab_size
        super().__init__(**rest)
"""
MODEL = """
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from .configuration_tiny import TinyConfig
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix, self.out = nn.Linear(width, width), nn.Linear(width, width)
    def forward(self, x):
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return x + self.out(torch.relu(self.mix(mean)))
class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Block(config.width) for _ in range(config.num_layers))
class TinyForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TinyConfig
    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.padded_vocab_size, config.width)
        self.encoder = Encoder(config)
        self.output_layer = nn.Linear(config.width, config.padded_vocab_size, bias=False)
        self.post_init()
    def get_input_embeddings(self):
        return self.words
    def get_output_embeddings(self):
        return self.output_layer
    def forward(self, input_ids=None, **_):
        x = self.words(input_ids)
        for layer in self.encoder.layers:
            x = layer(x)
        return CausalLMOutput(logits=self.output_layer(x))
"""


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A folder as ChatGLM's or InternLM2's: Python files, named by auto_map."""
    width = 16
    shapes = {"words.weight": (97, width), "output_layer.weight": (97, width)}
    for layer in range(2):
        for name in ("mix", "out"):
            shapes |= {f"encoder.layers.{layer}.{name}.weight": (width, width)}
            shapes |= {f"encoder.layers.{layer}.{name}.bias": (width,)}
    torch.manual_seed(0)
    save_file(
        {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    (tmp_path / "configuration_tiny.py").write_text(CONFIG)
    (tmp_path / "modeling_tiny.py").write_text(MODEL)
    auto = {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
    }
    values = {"model_type": "tiny_remote", "auto_map": auto, "architectures": ["TinyForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_code_that_comes_with_a_model_is_refused_unless_asked_for(remote: Path) -> None:
    with pytest.raises(ModelError, match="trust_remote_code"):
        read_facts(Model(path=str(remote)))


def test_a_model_with_code_of_its_own_runs_through_it(remote: Path) -> None:
    model = Model(path=str(remote), trust_remote_code=True)
    facts = read_facts(model)
    assert (facts.layers, facts.vocab_size) == (2, 97)
    assert "code of its own" in str(facts.own_forward)
    lm = load_model(model, "cpu", torch.float32)
    assert facts.parameters == lm.num_parameters()
    samples = list(random_samples(5))
    losses = learnt(lm, collate(samples, packing=True)).token_losses()
    each = [learnt(lm, collate([sample], packing=True)).token_losses() for sample in samples]
    torch.testing.assert_close(losses, torch.cat(each))
    tuning = Lora(method="lora", rank=2)
    assert build(tuning).prepare(lm, Setting()).trainable_count == trainable_parameters(tuning, facts)


# ---- models that also see ----


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3"])
@pytest.mark.parametrize("old", [True, False])
def test_only_the_text_part_of_a_model_that_sees_is_loaded_and_that_is_said(
    family: str, old: bool, tmp_path: Path
) -> None:
    """mutation tried: TEXT_WEIGHTS without either spelling."""
    base = make_model(tmp_path / "text", family)
    seeing = tmp_path / "seeing"
    seeing.mkdir()
    text = json.loads((base / "config.json").read_text())
    outer = {
        "model_type": "gemma3" if family == "gemma3_text" else "llava",
        "text_config": text,
        "vision_config": {},
    }
    outer["architectures"] = ["Gemma3ForConditionalGeneration"]
    outer["tie_word_embeddings"] = text.get("tie_word_embeddings", True)
    (seeing / "config.json").write_text(json.dumps(outer))

    def renamed(name: str) -> str:
        inner = name.removeprefix("model.")
        if old:
            return f"language_model.{name}"
        return name if name == inner else f"model.language_model.{inner}"

    weights = {renamed(name): tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(
        weights | {"vision_tower.weight": torch.ones(3)}, seeing / "model.safetensors", {"format": "pt"}
    )
    facts = read_facts(Model(path=str(seeing)))
    assert facts.text_only
    assert facts.supported
    whole, part = (load_model(Model(path=str(folder)), "cpu", torch.float32) for folder in (base, seeing))
    assert facts.parameters == part.num_parameters()
    for (name, mine), other in zip(part.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_model_that_sees_whose_text_part_cannot_be_had_alone_is_refused(tmp_path: Path) -> None:
    values = {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="cannot be loaded by itself"):
        read_facts(Model(path=str(tmp_path)))


# ---- noise of the base's pre-training ----


RATES = (
    "attention_dropout", "residual_dropout", "hidden_dropout", "dropout", "activation_dropout", "attn_pdrop",
    "resid_pdrop", "embd_pdrop", "embed_dropout", "resid_dropout", "attn_dropout", "dropout_rate", "layerdrop",
    "attention_probs_dropout_prob", "hidden_dropout_prob",
)  # fmt: skip


@pytest.mark.parametrize("family", [*DENSE, "opt", "bloom", "persimmon"])
def test_a_base_that_was_trained_with_dropout_is_tuned_without(family: str) -> None:
    # mutation tried: without_dropout returning lm at once; the config left as it was
    config = tiny_config(family)
    rates = [name for name in RATES if isinstance(getattr(config, name, None), float | int)]
    noisy = tiny_config(family, **dict.fromkeys(rates, 0.4))
    lm = AutoModelForCausalLM.from_config(noisy, attn_implementation="eager").train()
    ids = torch.arange(3, 60).view(1, -1)

    def twice_the_same() -> bool:
        return torch.equal(lm(ids, use_cache=False).logits, lm(ids, use_cache=False).logits)

    assert not rates or not twice_the_same()
    assert without_dropout(lm) is lm
    assert twice_the_same()
    assert all(getattr(lm.config, name) == 0.4 for name in rates)  # what is saved is the base's
