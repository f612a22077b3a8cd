"""Metrics as functions of summed per-item numbers, so that one bootstrap and one pairing serve them all.

item        numbers              metric of a set = combine(sum over its items)
accuracy    (right, 1)           right / n
loss        (nats, targets)      nats / targets
bleu, chrf  n-gram counts        sacrebleu's own formula on the summed counts
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

RESAMPLES = 1000
SEED = 20240601


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score means. `margin` is the change too small to matter, in units of the metric.

    combine: Float[ndarray, "... k"] of summed numbers -> Float[ndarray, "..."].
    """

    name: str
    higher_is_better: bool
    margin: float
    margin_is_relative: bool
    combine: Callable[[ndarray], ndarray]
    is_ratio: bool

    def margin_at(self, before: float) -> float:
        """The margin in the metric's units; a relative one is a share of the score before."""
        return self.margin * abs(before) if self.margin_is_relative else self.margin

    def value(self, numbers: ndarray) -> float:
        """The score of a set. numbers: Float[ndarray, "n k"]."""
        return float(self.combine(numbers.sum(axis=0)))

    def stderr(self, numbers: ndarray) -> float | None:
        """Standard error over items, None for fewer than two: binomial for shares, else bootstrap."""
        if len(numbers) < 2:
            return None
        if self.is_ratio:
            return ratio_stderr(numbers[:, 0], numbers[:, 1])
        return float(np.std(self.resampled(numbers), ddof=1))

    def resampled(self, numbers: ndarray) -> ndarray:
        """The metric on bootstrap resamples of the items; equal n gives equal draws, hence pairs."""
        return self.combine(resample_counts(len(numbers)) @ numbers)


def ratio_stderr(parts: ndarray, weights: ndarray) -> float:
    """Standard error of sum(parts)/sum(weights) over items (delta method).

    With weights of 1 and parts of 0 and 1 it is the binomial sqrt(p (1 - p) / (n - 1)).
    """
    n, total = len(parts), weights.sum()
    rest = parts - parts.sum() / total * weights
    return float(math.sqrt(n / (n - 1) * float(rest @ rest)) / total)


@functools.lru_cache(maxsize=8)
def resample_counts(n: int) -> ndarray:
    """How often each of n items is drawn, for each resample: Float[ndarray, "RESAMPLES n"]."""
    return np.random.default_rng((SEED, n)).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def _ratio(sums: ndarray) -> ndarray:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _by_sacrebleu(name: str) -> Callable[[ndarray], ndarray]:
    def combine(sums: ndarray) -> ndarray:
        scorer = _scorer(name, "13a")
        flat = sums.reshape(-1, sums.shape[-1]).round().astype(np.int64).tolist()
        scores = [scorer._compute_score_from_stats(row).score for row in flat]
        return np.array(scores).reshape(sums.shape[:-1])

    return combine


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, 0.01, False, _ratio, True),
        Metric("exact_match", True, 0.01, False, _ratio, True),
        Metric("bleu", True, 1.0, False, _by_sacrebleu("bleu"), False),
        Metric("chrf", True, 1.0, False, _by_sacrebleu("chrf"), False),
        Metric("loss", False, 0.01, True, _ratio, True),
    )
}


def normalise(text: str) -> str:
    """Unicode NFC, and each run of white space one space, none at the ends. Letters' case stays."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(outputs: Sequence[str], references: Sequence[str]) -> ndarray:
    """(equal after `normalise`, 1) of each item: Float[ndarray, "n 2"]."""
    equal = [float(normalise(out) == normalise(ref)) for out, ref in zip(outputs, references)]
    return np.array([(value, 1.0) for value in equal]).reshape(-1, 2)


def text_overlap(name: str, outputs: Sequence[str], references: Sequence[str]) -> tuple[ndarray, str]:
    """sacrebleu's counts of each item, and the signature under which they may be compared.

    BLEU cuts Chinese into characters (tokenize=zh) where any reference holds Chinese; the references
    decide, not the outputs, so before and after are cut alike.
    """
    scorer = _scorer(name, "zh" if any(map(_is_chinese, references)) else "13a")
    # the signature is known to sacrebleu only after a score
    scorer.corpus_score(list(outputs), [list(references)])
    counts = scorer._extract_corpus_statistics(list(outputs), [list(references)])
    return np.array(counts, float), str(scorer.get_signature())


@functools.lru_cache(maxsize=4)
def _scorer(name: str, tokenize: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=tokenize) if name == "bleu" else CHRF()


def _is_chinese(text: str) -> bool:
    return any("\u3400" <= letter <= "\u9fff" for letter in text)
