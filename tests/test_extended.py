"""A model with more tokens: old rows bit for bit, new rows the mean; it, and what trains on it, load with no flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.data.test_vocabulary import TEXT
from tests.folders import make_model, write_rows
from tests.tiny import tiny_model
from tunesmith import run
from tunesmith.errors import FolderError
from tunesmith.events import Silent
from tunesmith.extended import extend, learn_ahead
from tunesmith.folder import RunFolder, read_json
from tunesmith.model.facts import read_facts
from tunesmith.model.new_rows import add_rows
from tunesmith.recipe import Model, Vocabulary, parse


@pytest.fixture(scope="module", autouse=True)
def soon_measured():
    """Speeds are told from a few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunesmith.extended.MEASURED_TOKENS", 8)
        patch.setattr("tunesmith.extended.REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ (untied), text.txt, rows.jsonl, extended/."""
    place = tmp_path_factory.mktemp("extended")
    make_model(place / "base")
    write_rows(place / "rows.jsonl", 12)
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    extend(section(place), Model(path=str(place / "base")), place / "extended")
    return place


def section(place: Path, **options: object) -> Vocabulary:
    return Vocabulary(data=str(place / "text.txt"), min_count=5, tokens=24, **options)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_old_rows_stay_and_new_rows_are_the_mean_of_what_they_replace(family: str, tied: bool):
    # mutation tried: the head left as resize made it
    lm = tiny_model(family, tie_word_embeddings=tied)
    lm.set_attn_implementation("sdpa")
    before = {n: t.clone() for n, t in lm.state_dict().items()}
    rows = add_rows(lm, [(3, 4), (5,), (7, 8, 9)], 97, "mean", 0, 8)
    assert rows == 104
    after = lm.state_dict()
    for name, old in before.items():
        assert torch.equal(after[name][: len(old)], old), name
        if len(after[name]) > len(old):
            exact = old.float()
            torch.testing.assert_close(after[name][97], exact[[3, 4]].mean(0))
            torch.testing.assert_close(after[name][99], exact[[7, 8, 9]].mean(0))
            torch.testing.assert_close(after[name][100], exact.mean(0))
    assert lm.config.vocab_size == 104
    ids = torch.tensor([[3, 97, 98, 99]])
    assert lm(ids).logits.shape[-1] == 104


def test_spare_rows_are_used_first_and_a_tokenizer_longer_than_the_table_gets_its_rows():
    lm = tiny_model(vocab_size=96)
    old = lm.get_input_embeddings().weight.detach().clone()
    assert add_rows(lm, [(3, 4)], 90, "mean", 0, 8) == 96
    assert torch.equal(lm.get_input_embeddings().weight[91:], old[91:])
    assert add_rows(lm, [(3, 4)], 100, "mean", 0, 8) == 104
    torch.testing.assert_close(
        lm.get_input_embeddings().weight[98], lm.get_input_embeddings().weight[:96].mean(0)
    )


def test_random_rows_are_those_of_the_seed():
    def drawn(seed: int) -> torch.Tensor:
        lm = tiny_model()
        add_rows(lm, [(3, 4)], 97, "random", seed, 1)
        return lm.get_input_embeddings().weight[97].detach()

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_old_tokens_mean_what_they_meant(folder: Path):
    base, new = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("base", "extended"))
    ids = AutoTokenizer.from_pretrained(folder / "base")("say 1 xyz", return_tensors="pt").input_ids
    with torch.inference_mode():
        one, other = base(ids).logits, new(ids).logits
    assert torch.equal(one, other[..., : one.shape[-1]])
    told = read_json(folder / "extended" / "vocabulary.json")
    assert told["summary"]["after"] < told["summary"]["before"]
    assert told["summary"]["characters_a_second"]["after"] > 0
    assert [token["id"] for token in told["new"]] == list(range(258, 282))
    assert all("".join(chr(0) for _ in token["of"]) for token in told["new"])


