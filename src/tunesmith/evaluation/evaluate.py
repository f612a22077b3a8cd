"""Measure a model: held-out loss, tasks, probes; every raw answer is kept.

model + held_out + tasks + probes -> Evaluated, and answers.jsonl with one line an item
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.records import Choice, Text
from tunesmith.data.render import Drop, render
from tunesmith.data.samples import Sample, SampleSet, collect, to_sample
from tunesmith.errors import DataError, ModelError
from tunesmith.evaluation.choice import score_choices
from tunesmith.evaluation.generation import answer_probes, pad_id_of, score_generations
from tunesmith.evaluation.heldout import held_out_loss
from tunesmith.evaluation.known import Known
from tunesmith.evaluation.scores import Evaluated, Measured
from tunesmith.evaluation.tasks import Item, read_tasks
from tunesmith.events import Reporter, Silent
from tunesmith.folder import write_atomically
from tunesmith.model.generate import context_length

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate
    from tunesmith.recipe import ObjectiveKind, Task

PROBE_TOKENS = 128
# A cache costs a small part of what training keeps for a token, so more may be answered than learnt at once.
ANSWER_SHARE = 4


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    *,
    held_out: SampleSet | None = None,
    tasks: Sequence[Task] = (),
    probes: Sequence[str] = (),
    micro_tokens: int = 8192,
    reporter: Reporter | None = None,
    answers: Path | None = None,
    max_length: int = 2048,
    probe_tokens: int = PROBE_TOKENS,
    held_out_name: str = "held-out loss",
    known: Known | None = None,
) -> Evaluated:
    """Everything asked for, on the model as it is, but what is `known` of it. Task files are read first.

    `answers` is a .jsonl file for every raw output. `max_length` cuts the documents of loss tasks.
    `held_out_name` is what the progress of the held-out loss is called.
    """
    reporter = reporter or Silent()
    had = known.part(tasks, probes, held_out, template.source, max_length) if known else Evaluated()
    read = read_tasks([task for task in tasks if task.name not in had.items])
    heldout = had.heldout
    if heldout is None and held_out is not None and len(held_out):
        told = _told(reporter, held_out_name, len(held_out))
        heldout = held_out_loss(model, held_out, micro_tokens, tokenizer, told)
        _require_numbers(zip(heldout.addresses, heldout.nats))
    bench = _Bench(model, tokenizer, template, micro_tokens, max_length, reporter)
    items: dict[str, Measured] = dict(had.items)
    lines = known.lines(had) if known else []
    for task, found in read:
        items[task.name], records = bench.score(task, found)
        _require_numbers(_floats(records))
        lines += records
    answered = had.probes or answer_probes(
        model, tokenizer, template, probes, probe_tokens, ANSWER_SHARE * micro_tokens
    )  # fmt: skip
    if answers is not None:
        lines += [
            {"probe": probe.id, "question": probe.question, "output": probe.answer} for probe in answered
        ]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        write_atomically(answers, text)
    return Evaluated(heldout, {task.name: items[task.name] for task in tasks}, answered)


def _require_numbers(found: Iterable[tuple[str, float]]) -> None:
    """Raises ModelError where what a model makes of a row is no number: (address, number) of each."""
    bad = list(dict.fromkeys(address for address, number in found if not math.isfinite(number)))
    if bad:
        more = f", nor of {len(bad) - 1} other rows" if len(bad) > 1 else ""
        raise ModelError.at(
            bad[0],
            f"the model's loss of it is no number{more}: its numbers outgrow their precision",
            "take weights that are whole; or compute.precision=fp32, if it was bf16",
        )


def _floats(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Every float of an item's line, with the item's address."""
    for record in records:
        for value in record.values():
            for one in value.values() if isinstance(value, dict) else [value]:
                if isinstance(one, float):
                    yield str(record["address"]), one


def _told(reporter: Reporter, what: str, total: int) -> Callable[[int], None]:
    return lambda done: reporter.progress(what, done, total)


class _Bench:
    """A model ready to be scored on one task after another."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        template: ChatTemplate,
        micro_tokens: int,
        max_length: int,
        reporter: Reporter,
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.micro_tokens, self.reporter = micro_tokens, reporter
        self.max_length = min(max_length, context_length(model))

    def score(self, task: Task, items: tuple[Item, ...]) -> tuple[Measured, list[dict[str, Any]]]:
        """Numbers of each item, and its raw answers."""
        told = _told(self.reporter, f"task {task.name}", len(items))
        match task.kind:
            case "choice":
                pad = pad_id_of(self.tokenizer, self.template)
                scored = score_choices(self.model, self.template, task, items, self.micro_tokens, pad, told)
            case "generate":
                tokens = ANSWER_SHARE * self.micro_tokens
                scored = score_generations(
                    self.model, self.tokenizer, self.template, task, items, tokens, told
                )  # fmt: skip
            case "loss":
                scored = self._loss(task, items, told)
        told(len(items))
        return scored

    def _loss(
        self, task: Task, items: tuple[Item, ...], told: Callable[[int], None]
    ) -> tuple[Measured, list[dict[str, Any]]]:
        """Chats: loss of their answers; texts: of every token. Long documents are cut without losing one."""
        samples: list[Sample] = []
        dropped: Counter[str] = Counter()
        for item in items:
            assert not isinstance(item.record, Choice)
            objective: ObjectiveKind = "pretrain" if isinstance(item.record, Text) else "sft"
            rendered = render(
                item.record, item.address, self.template, objective, self.max_length, "keep_last_turns"
            )  # fmt: skip
            if isinstance(rendered, Drop):
                dropped[rendered.reason] += 1
            else:
                samples += map(to_sample, rendered.renderings)
        if not samples:
            raise DataError.at(task.path, f"no row can be scored: {_counted(dropped)}", "give other rows")
        heldout = held_out_loss(self.model, collect(samples), self.micro_tokens, progress=told)
        signature = f"loss|nats a target|template:{self.template.name}|max_length:{self.max_length}"
        measured = replace(
            heldout.measured(task.group, signature),
            notes=(f"rows left out: {_counted(dropped)}",) * bool(dropped),
        )
        records = [
            {"task": task.name, "address": address, "nats": nats, "targets": targets}
            for address, nats, targets in zip(heldout.addresses, heldout.nats, heldout.targets)
        ]
        return measured, records


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())
