"""The model the first stage starts from, measured by what the last one is measured by: before and after of the whole.

Held-out rows and tasks are those of the last stage, in the model's own tokens; other stages know their own besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.evaluation.known import Known
from tunesmith.events import Reporter
from tunesmith.folder import RunFolder, read_json, write_json
from tunesmith.opened import base_model, tokenizer_of
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.evaluation.scores import Evaluated
    from tunesmith.stages.plan import Planned


def measure_before(
    recipe: Recipe, planned: Sequence[Planned], folder: RunFolder, reporter: Reporter
) -> Known | None:
    """Measure once, into answers/before.json; a resumed run finds it there. None where a stage asks otherwise."""
    from tunesmith.data.template import ChatTemplate
    from tunesmith.evaluation.scores import from_json

    last = recipe.stages[-1].recipe
    assert last is not None
    tokenizer = tokenizer_of(recipe.model)
    template = ChatTemplate.of(tokenizer, last.data.template)
    kept = folder.answers / "before.json"
    found = (
        from_json(read_json(kept)) if kept.is_file() else _measure(recipe, last, planned, folder, reporter)
    )
    if recipe.stages[0].recipe is None or recipe.stages[0].recipe.tuning.base != "none":
        return None  # measured of these weights with these tokens, which the first stage does not train on
    return Known(
        found,
        last.tasks,
        last.evaluation.probes,
        template.source,
        last.data.max_length,
        folder.answers / "before.jsonl",
    )


def _measure(
    recipe: Recipe, last: Recipe, planned: Sequence[Planned], folder: RunFolder, reporter: Reporter
) -> Evaluated:
    from tunesmith.data.prepare import prepare
    from tunesmith.data.template import ChatTemplate
    from tunesmith.evaluation.evaluate import evaluate
    from tunesmith.plan.device import find_device

    plan = next(each.plan for each in planned if each.plan)
    tokenizer = tokenizer_of(recipe.model)
    template = ChatTemplate.of(tokenizer, last.data.template)
    held_out = None
    if last.data.validation is not None:
        held_out = prepare(last.data, last.objective, tokenizer, template, last.seed).validation
    found = evaluate(
        base_model(recipe.model, find_device(), plan["precision"], recipe.seed),
        tokenizer,
        template,
        held_out=held_out,
        tasks=last.tasks,
        probes=last.evaluation.probes,
        micro_tokens=plan["micro_tokens"],
        reporter=reporter,
        answers=folder.answers / "before.jsonl",
        max_length=last.data.max_length,
    )
    write_json(folder.answers / "before.json", found.to_json())
    return found
