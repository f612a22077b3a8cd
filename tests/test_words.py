"""A tokenizer put aside while a model trains: it is gone from memory meanwhile, and comes back as it was."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith import work as words
from tunesmith.data.template import ChatTemplate
from tunesmith.opened import tokenizer_of
from tunesmith.recipe import parse


def trained(base: Path, place: Path, **changes: Any) -> Path:
    values = {
        "model": str(base),
        "data": {"train": str(write_rows(place / "rows.jsonl", 6)), "validation": 2, "max_length": 256},
        "tuning": {"method": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "batch_tokens": 64},
        "budget": {"steps": 3},
        "compute": {"precision": "fp32"},
        "output": str(place / "run"),
    }
    return Path(run.train(parse({**values, **changes})).run)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if "token" in path.name}


# mutations tried: packed and kept open as well; taken out again before the steps; never put aside
def test_while_a_model_trains_its_tokenizer_is_not_in_memory_and_what_is_saved_is_the_same(
    tmp_path, monkeypatch
):
    base = make_model(tmp_path / "base")
    (tmp_path / "plain").mkdir()
    plain = files(trained(base, tmp_path / "plain") / "adapter")
    monkeypatch.setattr(words, "LEAST_PACKED", 0)
    seen: list[Any] = []
    alive: list[bool] = []
    found = words.Words.put_aside

    def noticed(self: words.Words) -> None:
        seen.append(weakref.ref(self.opened()[0]))
        found(self)

    from tunesmith.engine.step import Stepper

    take = Stepper.take

    def took(self: Stepper, *given: Any, **more: Any) -> Any:
        gc.collect()
        alive.append(seen[0]() is not None)
        return take(self, *given, **more)

    monkeypatch.setattr(words.Words, "put_aside", noticed)
    monkeypatch.setattr(Stepper, "take", took)
    (tmp_path / "aside").mkdir()
    assert files(trained(base, tmp_path / "aside") / "adapter") == plain
    assert alive == [False] * 3
    assert plain


def test_a_base_that_is_gone_when_it_is_trained_costs_nothing_of_it(tmp_path, monkeypatch):
    # mutation tried: opened again from its folder
    base = make_model(tmp_path / "base")
    monkeypatch.setattr(words, "LEAST_PACKED", 0)
    tokenizer = tokenizer_of(parse({"model": str(base), "data": {"train": "x"}}).model)
    ids, pad = tokenizer("hello there")["input_ids"], tokenizer.pad_token_id
    held = words.Words(tokenizer, ChatTemplate.of(tokenizer))
    prompt = held.opened()[1].prompt_text([{"role": "user", "content": "hello"}])
    held.put_aside()
    shutil.rmtree(base)
    again, template = held.opened()
    assert again is not tokenizer
    assert (again("hello there")["input_ids"], again.pad_token_id) == (ids, pad)
    assert template.prompt_text([{"role": "user", "content": "hello"}]) == prompt
    assert held.opened()[0] is again


@pytest.mark.parametrize("least", [0, 10**9])
def test_what_cannot_be_packed_or_is_small_stays_open(least, monkeypatch):
    # mutation tried: the error let out
    class Odd:
        choice = None

        def __len__(self) -> int:
            return 5

        def __reduce__(self) -> Any:
            raise TypeError("no pickles here")

    monkeypatch.setattr(words, "LEAST_PACKED", least)
    odd: Any = Odd()
    held = words.Words(odd, odd)
    held.put_aside()
    assert held.opened() == (odd, odd)
