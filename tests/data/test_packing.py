"""Packing: every document in exactly one micro-batch, none over the limit but alone, no target across a border."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import random_samples
from tunesmith.data.loader import batches
from tunesmith.data.packing import pack
from tunesmith.data.samples import IGNORED

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(lambda values: np.array(values, np.int64))


@given(lengths, st.integers(1, 80), st.booleans())
def test_every_document_is_packed_once_and_within_the_limit(sizes, limit, padded):
    # mutation tried: `<=` to `<` + 1 in _first_fit; the padded width taken from the newest document
    bins = pack(sizes, limit, padded)
    assert sorted(index for members in bins for index in members) == list(range(len(sizes)))
    for members in bins:
        width = max(sizes[index] for index in members)
        computed = width * len(members) if padded else sum(sizes[index] for index in members)
        assert computed <= limit or len(members) == 1


@given(st.integers(1, 30), st.integers(1, 100), st.booleans(), st.integers(0, 5))
def test_no_token_is_lost_and_no_target_crosses_a_document(count, limit, packing, seed):
    # mutation tried: labels shifted by one in collate; positions not restarted
    samples = random_samples(count, seed)
    seen = []
    for batch in batches(samples, limit, packing):
        for row in range(batch.input_ids.shape[0]):
            for segment in torch.unique(batch.segments[row]).tolist():
                if segment < 0:
                    continue
                here = batch.segments[row] == segment
                length = int(here.sum())
                assert batch.positions[row][here].tolist() == list(range(length))
                seen.append(
                    (tuple(batch.input_ids[row][here].tolist()), tuple(batch.labels[row][here].tolist()))
                )
        assert (batch.labels[batch.segments < 0] == IGNORED).all()
    expected = [(tuple(s.input_ids.tolist()), tuple(s.labels.tolist())) for s in samples]
    assert sorted(seen) == sorted(expected)
