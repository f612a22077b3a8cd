"""Metrics are functions of summed per-item numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from tunesmith.evaluation.metrics import METRICS, exact_match, normalise, ratio_stderr, text_overlap

OUTPUTS = ["the cat sat on the mat", "a dog", "hello there big world", "one two three four five"]
REFERENCES = ["the cat sat on a mat", "the dog barks", "hello there small world", "one two three four six"]


def test_white_space_is_normalised_and_case_is_not():
    assert normalise("  a\u3000b\n\tc ") == "a b c"
    assert normalise("e\u0301") == normalise("é")
    assert exact_match([" A  b", "a b"], ["A b", "A b"]).tolist() == [[1, 1], [0, 1]]


# mutation tried: dropping the first column of the counts
@pytest.mark.parametrize(("name", "scorer"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_summed_counts_give_the_score_of_sacrebleu(name, scorer):
    numbers, signature = text_overlap(name, OUTPUTS, REFERENCES)
    assert METRICS[name].value(numbers) == pytest.approx(
        scorer.corpus_score(OUTPUTS, [REFERENCES]).score, abs=1e-9
    )
    assert "version:" in signature


# mutation tried: deciding by the outputs
def test_chinese_references_decide_how_bleu_cuts():
    numbers, signature = text_overlap("bleu", ["今天天气很好啊", "no"], ["今天天气很好", "no"])
    assert "tok:zh" in signature
    assert METRICS["bleu"].value(numbers) > 50
    assert "tok:13a" in text_overlap("bleu", ["今天天气很好"], ["good weather"])[1]


def test_stderr_of_a_share_is_binomial():
    right = np.array([[1.0, 1.0]] * 30 + [[0.0, 1.0]] * 70)
    assert METRICS["accuracy"].stderr(right) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert METRICS["accuracy"].stderr(right[:1]) is None


def test_stderr_of_a_ratio_is_that_of_the_bootstrap():
    draw = np.random.default_rng(0)
    weights = draw.integers(5, 50, 300).astype(float)
    nats = weights * 2 + draw.normal(0, 5, 300)
    resampled = np.std(METRICS["loss"].resampled(np.stack([nats, weights], 1)))
    assert ratio_stderr(nats, weights) == pytest.approx(resampled, rel=0.1)


def test_the_bootstrap_draws_the_same_items_each_time():
    numbers, _ = text_overlap("bleu", OUTPUTS, REFERENCES)
    assert METRICS["bleu"].stderr(numbers) == METRICS["bleu"].stderr(numbers)
    assert METRICS["bleu"].stderr(numbers) > 0


def test_a_relative_margin_is_a_share_of_the_score_before():
    assert METRICS["loss"].margin_at(3.0) == pytest.approx(0.03)
    assert METRICS["accuracy"].margin_at(0.9) == 0.01
