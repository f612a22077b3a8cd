"""Micro-batches filled up with a document that teaches nothing: the loss and gradients of the rows alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_sharing import dialogues
from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.filling import fill
from tunesmith.data.loader import collate
from tunesmith.data.packing import MOST_FILL, filled
from tunesmith.data.sharing import shared_batches
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import learnt, may_fill


def of(model, batch):
    model.zero_grad()
    loss = learnt(model, batch).summed_loss()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal(model, batch, close=1e-12):
    more = fill(batch)
    (loss, gradients), (filled_loss, filled_gradients) = of(model, batch), of(model, more)
    torch.testing.assert_close(filled_loss, loss, rtol=close, atol=0)
    for name, gradient in gradients.items():
        assert (filled_gradients[name] - gradient).norm() <= close * gradient.norm() + 1e-14, name
    assert (more.tokens, more.targets) == filled(batch.tokens, batch.targets)


@given(st.integers(1, 5000), st.integers(1, 5000))
@settings(deadline=None)
def test_both_numbers_are_multiples_and_little_is_added(tokens, targets):
    targets = min(tokens, targets)
    more, more_targets = filled(tokens, targets)
    assert more - tokens >= more_targets - targets >= 0
    assert more - tokens < max(32, tokens / 8)
    size = min(MOST_FILL, max(16, 2 ** (tokens // 16).bit_length() // 2))
    assert more % size == more_targets % size == 0


@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_of_every_family_are_those_of_the_rows(family):
    # mutation tried: the last document's targets weigh 1; it goes on from the segment before
    model = tiny_model(family, dtype=torch.float64)
    if may_fill(model):
        close = 1e-5 if FAMILIES[family].keeps_width or "gemma" in family else 1e-6
        assert_equal(
            model, collate(list(random_samples(6, seed=1, longest=24, learnt_share=0.3)), True), close
        )


@pytest.mark.parametrize("learnt_share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("count", range(3, 8))
def test_of_any_number_of_tokens_and_targets(count, learnt_share):
    model = tiny_model("llama", dtype=torch.float64)
    assert_equal(
        model,
        collate(list(random_samples(count, seed=count, longest=40, learnt_share=learnt_share)), True),
        1e-6,
    )


def test_tokens_may_be_added_without_targets():
    model = tiny_model("llama", dtype=torch.float64)
    batch = collate(list(random_samples(6, seed=1, longest=24, learnt_share=1.0)), True)
    labels = torch.full_like(batch.labels, -100)
    labels[0, :16] = 5
    batch = replace(batch, labels=labels)
    assert batch.targets == 16
    assert batch.tokens % 16
    assert_equal(model, batch, 1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_trees_are_filled_as_well(weighted):
    model = tiny_model("llama", dtype=torch.float64)
    for batch in shared_batches(dialogues(weighted), 10_000):
        assert batch.learns is not None
        assert_equal(model, batch, 1e-6)


def test_padded_rows_stay_as_they_are():
    batch = collate(list(random_samples(3, seed=1)), False)
    assert fill(batch) is batch
