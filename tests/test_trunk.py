"""A run whose frozen layers are computed once: the same losses and weights, and nothing in its way that ends it."""

from __future__ import annotations

import functools
import multiprocessing
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.kills import PRELOADED, differences, outcome
from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith import trunk as above
from tunesmith.data import cache, states
from tunesmith.engine import faults
from tunesmith.errors import DiskFullError, RecipeError
from tunesmith.events import read
from tunesmith.folder import RunFolder, read_json
from tunesmith.recipe import Recipe, parse
from tunesmith.trunk import Kept, keep_trunk
from tunesmith.work import base_of, tune

FREEZE: dict[str, Any] = {"method": "freeze", "last_layers": 1}
UPPER = {"method": "lora", "rank": 2, "targets": ["layers.2.mlp.down_proj", "layers.3.self_attn.q_proj"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), num_hidden_layers=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few rows, so that there are several."""
    monkeypatch.setattr(states, "BLOCK_TOKENS", 150)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    faults.forget_visits()


def recipe(model: Path, place: Path, trunk_cache: str = "on", name: str = "run", **changes: Any) -> Recipe:
    rows = place / "rows.jsonl"
    return parse(
        {
            "model": str(model), "output": str(place / name / "run"), "tuning": FREEZE,
            "data": {"train": str(rows if rows.exists() else write_rows(rows, 10)), "validation": 3, "max_length": 128},
            "optim": {"lr": 1e-2, "batch_tokens": 120, "warmup": 1},
            "compute": {"precision": "fp32", "micro_tokens": 60, "trunk_cache": trunk_cache},
            "budget": {"epochs": 2}, "evaluation": {"every": 2}, "checkpoint": {"every": 2}, **changes,
        }
    )  # fmt: skip


def events(chosen: Recipe, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(RunFolder(Path(chosen.output)).events) if event["kind"] == kind]


def weights(chosen: Recipe) -> dict[str, torch.Tensor]:
    folder = RunFolder(Path(chosen.output))
    return load_file(next(p for place in (folder.model, folder.adapter) for p in place.glob("*.safetensors")))


def trunk(chosen: Recipe) -> dict[str, Any]:
    return read_json(RunFolder(Path(chosen.output)).report)["trunk"]


def kept_in_cache() -> list[Path]:
    return [Path(entry.path) for entry in cache.entries() if entry.kind == "trunks"]


@dataclass
class Heard:
    """What was told."""

    events: list[Any] = field(default_factory=list)

    def event(self, event: Any) -> None:
        self.events.append(event)

    def progress(self, what: str, done: int, total: int | None) -> None:
        pass


def opened(chosen: Recipe, heard: Heard | None = None) -> Kept | None:
    """A run up to its first step."""
    work = run.prepare(chosen)
    return keep_trunk(work, tune(work, base_of(work))[0], heard or Heard())


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Numbers of the layers whose attention was computed: while the engine ran, and around that."""
    from tunesmith.model.lean import LeanAttention

    found: dict[str, set[int]] = {"around": set(), "fit": set()}
    place, forward, fit = ["around"], LeanAttention.forward, above.fit_to_data

    @functools.wraps(forward)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        found[place[0]].add(self.layer_idx)
        return forward(self, *args, **kwargs)

    def placed(*args: Any, **kwargs: Any) -> Any:
        place[0] = "fit"
        try:
            return fit(*args, **kwargs)
        finally:
            place[0] = "around"

    monkeypatch.setattr(LeanAttention, "forward", watched)
    monkeypatch.setattr(above, "fit_to_data", placed)
    return found


# mutation tried: states of the next row given; those that enter the layer below
def test_losses_norms_and_weights_are_those_of_the_plain_run_and_no_step_computes_the_trunk(
    model, tmp_path, computed, monkeypatch
):
    """Weights of the trunk are let go of, though on so small a model nothing is gained by it."""

    def keep_and_let_go(work: Any, *given: Any) -> Any:
        plan = replace(work.plan, trunk=replace(work.plan.trunk, let_go=True))
        return keep_trunk(replace(work, plan=plan), *given)

    monkeypatch.setattr(above, "keep_trunk", keep_and_let_go)
    plain, kept = (recipe(model, tmp_path, way, way) for way in ("off", "on"))
    run.train(plain)
    assert computed["fit"] == {0, 1, 2, 3}
    computed["fit"].clear()
    run.train(kept)
    assert computed["fit"] == {3}
    for kind, keys in (("stepped", ("loss_nats", "grad_norm")), ("evaluated", ("loss_nats",))):
        for one, other in zip(events(plain, kind), events(kept, kind), strict=True):
            for key in keys:
                assert other[key] == pytest.approx(one[key], rel=1e-5)
    ours, theirs = weights(kept), weights(plain)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= 1e-4 * tensor.norm(), name  # Adam divides by small moments
    assert trunk(plain) is None
    found = trunk(kept)
    assert (found["layers"], found["let_go"]) == (3, True)
    assert found["filled_tokens"] == found["tokens"] < found["read_tokens"]


# mutation tried: only missing blocks are made
def test_what_is_there_is_read_what_is_damaged_is_told_and_made_again(model, tmp_path):
    chosen, heard = recipe(model, tmp_path), Heard()
    first = opened(chosen)
    assert first is not None
    assert first.made.tokens == first.states.tokens
    block, *others = sorted(first.states.folder.glob("block-*.bin"))
    assert others
    bytes_before, stamp = block.read_bytes(), block.stat()
    again = opened(chosen, heard)
    assert again is not None
    assert (again.made.tokens, heard.events) == (0, [])
    flipped = bytearray(bytes_before)
    flipped[len(flipped) // 2] ^= 1
    for broken in (bytes(flipped), bytes_before[: len(flipped) // 2]):
        block.write_bytes(broken)
        os.utime(block, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        mended = opened(chosen, heard)
        assert mended is not None
        assert 0 < mended.made.tokens < first.states.tokens
        assert block.read_bytes() == bytes_before
        assert "damaged" in heard.events.pop().reason


def test_other_weights_other_rows_or_another_template_are_kept_apart(model, tmp_path):
    opened(recipe(model, tmp_path))
    opened(recipe(make_model(tmp_path / "other", seed=1, num_hidden_layers=4), tmp_path))
    assert len(kept_in_cache()) == 2
    data = recipe(model, tmp_path).data.model_dump(mode="json")
    opened(recipe(model, tmp_path, data={**data, "template": "plain"}))
    assert len(kept_in_cache()) == 3
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("it is 7", "it is 8"))
    opened(recipe(model, tmp_path))
    assert len(kept_in_cache()) == 4
    opened(recipe(model, tmp_path, name="other", optim={"lr": 1e-3}, budget={"epochs": 5}))
    assert len(kept_in_cache()) == 4


@pytest.mark.parametrize("fault", ["enospc", "erofs", "eio"])
def test_a_disk_that_refuses_is_told_and_leaves_nothing(model, tmp_path, fault, monkeypatch):
    monkeypatch.setenv("TUNESMITH_FAULT", f"trunk:2:{fault}")
    heard = Heard()
    assert opened(recipe(model, tmp_path), heard) is None
    assert "not kept" in heard.events[0].reason
    assert "every epoch" in heard.events[0].action
    assert not list(kept_in_cache()[0].glob("*block*"))
    monkeypatch.setenv("TUNESMITH_FAULT", "")
    assert opened(recipe(model, tmp_path)) is not None


def test_memory_that_runs_out_while_filling_takes_fewer_rows_at_once(model, tmp_path, monkeypatch):
    from tunesmith.model import trunk as there

    entering, sizes = there.entering, []

    def scarce(lm: Any, batch: Any, depth: int) -> Any:
        sizes.append(len(batch.segments.unique()))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("scarce")
        return entering(lm, batch, depth)

    monkeypatch.setattr(there, "entering", scarce)
    compute = {"precision": "fp32", "micro_tokens": 200, "trunk_cache": "on"}
    assert opened(recipe(model, tmp_path, compute=compute)) is not None
    assert max(sizes) > 1


def test_what_cannot_be_kept_is_refused_where_it_is_asked_for(model, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="first layer") as error:
        run.prepare(recipe(model, tmp_path, tuning={"method": "lora"}))
    assert error.value.problems[0].where == "compute.trunk_cache"
    for tuning in ({"method": "prefix"}, {"method": "full"}, {"method": "prompt"}):
        with pytest.raises(RecipeError, match="every layer depends on"):
            run.prepare(recipe(model, tmp_path, tuning=tuning))
    monkeypatch.setattr(cache, "free_bytes", lambda: 1 << 20)
    with pytest.raises(DiskFullError, match="GiB are free"):
        run.prepare(recipe(model, tmp_path))
    assert not run.prepare(recipe(model, tmp_path, "auto")).plan.trunk.on


def test_a_run_that_was_stopped_goes_on_bit_for_bit_on_what_is_kept(model, tmp_path):
    whole, stopped = (recipe(model, tmp_path, name=name, tuning=UPPER) for name in ("whole", "stopped"))
    run.train(whole)
    assert run.train(stopped, stop_after=2).status == "interrupted"
    assert run.train(stopped, resume=True).status == "done"
    assert differences(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole")) == []
    assert trunk(stopped)["filled_tokens"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("point", ["trunk:2", "step:4", "save_rename:2", "trained:1"])
def test_a_run_that_is_killed_ends_like_the_undisturbed_one_bit_for_bit(model, tmp_path, point):
    whole, killed = (recipe(model, tmp_path, name=name, tuning=UPPER) for name in ("whole", "killed"))
    assert _elsewhere(killed, f"{point}:kill") == -9
    assert _elsewhere(killed, "") == 0
    assert _elsewhere(whole, "") == 0
    assert differences(outcome(tmp_path / "killed"), outcome(tmp_path / "whole")) == []
    assert trunk(whole)["filled_tokens"] == 0


def _elsewhere(chosen: Recipe, fault: str) -> int:
    server = multiprocessing.get_context("forkserver")  # a process that has never run autograd
    server.set_forkserver_preload(PRELOADED)
    process = server.Process(target=_train, args=(chosen, fault, os.environ["TUNESMITH_CACHE"]))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(chosen: Recipe, fault: str, place: str) -> None:
    os.environ |= {"TUNESMITH_FAULT": fault, "TUNESMITH_CACHE": place, "TUNESMITH_FAST_BF16": "0"}
    states.BLOCK_TOKENS = 150
    torch.set_num_threads(1)
    run.train(chosen, resume=(Path(chosen.output) / "recipe.yaml").exists())
