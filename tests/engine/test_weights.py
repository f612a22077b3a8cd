"""Messages of other weights than 1: what is learnt is the weighted mean, however a step is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.engine.test_loop import make_run, same_bits
from tests.tiny import random_samples, tiny_config, tiny_model
from tunesmith.data.loader import batches, collate, plan_steps
from tunesmith.data.samples import IGNORED, Sample, SampleSet, collect, weights_of
from tunesmith.events import read
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Steps


def weighted(samples: SampleSet, seed: int = 5) -> SampleSet:
    """The same samples, two of three with weights from 0.1 to 3."""
    rng = np.random.default_rng(seed)
    given = []
    for number, sample in enumerate(samples):
        weights = np.where(sample.labels != IGNORED, rng.uniform(0.1, 3, len(sample.labels)), 0)
        given.append(sample if number % 3 == 0 else replace(sample, weights=weights.astype(np.float32)))
    return collect(given)


def gradients(model, samples, micro_tokens, packing=True):
    """Of the weighted mean, as a step makes it; and the mean."""
    weight = float(sum(weights_of(sample).sum(dtype=np.float64) for sample in samples))
    model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches(samples, micro_tokens, packing):
        loss = summed_loss(model, batch) / weight
        loss.backward()
        total += float(loss.detach())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, total


def own_forward_model():
    """A model that runs through its own forward."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float64, attn_implementation="sdpa")


MODELS = {"ours": lambda: tiny_model(dtype=torch.float64), "its own forward": own_forward_model}


def assert_near(one, other, share):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (other[name] - gradient).norm() <= share * gradient.norm(), name


# mutation tried: weights of a padded row laid from the left of the packed one; each micro-batch by its own weights
@pytest.mark.parametrize("model", MODELS)
def test_however_a_step_is_cut_the_gradient_is_the_same_to_1e_12_in_float64(model):
    samples = list(weighted(random_samples(9, seed=4)))
    whole, loss = gradients(MODELS[model](), samples, 10_000)
    for micro_tokens, packing in ((1, True), (30, True), (40, False)):
        cut, mean = gradients(MODELS[model](), samples, micro_tokens, packing)
        assert_near(whole, cut, 1e-12)
        assert mean == pytest.approx(loss, rel=1e-12)


# mutation tried: own-forward weights taken in the order of groups, not of the batch; z_loss left out of own forward
@pytest.mark.parametrize("z_loss", [0.0, 0.02])
@pytest.mark.parametrize("model", MODELS)
def test_the_gradient_is_that_of_the_weighted_cross_entropy_written_out(model, z_loss):
    samples = list(weighted(random_samples(6, seed=2)))
    lm = MODELS[model]()
    weight = sum(weights_of(sample).sum(dtype=np.float64) for sample in samples)
    loss = (
        summed_loss(lm, collate(samples, packing=True), z_loss) / weight
    )  # in the order given, not longest first
    loss.backward()
    ours = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad(set_to_none=True)
    lm.config._attn_implementation = "sdpa"  # eager attention rounds its softmax to fp32
    nats = []
    for sample in samples:
        logits = lm(torch.from_numpy(sample.input_ids.astype(np.int64))[None]).logits[0]
        labels = torch.from_numpy(sample.labels.astype(np.int64))
        each = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        each = each + z_loss * torch.where(labels == IGNORED, 0, logits.logsumexp(-1) ** 2)
        nats.append(each * torch.from_numpy(weights_of(sample)).double())
    mean = torch.cat(nats).sum() / weight
    mean.backward()
    assert_near({name: p.grad for name, p in lm.named_parameters() if p.grad is not None}, ours, 1e-12)
    assert float(loss.detach()) == pytest.approx(float(mean.detach()), rel=1e-12)


def test_a_sample_of_weight_two_is_the_sample_twice():
    first, second, third = random_samples(3, seed=6)
    double = replace(second, weights=2 * weights_of(second))
    once, loss = gradients(tiny_model(dtype=torch.float64), [first, double, third], 1000)
    twice, same = gradients(tiny_model(dtype=torch.float64), [first, second, second, third], 1000)
    assert_near(once, twice, 1e-12)
    assert loss == pytest.approx(same, rel=1e-12)


def test_equal_weights_are_no_weights():
    samples = list(random_samples(5, seed=7))
    plain, loss = gradients(tiny_model(dtype=torch.float64), samples, 30)
    halves = [replace(sample, weights=weights_of(sample) / 2) for sample in samples]
    half, same = gradients(tiny_model(dtype=torch.float64), halves, 30)
    assert_near(plain, half, 1e-12)
    assert same == pytest.approx(loss, rel=1e-12)


def test_samples_without_weights_make_batches_without():
    samples = weighted(random_samples(3))
    assert collate([samples[1]], True).weights is not None
    assert collate(list(random_samples(3)), True).weights is None
    with_ones = Sample(samples[0].input_ids, samples[0].labels, "a:1")
    assert torch.equal(collate([with_ones], True).labels, collate([samples[0]], True).labels)


# mutation tried: step_targets instead of step_weights in the loop
def test_a_run_tells_the_weighted_mean_and_counts_targets(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tests.engine.test_loop.random_samples", lambda *a, **k: weighted(random_samples(*a, **k))
    )
    make_run(tmp_path, budget={"steps": 1}, evaluate=False, dtype=torch.float64)
    [step] = [event for event in read(tmp_path / "events.jsonl") if event["kind"] == "stepped"]

    sources = (weighted(random_samples(40, seed=1)),)
    plan = plan_steps(sources, (None,), Steps(steps=1), 48, seed=3)
    _, mean = gradients(tiny_model(dtype=torch.float64), plan.samples(sources, 0), 1000)
    assert step["loss_nats"] == pytest.approx(mean, rel=1e-6)
    assert step["targets"] == plan.step_targets[0]
    assert plan.step_weights[0] != plan.step_targets[0]


def test_a_weighted_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tests.engine.test_loop.random_samples", lambda *a, **k: weighted(random_samples(*a, **k))
    )
    _, whole = make_run(tmp_path / "whole")
    make_run(tmp_path / "parts", stop_after=3)
    assert same_bits(whole, make_run(tmp_path / "parts")[1])
    monkeypatch.undo()
    assert not same_bits(whole, make_run(tmp_path / "plain")[1])
