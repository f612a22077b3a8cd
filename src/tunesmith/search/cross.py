"""Each model on the held-out rows of every cut, where runs of a sweep cut their data differently.

              cut at 512        cut at 1024          A longer history changes which turns survive, and which
trained 512   1.93              1.88                 rows: a loss under one's own cut compares nothing. So each
trained 1024  1.94              1.85                 model reads both, on rows that no run was trained on.

As served: the last answer of each dialogue, every model with as much history as it was trained for.
By depth: the same losses, by how many answers a dialogue has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.data.samples import IGNORED, Sample, SampleSet, collect
from tunesmith.evaluation.forgetting import compare_heldout
from tunesmith.evaluation.interval import heldout_interval
from tunesmith.evaluation.scores import HeldOut
from tunesmith.events import Reporter
from tunesmith.recipe import Recipe, diff

if TYPE_CHECKING:
    from tunesmith.data.prepare import Prepared

# Keys that cut the same rows differently; under any other change held-out losses speak of other tokens.
CUTS = ("data.max_length", "data.overlength")
DEPTHS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, None))
MICRO_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Cut:
    """Held-out rows under one way of cutting, without those that any run was trained on."""

    name: str
    samples: SampleSet
    left_out: int


def cross_evaluate(runs: Sequence[tuple[str, Recipe]], reporter: Reporter) -> dict[str, Any] | None:
    """Every ended run (name, recipe) on every cut; None where all cut alike, or their losses cannot be compared."""
    from tunesmith.opened import open_model

    cut_of = _namer([recipe for _, recipe in runs])
    named = {cut_of(recipe): recipe for _, recipe in runs}
    if len(named) < 2 or not _comparable([recipe for _, recipe in runs]):
        return None
    prepared = {cut: _prepare(recipe) for cut, recipe in named.items()}
    cuts = _cuts(prepared)
    if not cuts:
        return None
    depths = _depths(next(iter(named.values())))
    measured: dict[str, dict[str, HeldOut]] = {}
    served: dict[str, HeldOut] = {}
    common = _common(cuts)
    for number, (name, recipe) in enumerate(runs):
        model = open_model(recipe.output).model
        measured[name] = {cut.name: _loss(model, cut.samples) for cut in cuts}
        own = next(cut for cut in cuts if cut.name == cut_of(recipe))
        if common:
            served[name] = _loss(model, last_answers(own.samples, common))
        reporter.progress("every model on every cut", number + 1, len(runs))
    return {
        "cuts": [{"name": cut.name, "rows": len(set(cut.samples.addresses)), "left_out": cut.left_out} for cut in cuts],
        "losses": {cut.name: _column({name: found[cut.name] for name, found in measured.items()}) for cut in cuts},
        "as_served": _column(served) if served else None,
        "by_depth": {
            cut.name: {name: _by_depth(found[cut.name], depths) for name, found in measured.items()} for cut in cuts
        },
    }  # fmt: skip


def _namer(recipes: Sequence[Recipe]) -> Callable[[Recipe], str]:
    """What tells the cuts apart: "512", or "512, split" where both keys differ."""
    plain = len({recipe.data.overlength for recipe in recipes}) == 1
    return lambda recipe: f"{recipe.data.max_length}" + ("" if plain else f", {recipe.data.overlength}")


def _comparable(recipes: Sequence[Recipe]) -> bool:
    """Whether all runs read the same rows in the same tokens."""
    same = ("model.tokenizer", "model.path", "model.from_config", "objective", "seed")
    for other in recipes[1:]:
        keys = [key for key, _, _ in diff(recipes[0], other)]
        data = [key for key in keys if key.startswith("data.") and key not in CUTS]
        if data or any(key.startswith(same) for key in keys):
            return False
    return True


def _prepare(recipe: Recipe) -> Prepared:
    from tunesmith.data.prepare import prepare
    from tunesmith.data.template import ChatTemplate
    from tunesmith.opened import tokenizer_of

    tokenizer = tokenizer_of(recipe.model)
    template = ChatTemplate.of(tokenizer, recipe.data.template)
    return prepare(recipe.data, recipe.objective, tokenizer, template, recipe.seed)


def _cuts(prepared: Mapping[str, Prepared]) -> list[Cut]:
    """The held-out rows of each cut; a row that another cut put into its training is left out everywhere."""
    trained = {address for data in prepared.values() for source in data.train for address in source.addresses}
    cuts = []
    for name, data in prepared.items():
        if data.validation is None:
            return []
        kept = [sample for sample in data.validation if sample.address not in trained]
        if not kept:
            return []
        cuts.append(Cut(name, collect(kept), len(data.validation) - len(kept)))
    return cuts


def _common(cuts: Sequence[Cut]) -> set[str]:
    """Rows that every cut holds in one piece."""
    found = set.intersection(*(set(cut.samples.addresses) for cut in cuts))
    for cut in cuts:
        found -= {address for address, pieces in Counter(cut.samples.addresses).items() if pieces > 1}
    return found


def last_answers(samples: SampleSet, addresses: set[str]) -> SampleSet:
    """The samples of those rows, of which only the last answer is scored."""
    return collect(_last_answer(sample) for sample in samples if sample.address in addresses)


def _last_answer(sample: Sample) -> Sample:
    learnt = sample.labels != IGNORED
    begin = int(np.flatnonzero(~learnt)[-1]) + 1 if not learnt.all() else 0
    labels = sample.labels.copy()
    labels[:begin] = IGNORED
    weights = None if sample.weights is None else np.where(labels == IGNORED, 0, sample.weights)
    return Sample(sample.input_ids, labels, sample.address, weights)


def _loss(model: Any, samples: SampleSet) -> HeldOut:
    from tunesmith.evaluation.heldout import held_out_loss

    return held_out_loss(model, samples, max(MICRO_TOKENS, int(samples.lengths.max())))


def _column(found: Mapping[str, HeldOut]) -> dict[str, Any]:
    """The losses of all runs on the same rows, each against the first, pair by pair."""
    first = next(iter(found.values()))
    return {
        name: {
            "loss_nats": held.loss_nats,
            "ci95": heldout_interval(held.to_score()),
            "rows": len(held.addresses),
            "targets": sum(held.targets),
            "against_first": compare_heldout(first, held) if held is not first else None,
        }
        for name, held in found.items()
    }


# --- by depth -----------------------------------------------------------------------------------------------


def _depths(recipe: Recipe) -> dict[str, int]:
    """How many answers the dialogue of each row has, in full: file:row -> n."""
    from tunesmith.data.faults import Fault
    from tunesmith.data.gather import open_source
    from tunesmith.data.prepare import inputs_of
    from tunesmith.data.records import Chat

    found = {}
    for _, source in inputs_of(recipe.data):
        opened = open_source(source)
        for raw in opened.rows:
            record = opened.record(raw)
            if not isinstance(record, Fault) and isinstance(record, Chat):
                found[raw.address] = sum(message.role == "assistant" for message in record.messages)
    return found


def _by_depth(held: HeldOut, depths: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = [
        (depths[address], nats, weight)
        for address, nats, weight in zip(held.addresses, held.nats, held.divisors)
        if address in depths
    ]
    found = []
    for low, high in DEPTHS:
        here = [
            (nats, weight) for depth, nats, weight in rows if low <= depth and (high is None or depth <= high)
        ]
        if here:
            loss = sum(nats for nats, _ in here) / sum(weight for _, weight in here)
            words = str(low) if high == low else f"{low}-{high}" if high else f"{low}+"
            found.append({"answers": words, "loss_nats": loss, "rows": len(here)})
    return found
