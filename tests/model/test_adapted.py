"""A PEFT adapter that others made: its facts, its answers, and one plain model of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.data.records import Message
from tunesmith.errors import FolderError, ModelError
from tunesmith.model.adapted import is_adapter, read_adapter
from tunesmith.model.facts import read_facts
from tunesmith.opened import base_model, tokenizer_of
from tunesmith.plan.device import find_device
from tunesmith.recipe import Model, parse

IDS = [72, 73, 256, 80, 81, 82, 257, 65]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A LoRA as plain PEFT saves it, with weights that do something."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2
                )
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([IDS])).logits[0]


def reference(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))


def plain(model: Any) -> torch.Tensor:
    model.set_attn_implementation("sdpa")
    return logits(model)


def test_facts_are_those_of_the_base(base: Path, adapter: Path) -> None:
    facts = read_facts(Model(path=str(adapter)))
    assert facts.parameters == read_facts(Model(path=str(base))).parameters
    assert facts.name == str(adapter)


# mutation tried: base_model without the adapter differs by 1e0
def test_base_and_adapter_answer_as_in_plain_peft(base: Path, adapter: Path) -> None:
    expected = reference(base, adapter)
    merged = base_model(Model(path=str(adapter)), find_device(), "fp32", 0)
    torch.testing.assert_close(plain(merged), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(base)), expected, atol=1e-2)


def test_it_chats_with_the_tokenizer_of_its_base(adapter: Path) -> None:
    opened = run.open_model(adapter)
    assert isinstance(run.answer(opened, [Message("user", "hi")], max_new_tokens=2), str)
    assert len(tokenizer_of(Model(path=str(adapter)))) == len(opened.tokenizer)


def test_it_is_evaluated_against_its_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    from tunesmith.recipe import Task

    rows = write_rows(tmp_path / "rows.jsonl", 3)
    task = Task(name="say", kind="loss", path=str(rows))
    found = run.evaluate(adapter, tasks=[task], baseline=str(base))
    assert found["results"]["tasks"]["say"]["value"] != found["baseline_results"]["tasks"]["say"]["value"]


def test_it_is_merged_with_a_certificate(base: Path, adapter: Path) -> None:
    done = run.export(adapter, "merged")
    assert done["certificate"]["passed"] is True
    assert done["folder"] == str(adapter / "exports" / "merged")
    merged = AutoModelForCausalLM.from_pretrained(done["folder"])
    torch.testing.assert_close(logits(merged), reference(base, adapter), atol=1e-4, rtol=1e-4)
    with pytest.raises(FolderError, match="--to merged"):
        run.export(adapter, "adapter")


def test_it_is_trained_further(adapter: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    values = {
        "model": str(adapter), "data": {"train": str(rows), "validation": None, "max_length": 256},
        "tuning": {"method": "lora", "rank": 2}, "optim": {"lr": 1e-2, "batch_tokens": 64}, "budget": {"steps": 1},
        "compute": {"precision": "fp32"}, "output": str(tmp_path / "run"),
    }  # fmt: skip
    outcome = run.train(parse(values))
    assert outcome.status == "done"
    assert run.export(outcome.run, "merged")["certificate"]["passed"] is True


def rewrite(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
        ({"peft_type": "CPT"}, "CPT"),
        ({"base_model_name_or_path": "./nowhere"}, "no such folder"),
    ],
    ids=["no base", "an unknown kind", "base gone"],
)
def test_what_cannot_be_used_says_why(adapter: Path, changes: dict[str, Any], words: str) -> None:
    rewrite(adapter, **changes)
    with pytest.raises(ModelError, match=words):
        read_facts(Model(path=str(adapter)))


# mutation tried: PEFT's warning is not listened to; the adapter then answers like its base
def test_an_adapter_whose_weights_fit_nothing_is_refused(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    renamed = {name.replace("layers", "blocks"): tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file)
    with pytest.raises(ModelError, match="lacks weights that its config names"):
        run.open_model(adapter)


def test_pickled_adapters_are_never_loaded(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="never loaded"):
        read_adapter(Model(path=str(adapter)))


def test_an_adapter_of_itself_ends(adapter: Path) -> None:
    rewrite(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="leads back"):
        read_facts(Model(path=str(adapter)))


def test_a_broken_config_is_named(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    assert is_adapter(adapter)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        read_facts(Model(path=str(adapter)))
