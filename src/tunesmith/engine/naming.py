"""Which rows made a step bad: each alone through the model, the strangest first, with its words.

step of 12 rows, loss 9.1  ->  rows.jsonl:417 (loss 10.9), rows.jsonl:3 (2.2), ...   and what rows.jsonl:417 says
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tunesmith.data.loader import collate
from tunesmith.data.samples import Sample, weights_of
from tunesmith.engine.step import Stepper
from tunesmith.model.memory import is_out_of_memory

MOST_TEXTS = 3
TEXT_LETTERS = 400


@dataclass(frozen=True, slots=True)
class Named:
    """Addresses of a step's rows, those that stand out most first, and the words of the first few."""

    rows: tuple[str, ...]
    texts: tuple[str, ...] = ()


def name_rows(stepper: Stepper, samples: Sequence[Sample], text_of: Callable[[Sample], str] | None) -> Named:
    """Order a step's rows by how strange the model finds them. Draws nothing, learns nothing."""
    losses = _losses(stepper, samples)
    order = sorted(range(len(samples)), key=lambda at: -losses[at])
    chosen = [samples[at] for at in order]
    texts = () if text_of is None else tuple(_short(text_of(sample)) for sample in chosen[:MOST_TEXTS])
    return Named(tuple(dict.fromkeys(sample.address for sample in chosen)), texts)


def _losses(stepper: Stepper, samples: Sequence[Sample]) -> list[float]:
    """Nats a target of each row; what is not a number comes before all. Rows keep their order where memory ends."""
    model = stepper.tuned.model
    training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(stepper.device.type, dtype=torch.bfloat16, enabled=stepper.autocast),
        ):
            found = [float(stepper.summed_loss(model, collate([s], stepper.packing))) for s in samples]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return [0.0] * len(samples)
    finally:
        model.train(training)
    means = [loss / max(float(weights_of(s).sum()), 1e-9) for loss, s in zip(found, samples)]
    return [mean if math.isfinite(mean) else math.inf for mean in means]


def _short(text: str) -> str:
    """One line that a log can hold."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LETTERS else line[:TEXT_LETTERS] + " …"
