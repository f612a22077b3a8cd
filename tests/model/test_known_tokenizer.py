"""What a plan needs of tokenizer and model is kept: the next one asks neither transformers nor torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_config
from tunesmith import bundled, run
from tunesmith.data.fingerprint import hash_tokenizer
from tunesmith.data.template import ChatTemplate
from tunesmith.model.known_tokenizer import keep_tokenizer, recall_tokenizer
from tunesmith.model.load import load_tokenizer
from tunesmith.recipe import Model, parse


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


def copied(place: Path) -> Path:
    place.mkdir()
    for file in bundled.path("model").iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, place)
    return place


def test_what_is_kept_says_what_transformers_says(tmp_path: Path) -> None:
    model = Model(path=str(copied(tmp_path / "model")))
    assert recall_tokenizer(model) is None
    said = load_tokenizer(model)
    keep_tokenizer(model, said)
    known = recall_tokenizer(model)
    assert known is not None
    assert hash_tokenizer(known) == hash_tokenizer(said)  # type: ignore[arg-type]
    assert len(known) == len(said)
    assert known.get_added_vocab() == said.get_added_vocab()
    assert known.convert_ids_to_tokens([0, 300]) == said.convert_ids_to_tokens([0, 300])
    assert known("Hi there.").input_ids == said("Hi there.").input_ids
    for choice in ("auto", "plain"):
        ours, theirs = ChatTemplate.of(known, choice), ChatTemplate.of(said, choice)  # type: ignore[arg-type]
        assert (ours.name, ours.source, ours.stop_ids) == (theirs.name, theirs.source, theirs.stop_ids)
        assert ours.document_ids("Some text.") == theirs.document_ids("Some text.")


# mutation tried: _place without the files' content
def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    folder = copied(tmp_path / "model")
    model = Model(path=str(folder))
    keep_tokenizer(model, load_tokenizer(model))
    assert recall_tokenizer(model) is not None
    (folder / "chat_template.jinja").write_text("another")
    assert recall_tokenizer(model) is None
    assert recall_tokenizer(model.model_copy(update={"trust_remote_code": True})) is None


_SECOND = """
import json, sys
from tunesmith import run
from tunesmith.recipe import parse
plan = run.plan(parse(json.loads(sys.argv[1])))
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers"})
print(json.dumps([heavy, plan["memory"]["allocated_bytes"], plan["advice"]]))
"""


# mutation tried: recall answers None, for facts and for the tokenizer
@pytest.mark.parametrize("family", [None, "opt"])
def test_the_second_plan_of_a_recipe_starts_neither_torch_nor_transformers(
    tmp_path: Path, family: str | None
) -> None:
    folder = bundled.path("model")
    if family:
        folder = copied(tmp_path / "model")
        shape = {"ffn_dim": 96, "word_embed_proj_dim": 32, "vocab_size": 4096}
        config = tiny_config(family, **shape).to_dict()  # type: ignore[attr-defined]
        (folder / "config.json").write_text(json.dumps(config))
    values = {
        "model": str(folder),
        "data": {"train": str(bundled.path("data") / "notes.jsonl")},
        "budget": {"steps": 20},
        "output": str(tmp_path / "run"),
    }
    first = run.plan(parse(values))
    done = subprocess.run(
        [sys.executable, "-c", _SECOND, json.dumps(values)], capture_output=True, text=True, check=True
    )
    heavy, allocated, advice = json.loads(done.stdout)
    assert heavy == []
    assert allocated == first["memory"]["allocated_bytes"]
    assert advice == json.loads(json.dumps(first["advice"]))
