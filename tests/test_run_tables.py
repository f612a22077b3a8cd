"""Embedding and head in few bits the whole way: train, resume, answer as trained, hand over the tables of the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.folders import make_model
from tests.test_run import logits, recipe
from tests.test_run_quantised import IDS, _answers
from tunesmith import run
from tunesmith.errors import RecipeError
from tunesmith.folder import RunFolder
from tunesmith.model.tables import HeldEmbedding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), hidden_size=64, intermediate_size=128, head_dim=16)


@pytest.fixture(scope="module", params=[("lora", 8), ("qlora", 4)], ids=str)
def trained(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted and resumed."""
    method, bits = request.param
    tuning = {"method": method, "rank": 4, "tables": bits}
    asked = recipe(model, tmp_path_factory.mktemp("trained"), tuning=tuning)
    run.train(asked, stop_after=2)
    return Path(run.train(asked, resume=True).run)


def test_it_answers_as_it_was_trained(trained: Path, model: Path) -> None:
    opened = run.open_model(trained)
    assert isinstance(opened.model.get_base_model().get_input_embeddings(), HeldEmbedding)
    assert _answers(opened.model).isfinite().all()


# mutation tried: tables as they were in training at `open`
def test_what_is_handed_over_has_the_tables_of_the_base_and_says_so(trained: Path, model: Path) -> None:
    found = run.export(trained, "merged")["certificate"]
    assert found["passed"]
    assert found["tables"]["merged"] == "original"
    assert found["against_as_trained"]["max_abs_logit_difference"] > 10 * found["max_abs_logit_difference"]
    folder = RunFolder(trained).export("merged")
    before, after = (load_file(path / "model.safetensors") for path in (model, folder))
    tables = [name for name in before if "embed_tokens" in name or "lm_head" in name]
    assert tables
    assert all(torch.equal(before[name].float(), after[name].float()) for name in tables)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    # the same update, on tables that are a little different
    apart = (logits(plain, IDS) - _answers(run.open_model(trained).model)).norm()
    assert 0 < apart < 0.5 * logits(plain, IDS).norm()


def test_the_adapter_by_itself_is_handed_over_as_ever(trained: Path) -> None:
    assert run.export(trained, "adapter")["certificate"]["passed"]


def test_tables_that_train_are_refused_before_a_weight_loads(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="round back"):
        run.train(recipe(model, tmp_path, tuning={"method": "full", "tables": 8}))
