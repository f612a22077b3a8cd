"""Micro-batches filled up with a document that teaches nothing: the loss and gradients of the rows alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_sharing import dialogues
from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.filling import even_out, fill
from tunesmith.data.loader import collate
from tunesmith.data.packing import MOST_FILL, filled
from tunesmith.data.samples import Sample
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize(("packing", "count"), [(True, 3), (True, 1), (False, 2)])
def test_full_rows_get_their_last_token_back_and_teach_the_same(family, packing, count):
    # mutations tried: a target where a token is added; positions that go on from row to row; states left short
    model = tiny_model(family, dtype=torch.float64)
    batch = collate([row_of(63, number) for number in range(count)], packing)
    even = even_out(batch, 16)
    assert even.input_ids.shape == (1 if packing else count, 64 * (count if packing else 1))
    assert even.targets == batch.targets
    assert even.segments.reshape(-1).bincount().tolist() == [64] * count
    (loss, gradients), (even_loss, even_gradients) = of(model, batch), of(model, even)
    torch.testing.assert_close(even_loss, loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        assert (even_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-14, name


def row_of(length, seed):
    ids = np.random.default_rng(seed).integers(3, 97, length + 1).astype(np.int32)
    return Sample(ids[:-1], ids[1:], f"row:{seed}")


def test_rows_that_are_not_full_or_not_equal_stay_as_they_are():
    for lengths in ([63, 62], [40, 86], [64, 64], [50, 50]):
        batch = collate([row_of(length, seed) for seed, length in enumerate(lengths)], True)
        assert even_out(batch, 16) is batch
    padded = collate([row_of(63, 0), row_of(50, 1)], False)
    assert even_out(padded, 16) is padded


def test_what_the_frozen_layers_gave_and_weights_are_made_as_long():
    rows = [
        replace(
            row_of(63, seed), states=np.full((63, 4), seed + 1, np.float32), weights=np.ones(63, np.float32)
        )
        for seed in range(2)
    ]
    even = even_out(collate(rows, True), 16)
    assert even.states.view(2, 64, 4)[:, :, 0].tolist() == [[1.0] * 63 + [0.0], [2.0] * 63 + [0.0]]
    assert even.weights.view(2, 64).tolist() == [[1.0] * 63 + [0.0]] * 2
