"""The worst batch of a run, tried before step 1: out of memory now, and not after an hour. Leaves no trace.

longest sample + largest step -> worst micro-batches -> forward, backward, with room held for the optimiser
                                                     -> out of memory? half as many tokens, again
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tunesmith.data.loader import RunSteps, collate
from tunesmith.data.packing import pack
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.engine.step import Stepper, smaller
from tunesmith.engine.world import random_state, set_random_state
from tunesmith.model.memory import give_back, is_out_of_memory


def rehearse(
    stepper: Stepper,
    sources: Sequence[SampleSet],
    steps: RunSteps,
    micro_tokens: int,
    state_bytes: float,
    held_out: SampleSet | None,
) -> int:
    """The largest micro-batch, at most `micro_tokens`, that the worst step fits into.

    `state_bytes` for each trainable number are held as the optimiser will. Raises DoesNotFitError where the longest
    sample alone does not fit. Weights, gradients, moments and random draws are what they were.
    """
    drawn, training = random_state(), stepper.tuned.model.training
    samples = _worst(sources, steps)
    try:
        while True:
            try:
                _try(stepper, samples, micro_tokens, state_bytes, held_out)
                return micro_tokens
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                micro_tokens = smaller(samples, micro_tokens, error)
            _forget(stepper)
    finally:
        _forget(stepper)
        stepper.tuned.model.train(training)
        set_random_state(drawn)


def _forget(stepper: Stepper) -> None:
    stepper.optimizer.zero_grad(set_to_none=True)
    stepper.hooks.forget_step()
    give_back()


def _worst(sources: Sequence[SampleSet], steps: RunSteps) -> list[Sample]:
    """The longest sample of all, and the rows of the steps with most tokens and most targets."""
    largest = {int(np.argmax(steps.step_tokens)), int(np.argmax(steps.step_targets))}
    return [
        _longest(sources),
        *(sample for step in sorted(largest) for sample in steps.samples(sources, step)),
    ]


def _longest(sources: Sequence[SampleSet]) -> Sample:
    there = [source for source in sources if len(source)]
    return max((source[int(np.argmax(source.lengths))] for source in there), key=lambda s: len(s.input_ids))


def _try(
    stepper: Stepper,
    samples: Sequence[Sample],
    micro_tokens: int,
    state_bytes: float,
    held_out: SampleSet | None,
) -> None:
    count = sum(parameter.numel() for parameter in stepper.tuned.trainable.values())
    held = torch.empty(int(count * state_bytes), dtype=torch.uint8, device=stepper.device)
    for batch in _batches(stepper, samples, micro_tokens):
        stepper.accumulate(batch, 1.0, max(micro_tokens, sum(len(s.input_ids) for s in batch)))
    if held_out is not None and len(held_out):
        _evaluate(stepper, _longest([held_out]))
    del held


def _batches(stepper: Stepper, samples: Sequence[Sample], micro_tokens: int) -> Iterator[list[Sample]]:
    """The micro-batch with the longest sample, and the one with most tokens."""
    lengths = np.array([len(sample.input_ids) for sample in samples], np.int64)
    cut = list(pack(lengths, micro_tokens, padded=not stepper.packing))
    with_longest = max(cut, key=lambda members: max(lengths[member] for member in members))
    widest = max(cut, key=lambda members: sum(lengths[member] for member in members))
    for members in (with_longest, *([widest] if list(widest) != list(with_longest) else [])):
        yield [samples[member] for member in members]


def _evaluate(stepper: Stepper, sample: Sample) -> None:
    stepper.tuned.model.eval()
    with torch.no_grad(), torch.autocast(stepper.device.type, dtype=torch.bfloat16, enabled=stepper.autocast):
        stepper.summed_loss(stepper.tuned.model, collate([sample], stepper.packing))
    stepper.tuned.model.train()
