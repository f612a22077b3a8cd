"""Everything known before a weight is loaded, and how it goes on from there: base -> tuned -> fitted.

Work(recipe, tokenizer, template, data, facts, device, steps, plan)  --base_of-->  model  --tune-->  what trains
                                                                     --fit_to_data-->  the engine, to the end
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.events import Reporter, Stepped
from tunesmith.opened import base_model
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.loader import Batch, StepPlan
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.template import ChatTemplate
    from tunesmith.engine.checkpoint import CheckpointStore
    from tunesmith.engine.loop import FitResult
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.device import Device
    from tunesmith.plan.forecast import Plan
    from tunesmith.tuning.method import Method, Schedule, Setting, TunedModel


@dataclass(frozen=True, slots=True)
class Work:
    """Everything known before a weight is loaded."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    data: Prepared
    facts: ModelFacts
    device: Device
    steps: StepPlan
    plan: Plan


def base_of(work: Work) -> Any:
    """The model that a recipe starts from."""
    from tunesmith.model.quantised import Held
    from tunesmith.tuning.untrained import with_new_tokens

    recipe = work.recipe
    lm = base_model(recipe.model, work.device, work.plan.precision, recipe.seed, Held.by(recipe.tuning))
    with_new_tokens(recipe, work.tokenizer, work.template, work.data, work.facts)  # the hub's are here now
    return lm


def tune(work: Work, lm: Any) -> tuple[TunedModel, Method]:
    """The base made ready by its method: what trains is what was planned."""
    from tunesmith.engine.world import seed_everything
    from tunesmith.model.load import checkpoint_layers
    from tunesmith.tuning.build import build
    from tunesmith.tuning.footprint import trainable_parameters

    recipe = work.recipe
    method = build(recipe.tuning)
    seed_everything(recipe.seed, recipe.compute.deterministic)
    tuned = method.prepare(lm, _setting(work))
    expected = trainable_parameters(recipe.tuning, work.facts)
    assert tuned.trainable_count == expected, (
        f"{tuned.trainable_count} parameters train, {expected} were planned"
    )
    if work.plan.recomputed:
        checkpoint_layers(lm, work.plan.recomputed)
    return tuned, method


def _setting(work: Work) -> Setting:
    """What a method may look at before training: the length of the run, words, and the first rows."""
    from tunesmith.data.loader import batches
    from tunesmith.tuning.method import Setting

    def sample() -> Iterator[Batch]:
        for step in range(len(work.steps)):
            rows = work.steps.samples(work.data.train, step)
            yield from batches(rows, work.plan.micro_tokens, work.recipe.data.packing)

    return Setting(
        seed=work.recipe.seed,
        steps=len(work.steps),
        words=lambda text: work.tokenizer(text, add_special_tokens=False)["input_ids"],
        sample=sample,
        new_tokens=work.facts.new_tokens,
    )


def fit_to_data(
    work: Work,
    tuned: TunedModel,
    method: Method,
    store: CheckpointStore,
    reporter: Reporter,
    *,
    stop_after: int | None = None,
    schedule: Schedule | None = None,
    enough: Callable[[Stepped], bool] | None = None,
) -> FitResult:
    """Hand the engine what it needs, and the held-out loss as a function.

    `schedule` gives another rate than the recipe's; then nothing is evaluated on the way.
    """
    from tunesmith.engine.loop import fit, settings_of
    from tunesmith.evaluation.heldout import held_out_loss
    from tunesmith.model.load import fingerprint
    from tunesmith.objectives.language_modelling import summed_loss

    recipe, plan, validation = work.recipe, work.plan, work.data.validation
    settings = settings_of(
        recipe,
        len(work.steps),
        lr=plan.lr,
        bf16=plan.precision == "bf16",
        micro_tokens=plan.micro_tokens,
        stop_after=stop_after,
    )

    def held_out() -> tuple[float, int]:
        assert validation is not None
        found = held_out_loss(tuned.model, validation, plan.micro_tokens)
        return found.loss_nats, sum(found.targets)

    evaluates = schedule is None and validation is not None and len(validation)
    files = {f"data file {path}": digest for path, digest in work.data.files.items()}
    return fit(
        tuned,
        method,
        summed_loss,
        work.data.train,
        work.steps,
        recipe,
        replace(settings, schedule=schedule, enough=enough),
        store,
        {**files, "data": work.data.fingerprint, "model": fingerprint(recipe.model)},
        reporter,
        held_out if evaluates else None,
    )
