"""Determinism: the same recipe, seed and machine give the same bits, twice, from data to adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.test_signals import adapter, model, recipe, whole  # noqa: F401 (fixtures)
from tunesmith import run
from tunesmith.engine.checkpoint import read
from tunesmith.engine.world import random_state, seed_everything, set_random_state
from tunesmith.folder import RunFolder


def test_the_same_recipe_gives_the_same_bits_twice(model: Path, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    again = Path(run.train(recipe(model, tmp_path)).run)
    assert (again / "adapter/adapter_model.safetensors").read_bytes() == (
        whole / "adapter/adapter_model.safetensors"
    ).read_bytes()
    one, other = (read(RunFolder(folder).checkpoints / "step-00000003") for folder in (again, whole))
    for key, tensor in one.optimizer.items():
        assert torch.equal(tensor, other.optimizer[key]), key


def test_another_seed_gives_other_bits(model: Path, whole: Path, tmp_path: Path) -> None:  # noqa: F811
    other = recipe(model, tmp_path).model_copy(update={"seed": 1})
    found = adapter(Path(run.train(other).run))
    assert not all(torch.equal(found[name], tensor) for name, tensor in adapter(whole).items())


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_switch_sets_all_that_a_card_needs(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        try:
            seed_everything(3, deterministic)
            assert torch.are_deterministic_algorithms_enabled() is deterministic
            assert torch.backends.cudnn.deterministic is deterministic
            assert torch.backends.cudnn.benchmark is False
            assert (os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8") is deterministic
        finally:
            torch.use_deterministic_algorithms(before)


def test_the_state_of_the_generators_is_all_that_a_draw_depends_on() -> None:
    with torch.random.fork_rng():
        state = random_state()
        first = torch.rand(3)
        set_random_state(state)
        assert torch.equal(torch.rand(3), first)
    assert set(state) == ({"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"})
