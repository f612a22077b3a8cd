"""A run that would leave the template's tokens untrained is refused before a weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.errors import RecipeError
from tunesmith.model.rows import read_tables
from tunesmith.recipe import Recipe, parse

STOP, START = 256, 257  # ChatML's tokens in the byte tokenizer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model whose ChatML rows nobody has trained, and that says so: its EOS and padding are others."""
    folder = make_model(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name][[START, STOP]] = 1e-9
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = (folder / "config.json").read_text()
    for kind in ("eos", "pad"):
        config = config.replace(f'"{kind}_token_id": {STOP}', f'"{kind}_token_id": 0')
    (folder / "config.json").write_text(config)
    make_model(tmp_path / "chat")
    return folder


def recipe(base: Path, **changes: Any) -> Recipe:
    rows = write_rows(base.parent / "rows.jsonl", 4)
    values: dict[str, Any] = {
        "model": {"path": str(base), "tokenizer": str(base.parent / "chat")},
        "data": {"train": str(rows), "validation": None, "max_length": 256, **changes.pop("data", {})},
        "budget": {"steps": 1},
        "output": str(base.parent / "run"),
    }
    return parse({**values, **changes})


# mutation tried: the refusal is left out.
@pytest.mark.parametrize("method", ["lora", "bitfit", "freeze", "prefix"])
def test_a_method_that_leaves_untrained_tokens_frozen_is_refused(
    base: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.work.base_model", None)  # no weight may be loaded
    tuning = {"method": method, **({"add_biases": True} if method == "bitfit" else {})}
    with pytest.raises(RecipeError, match=r"<\|im_end\|>, <\|im_start\|>") as caught:
        run.train(recipe(base, tuning=tuning))
    (problem,) = caught.value.problems
    assert problem.where == "tuning.method"
    assert "data.template: plain" in problem.fix
    assert "tuning.also_train: [embed_tokens, lm_head]" in problem.fix
    assert not (base.parent / "run").exists()


def test_what_a_method_trains_itself_is_no_hindrance(base: Path) -> None:
    both = ["embed_tokens", "lm_head"]
    assert run.prepare(recipe(base, tuning={"method": "full"})).facts.new_tokens == (STOP, START)
    assert run.prepare(recipe(base, tuning={"method": "lora", "also_train": both}))
    assert run.prepare(recipe(base, tuning={"method": "lisa"}))
    with pytest.raises(RecipeError, match=r"learnt: <\|im_end\|> \("):  # the head alone is left
        run.prepare(recipe(base, tuning={"method": "lora", "also_train": ["embed_tokens"]}))


def test_only_the_rows_of_new_tokens_train_where_asked(base: Path) -> None:
    tuning = {"method": "lora", "rank": 4, "also_train": ["embed_tokens", "lm_head"], "new_tokens_only": True}
    work = run.prepare(recipe(base, tuning=tuning))
    assert work.facts.new_tokens == (STOP, START)
    trained = make_model(base.parent / "trained")
    with pytest.raises(RecipeError, match="has learnt every added token"):
        run.prepare(recipe(base, tuning=tuning, model=str(trained)))


def test_a_template_without_those_tokens_is_no_hindrance(base: Path) -> None:
    file = base.parent / "words.jinja"
    file.write_text(
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt }}"
    )
    lora = {"method": "lora"}
    # the chat tokenizer's EOS is <|im_end|>: plain stops with it, and the base has not learnt it
    with pytest.raises(RecipeError, match=r"learnt: <\|im_end\|> \(") as caught:
        run.prepare(recipe(base, tuning=lora, data={"template": "plain"}))
    assert "plain" not in caught.value.problems[0].fix
    own = {"path": str(base)}  # the base's own EOS, however little it has seen of it, is all that it has
    assert run.prepare(recipe(base, model=own, tuning=lora, data={"template": "plain"}))
    assert run.prepare(recipe(base, model=own, tuning=lora, data={"template": str(file)}))


def test_a_trained_or_a_fresh_model_is_not_refused(base: Path) -> None:
    assert run.prepare(recipe(base, model=str(make_model(base.parent / "fresh")), tuning={"method": "lora"}))


def test_rows_that_a_run_trained_are_known_to_a_run_that_starts_from_it(base: Path) -> None:
    done = run.train(recipe(base, tuning={"method": "full"}, optim={"lr": 0.05}))
    trained = load_file(Path(done.run) / "model" / "model.safetensors")["model.embed_tokens.weight"]
    assert float(torch.linalg.norm(trained[START])) > 1e-2
    again = recipe(base, model=done.run, tuning={"method": "lora"}, output=str(base.parent / "next"))
    assert START not in run.prepare(again).facts.new_tokens


# mutation tried: the second look, after loading, is left out.
def test_weights_that_come_from_the_hub_are_looked_at_once_they_are_here(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def tables(model: Any) -> Any:
        seen.append(model)
        return None if len(seen) == 1 else read_tables(model)

    monkeypatch.setattr("tunesmith.tuning.untrained.read_tables", tables)
    with pytest.raises(RecipeError, match="has never learnt"):
        run.train(recipe(base, tuning={"method": "lora"}))
    assert len(seen) == 2
