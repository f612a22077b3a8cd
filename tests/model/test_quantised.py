"""A base held in 4 bits: which layers, from which numbers, how many bytes, and back to plain layers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from tests.folders import make_model
from tests.tiny import random_samples, tiny_model
from tests.tuning.steps import BATCH, gradients, logits
from tunesmith.data.loader import collate
from tunesmith.errors import ModelError
from tunesmith.model.facts import read_facts
from tunesmith.model.forward import decoder_layers
from tunesmith.model.load import checkpoint_layers, load_model
from tunesmith.model.quantised import Held, dense_weight, finite, has_quantised, hold, is_quantised, widen
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Lora, Model
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "phi", "gpt2")
NF4 = Held("nf4")


def quantised_names(lm):
    return {name for name, module in lm.named_modules() if is_quantised(module)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoders_linear_layers_are_held_in_four_bits_and_nothing_else(family):
    # mutation tried: the head too
    from bitsandbytes.nn import Linear4bit, Params4bit

    lm = tiny_model(family)
    inside = {
        f"{decoder_layers(lm)[0]}.{name}"
        for name, module in decoder_layers(lm)[1].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    before = {name: p.clone() for name, p in lm.named_parameters()}
    hold(lm, NF4)
    assert quantised_names(lm) == inside
    for name in inside:
        assert isinstance(lm.get_submodule(name), Linear4bit)
        assert isinstance(lm.get_submodule(name).weight, Params4bit)
    for name, parameter in lm.named_parameters():
        if name.removesuffix(".weight") not in inside:
            assert torch.equal(parameter, before[name]), name
            assert parameter.is_floating_point()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_folder_loads_into_four_bits_as_a_model_is_quantised_where_it_stands(tmp_path, family, kind):
    held = Held(kind, double_quant=kind == "nf4")
    lm = tiny_model(family)
    lm.save_pretrained(tmp_path)
    loaded = load_model(Model(path=str(tmp_path)), "cpu", torch.float32, held=held)
    hold(lm, held)
    assert quantised_names(loaded) == quantised_names(lm)
    assert torch.equal(logits(loaded), logits(lm))
    assert torch.equal(logits(widen(loaded)), logits(lm))
    assert not has_quantised(loaded)


def test_the_numbers_do_not_depend_on_the_precision_of_the_run(tmp_path):
    """Training in bf16 and export in fp32 must speak of one base, though the file is fp32."""
    # mutation tried: dtype=dtype at loading, so that bf16 rounds before quantising
    tiny_model().save_pretrained(tmp_path)
    wide, narrow = (
        load_model(Model(path=str(tmp_path)), "cpu", dtype, held=NF4)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for name in quantised_names(wide):
        one, other = wide.get_submodule(name), narrow.get_submodule(name)
        assert torch.equal(one.weight.data, other.weight.data)
        assert torch.equal(dense_weight(one), dense_weight(other))
    assert narrow.model.embed_tokens.weight.dtype == torch.bfloat16


def test_what_also_trains_stays_wide(tmp_path):
    # mutation tried: `wide` ignored by wide_names
    held = Held("nf4", True, ("layers.1.mlp", "o_proj", "lm_head"))
    tiny_model().save_pretrained(tmp_path)
    for lm in (
        hold(tiny_model(), held),
        load_model(Model(path=str(tmp_path)), "cpu", torch.float32, held=held),
    ):
        names = quantised_names(lm)
        assert not any("layers.1.mlp" in name or "o_proj" in name for name in names)
        assert "model.layers.0.mlp.up_proj" in names
        assert len(names) == 14 - 3 - 2


@pytest.mark.parametrize(("double_quant", "expected"), [(True, 0.516), (False, 0.5625)])
def test_bytes_a_weight(double_quant, expected):
    lm = hold(tiny_model(hidden_size=256, intermediate_size=512, head_dim=64), Held("nf4", double_quant))
    weights = held = 0
    for name in quantised_names(lm):
        weight = lm.get_submodule(name).weight
        state = weight.quant_state
        scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
        held += sum(t.numel() * t.element_size() for t in (weight.data, *scales))
        weights += state.shape[0] * state.shape[1]
    assert held / weights == pytest.approx(expected, abs=2e-3)


def test_a_model_in_plain_layers_again_saves_and_loads_in_plain_transformers(tmp_path):
    make_model(tmp_path / "base", "gpt2")
    lm = load_model(Model(path=str(tmp_path / "base")), "cpu", torch.float32, held=NF4)
    expected = logits(lm)
    widen(lm).save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert isinstance(lm.transformer.h[0].mlp.c_fc, Conv1D)
    again = load_model(Model(path=str(tmp_path / "plain")), "cpu", torch.float32)
    assert torch.equal(logits(again), expected)
    AutoModelForCausalLM.from_pretrained(tmp_path / "plain")


def test_casting_and_moving_leave_the_codes_alone():
    lm = hold(tiny_model("phi"), NF4)
    before = {name: dense_weight(lm.get_submodule(name)) for name in quantised_names(lm)}
    lm.to(torch.bfloat16).to("cpu").float()
    for name, weight in before.items():
        assert torch.equal(dense_weight(lm.get_submodule(name)), weight)


def test_dense_weight_looks_inside_pefts_layer():
    lm = hold(tiny_model(), NF4)
    plain = dense_weight(lm.model.layers[0].mlp.up_proj)
    tuned = build(Lora(method="lora", rank=2)).prepare(lm, Setting())
    wrapped = tuned.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    assert is_quantised(wrapped)
    assert torch.equal(dense_weight(wrapped), plain)
    assert dense_weight(wrapped, torch.bfloat16).dtype == torch.bfloat16
    head = tuned.model.get_submodule("base_model.model.lm_head")
    assert dense_weight(head).data_ptr() == head.weight.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_have_gradients_and_those_of_the_dense_twin(family):
    tuning = build(Lora(method="lora", rank=3))
    held = tuning.prepare(hold(tiny_model(family), NF4), Setting())
    dense = tuning.prepare(widen(hold(tiny_model(family), NF4)), Setting())
    for tuned in (held, dense):
        for name, parameter in tuned.trainable.items():
            if "lora_B" in name:
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter.data.normal_(0, 0.1, generator=generator)
    ours, theirs = gradients(held), gradients(dense)
    assert all("lora_" in name for name in ours)
    assert all(p.grad is None for name, p in held.model.named_parameters() if "lora_" not in name)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-9, name


def test_packing_and_checkpointing_change_nothing():
    def run(packing, checkpointing):
        torch.manual_seed(0)
        tuned = build(Lora(method="lora", rank=3)).prepare(hold(tiny_model(), NF4), Setting())
        for name, parameter in tuned.trainable.items():
            if "lora_B" in name:
                parameter.data.fill_(0.01)
        if checkpointing:
            checkpoint_layers(tuned.model.get_base_model())
        tuned.model.train()
        batch = BATCH if packing else collate(list(random_samples(5)), packing=False)
        loss = summed_loss(tuned.model, batch)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in tuned.trainable.values())]

    plain = run(packing=False, checkpointing=False)
    for other in (run(packing=True, checkpointing=False), run(packing=True, checkpointing=True)):
        for mine, its in zip(plain, other):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_a_folder_in_four_bits_is_taken_as_it_is(tmp_path):
    make_model(tmp_path / "base")
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=quantisation, device_map={"": "cpu"}
    ).save_pretrained(tmp_path / "held")
    assert read_facts(Model(path=str(tmp_path / "held"))).stored == "nf4"
    assert read_facts(Model(path=str(tmp_path / "base"))).stored is None
    found = load_model(Model(path=str(tmp_path / "held")), "cpu", torch.float32, held=NF4)
    made = load_model(
        Model(path=str(tmp_path / "base")), "cpu", torch.float32, held=Held("nf4", double_quant=False)
    )
    assert torch.equal(logits(found), logits(made))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "int4"),
        ("yes", "no JSON object"),
    ],
)
def test_other_stored_forms_are_refused_with_the_way_out(tmp_path, config, said):
    file = make_model(tmp_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))
    with pytest.raises(ModelError, match=said):
        read_facts(Model(path=str(tmp_path)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("double_quant", [True, False])
def test_weights_that_are_not_finite_are_found_in_four_bits_too(tmp_path, bad, double_quant):
    # mutation tried: only the first scales looked at, which double quantisation holds as codes
    file = make_model(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj.*finite"):
        load_model(Model(path=str(tmp_path)), "cpu", torch.float32, held=Held("nf4", double_quant))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        own = {x.data_ptr() for x in args if isinstance(x, torch.Tensor)}
        self.numbers = max([self.numbers, *(x.numel() for x in made if x.data_ptr() not in own)])
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_looked_through_without_another_of_its_size(dtype):
    # mutation tried: torch.isfinite(weight).all(), which took 420 MiB more than the model to load a vocabulary of 152k
    weight = torch.randn(300, 40).to(dtype)
    with Largest() as largest:
        assert finite(weight)
    assert largest.numbers <= 2
    for bad in (torch.nan, torch.inf, -torch.inf):
        for place in ((0, 0), (151, 7), (299, 39)):
            other = weight.clone()
            other[place] = bad
            assert not finite(other)
    assert finite(torch.zeros(0))
