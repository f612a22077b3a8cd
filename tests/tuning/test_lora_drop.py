"""LoRA-drop: what counts as importance, which layers are kept, what the others share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import random_samples, tiny_model
from tests.tuning.driving import Drive, drive, fit_run
from tests.tuning.steps import BATCH, gradients, logits
from tunesmith.data.loader import collate
from tunesmith.engine import faults
from tunesmith.errors import RecipeError
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.tuning.lora_drop import SHARING, choose
from tunesmith.tuning.lora_layers import lora_layers
from tunesmith.tuning.method import TunedModel

DROP = {"method": "lora_drop", "rank": 3, "sample": 4, "threshold": 0.6}
LAYERS, STEPS = 4, 12


def driven(**changes: Any) -> Drive:
    return drive(tiny_model(num_hidden_layers=LAYERS), {**DROP, **changes}, STEPS)


def numbers(tuned: TunedModel, kept: dict[str, list[str]], others: int) -> int:
    """The formula: rank (in + out) for each kept layer and, of each kind, `others` for the rest."""
    layers, total = dict(lora_layers(tuned.model)), 0
    for names in kept.values():
        count = len(names) + (others if len(names) < LAYERS else 0)
        total += 3 * count * (layers[names[0]].in_features + layers[names[0]].out_features)
    return total


@pytest.mark.parametrize(
    ("importance", "threshold", "kept"),
    [
        ({"a": 0.5, "b": 0.3, "c": 0.2}, 0.8, ["a", "b"]),
        ({"a": 0.2, "b": 0.3, "c": 0.5}, 0.8, ["b", "c"]),  # told in the order of the layers
        ({"a": 0.5, "b": 0.3, "c": 0.2}, 0.81, ["a", "b", "c"]),
        ({"a": 0.9, "b": 0.1, "c": 0.0}, 0.5, ["a"]),
        ({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, 0.5, ["a", "b"]),
        ({"a": 1.0, "b": 1e-30, "c": 0.0}, 1.0, ["a", "b", "c"]),  # a threshold of 1 shares nothing
    ],
)
def test_the_fewest_layers_that_hold_the_threshold_are_kept(
    importance: dict[str, float], threshold: float, kept: list[str]
) -> None:
    assert choose(importance, threshold) == kept


# mutations tried: counting A x instead of B A x; normalising over all kinds together
def test_importance_is_each_layers_share_of_what_its_kind_moved() -> None:
    run = driven()
    sharing = run.tuned.sharing  # type: ignore[attr-defined]
    for number in range(1, 4):
        run.step(number)
    run.step(4, finite=False)  # a step that was not finite counts for nothing
    counted = dict(sharing.moved)
    model = run.tuned.model
    with torch.no_grad():
        expected = dict.fromkeys(counted, 0.0)
        handles = [
            layer.register_forward_hook(
                lambda m, args, out, name=name: expected.update({name: _moved(m, args[0])})
            )
            for name, layer in lora_layers(model)
        ]
        summed_loss(model.eval(), BATCH)  # in eval mode our own hooks look away
        for handle in handles:
            handle.remove()
    assert sharing.moved == counted
    sharing.watch(3)
    sharing.moved = dict.fromkeys(counted, 0.0)
    summed_loss(model.train(), BATCH)
    sharing.count()
    for name, value in expected.items():
        assert sharing.moved[name] == pytest.approx(value, rel=1e-4), name
    for shares in sharing.importance().values():
        assert sum(shares.values()) == pytest.approx(1)
    assert len(sharing.importance()) == 7


def _moved(layer: Any, x: torch.Tensor) -> float:
    update = layer.scaling["default"] * (
        x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    )
    return float(update.square().sum())


# mutation tried: padding counted
def test_padding_moves_nothing() -> None:
    samples = list(random_samples(5))
    found = []
    for packing in (True, False):
        run = driven()
        for number in range(1, 4):
            run.step(number)
        sharing = run.tuned.sharing  # type: ignore[attr-defined]
        sharing.moved = dict.fromkeys(sharing.moved, 0.0)
        sharing.watch(3)
        summed_loss(run.tuned.model.train(), collate(samples, packing))
        sharing.count()
        found.append(list(sharing.moved.values()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("rest", ["shared", "dropped"])
def test_after_the_choice_as_many_train_as_the_formula_says_each_once(rest: str) -> None:
    # mutation tried: tied names left in `trainable`
    run = driven(rest=rest)
    everything = run.tuned.trainable_count
    run.run()
    choice = run.tuned.sharing.choice  # type: ignore[attr-defined]
    assert any(0 < len(names) < LAYERS for names in choice.values())
    assert run.tuned.trainable_count == numbers(run.tuned, choice, rest == "shared") < everything
    ids = [id(p) for p in run.tuned.trainable.values()]
    assert len(ids) == len(set(ids))
    held = {id(p) for p in run.optimizer.state}
    assert held == set(ids)


def test_layers_that_share_hold_one_tensor_and_its_gradient_is_the_sum_of_all() -> None:
    run = driven()
    run.run()
    sharing = run.tuned.sharing  # type: ignore[attr-defined]
    kind, kept = next((k, names) for k, names in sharing.choice.items() if len(names) < LAYERS - 1)
    sharers = [sharing.layers[name] for name in sharing.kinds[kind] if name not in kept]
    shared = sharers[0].lora_B["default"].weight
    assert all(layer.lora_B["default"].weight is shared for layer in sharers)
    [name] = [n for n, p in run.tuned.trainable.items() if p is shared]
    together = gradients(run.tuned)[name]
    apart = torch.zeros_like(together)
    for layer in sharers:  # one at a time: the others hold copies
        for other in sharers:
            if other is not layer:
                other.lora_B["default"] = torch.nn.Linear(3, len(shared), bias=False)
                other.lora_B["default"].weight = torch.nn.Parameter(shared.detach().clone())
        layer.lora_B["default"].weight = shared
        apart += gradients(run.tuned)[name]
        layer.lora_B["default"] = torch.nn.Linear(3, len(shared), bias=False)
        layer.lora_B["default"].weight = torch.nn.Parameter(shared.detach().clone())
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-4)


def test_the_choice_begins_anew_from_the_base() -> None:
    run = driven()
    before = logits(run.tuned.model)
    for number in range(1, 5):
        run.step(number)
    assert torch.equal(logits(run.tuned.model), before)
    assert not run.optimizer.state
    assert not run.tuned.sharing._handles  # type: ignore[attr-defined]


def test_each_part_has_a_schedule_of_its_own() -> None:
    run = driven()
    asked = [run.hooks.rate(step, STEPS, lambda at, of: float(100 * of + at)) for step in (1, 4, 5, 12)]
    assert asked == [401, 404, 801, 808]


def test_a_threshold_of_one_is_plain_lora() -> None:
    run = driven(threshold=1)
    count = run.tuned.trainable_count
    run.run()
    assert run.tuned.trainable_count == count


def test_a_choice_at_a_step_that_is_not_finite_comes_after_the_next() -> None:
    run = driven()
    for number in range(1, 7):
        run.step(number, finite=number != 4)
        assert (run.tuned.sharing.choice is None) == (number < 5)  # type: ignore[attr-defined]


def test_the_file_is_a_plain_lora_with_a_map_of_what_is_shared(tmp_path: Path) -> None:
    run = driven()
    run.run()
    run.method.save(run.tuned, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * LAYERS
    info = json.loads((tmp_path / SHARING).read_text("utf-8"))
    assert info["rest"] == "shared"
    for kind, kept in info["own"].items():
        names = list(info["importance"][kind])
        sharers = [f"base_model.model.{name}.lora_B.weight" for name in names if name not in kept]
        assert all(torch.equal(tensors[name], tensors[sharers[0]]) for name in sharers)
        assert sum(info["importance"][kind].values()) == pytest.approx(1)


def test_dropped_layers_are_not_in_the_file(tmp_path: Path) -> None:
    run = driven(rest="dropped")
    run.run()
    run.method.save(run.tuned, tmp_path)
    kept = {
        f"base_model.model.{name}" for names in run.tuned.sharing.choice.values() for name in _plain(names)
    }  # type: ignore[attr-defined]
    found = {name.partition(".lora_")[0] for name in load_file(tmp_path / "adapter_model.safetensors")}
    assert found == kept
    attached = run.method.attach(tiny_model(num_hidden_layers=LAYERS), tmp_path)
    assert torch.equal(logits(attached), logits(run.tuned.model))


def _plain(names: list[str]) -> list[str]:
    return [name.removeprefix("base_model.model.") for name in names]


def test_going_back_to_a_checkpoint_before_the_choice_unties() -> None:
    run = driven()
    for number in range(1, 3):
        run.step(number)
    state = run.hooks.state_dict()
    names = list(run.tuned.trainable)
    run.run()
    assert list(run.tuned.trainable) != names
    run.hooks.load_state_dict(json.loads(json.dumps(state)))
    assert list(run.tuned.trainable) == names
    assert all(p.requires_grad for p in run.tuned.trainable.values())


def test_the_choice_is_a_function_of_the_seed(tmp_path: Path) -> None:
    one, other = (fit_run(tmp_path / str(n), DROP)[1].sharing.choice for n in range(2))  # type: ignore[attr-defined]
    assert one == other


def test_a_sample_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(RecipeError, match="the run has 12"):
        driven(sample=12)


def test_a_step_that_is_computed_again_is_seen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, calm, _ = fit_run(tmp_path / "calm", DROP, steps=6, micro_tokens=64)
    monkeypatch.setenv("TUNESMITH_FAULT", "backward:2:oom")
    faults.forget_visits()
    _, tuned, _ = fit_run(tmp_path / "oom", DROP, steps=6, micro_tokens=64)
    assert "out of memory" in (tmp_path / "oom" / "events.jsonl").read_text()
    moved, expected = tuned.sharing.moved, calm.sharing.moved  # type: ignore[attr-defined]
    assert any(expected.values())
    for name, value in expected.items():
        assert moved[name] == pytest.approx(value, rel=1e-4), name