@pytest.mark.parametrize("only_new", [True, False])
def test_an_adapter_with_its_tables_and_its_merge_load_with_no_flags(
    folder: Path, tmp_path: Path, only_new: bool
):
    from peft import AutoPeftModelForCausalLM

    rows = folder / "text.txt"
    recipe = parse(
        {
            "model": str(folder / "extended"),
            "data": {"train": str(rows), "validation": None, "max_length": 64},
            "objective": "pretrain",
            "tuning": {
                "method": "lora", "rank": 4, "also_train": ["embed_tokens", "lm_head"], "new_tokens_only": only_new,
            },
            "optim": {"lr": 1e-2, "batch_tokens": 256},
            "budget": {"steps": 3},
            "compute": {"precision": "fp32"},
            "output": str(tmp_path / "run"),
        }
    )  # fmt: skip
    done = RunFolder(Path(run.train(recipe).run))
    opened = run.open_model(done.path)
    words = opened.tokenizer("孙悟空道：师父莫怕 order", return_tensors="pt").input_ids
    assert words.max() >= 258  # new tokens are met
    opened.model.get_base_model().set_attn_implementation("sdpa")
    adapter = AutoPeftModelForCausalLM.from_pretrained(done.adapter)
    merged = AutoModelForCausalLM.from_pretrained(run.export(done.path, "merged")["folder"])
    again = AutoTokenizer.from_pretrained(done.export("merged"))
    with torch.inference_mode():
        ours = opened.model(words).logits
        torch.testing.assert_close(adapter(words).logits, ours, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(merged(words).logits, ours, atol=1e-4, rtol=1e-4)
    assert again("孙悟空道：师父莫怕 order").input_ids == words[0].tolist()
    base = load_file(folder / "extended" / "model.safetensors")["model.embed_tokens.weight"]
    moved = (merged.get_input_embeddings().weight - base).abs().sum(1) > 0
    assert moved[258:282].any()
    assert bool(moved[:258].any()) is not only_new


def test_what_is_forecast_of_the_vocabulary_is_what_comes(folder: Path):
    tokenizer, facts = (
        AutoTokenizer.from_pretrained(folder / "base"),
        read_facts(Model(path=str(folder / "base"))),
    )
    again, ahead = learn_ahead(section(folder), tokenizer, facts, Silent())
    real = read_facts(Model(path=str(folder / "extended")))
    assert (ahead.vocab_size, ahead.parameters) == (real.vocab_size, real.parameters)
    assert again.get_vocab() == AutoTokenizer.from_pretrained(folder / "extended").get_vocab()
    assert ahead.new_tokens == tuple(range(258, 282))


def test_a_folder_of_something_else_is_left_alone(folder: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(FolderError):
        extend(section(folder), Model(path=str(folder / "base")), tmp_path)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.timeout(600)
def test_vocabulary_pretraining_and_sft_are_one_recipe(folder: Path, tmp_path: Path):
    values = {
        "model": str(folder / "base"),
        "data": {"max_length": 64, "validation": 3},
        "optim": {"lr": 1e-2, "batch_tokens": 256},
        "compute": {"precision": "fp32"},
        "evaluation": {"probes": ["say 1"]},
        "output": str(tmp_path / "run"),
        "stages": [
            {"vocabulary": {"tokens": 24, "min_count": 5}},
            {
                "objective": "pretrain",
                "data": {"train": [str(folder / "text.txt"), str(folder / "rows.jsonl")]},
                "tuning": {
                    "method": "lora", "rank": 4, "also_train": ["embed_tokens", "lm_head"], "new_tokens_only": True,
                },
                "budget": {"steps": 3},
            },
            {
                "data": {"train": str(folder / "rows.jsonl")},
                "tuning": {"method": "lora", "rank": 4}, "budget": {"steps": 2},
            },
        ],
    }  # fmt: skip
    recipe = parse(values)
    forecast = run.plan(recipe)
    assert forecast["stages"][0] == {"name": "vocabulary", "kind": "vocabulary", "new_tokens": 24}
    outcome = run.train(recipe, stop_after=3)
    assert outcome.status == "interrupted"
    outcome = run.train(recipe, resume=True)
    whole = RunFolder(Path(outcome.run))
    report = read_json(whole.report)
    assert (outcome.status, outcome.steps) == ("done", 5)
    assert report["stages"][0]["vocabulary"]["new_tokens"] == 24
    for planned, stage in zip(forecast["stages"][1:], whole.stages[1:]):
        assert read_json(stage.plan)["parameters"] == planned["plan"]["parameters"]
        assert read_json(stage.plan)["run"]["targets"] == planned["plan"]["run"]["targets"]
    assert report["before"]["heldout"]["bits_per_byte"] > 0  # of the model as it came, in its own tokens
    assert "new tokens" in whole.report_text.read_text(encoding="utf-8")
    assert json.loads((whole.stages[0].path / "vocabulary.json").read_text())["model"] == str(folder / "base")
    assert run.export(whole.path, "merged")["certificate"]["passed"] is True
