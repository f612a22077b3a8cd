"""Everything known before a weight is loaded, and how it goes on from there: base -> tuned -> fitted.

Work(recipe, tokenizer, template, data, facts, device, steps, plan)  --base_of-->  model  --tune-->  what trains
                                                                     --fit_to_data-->  the engine, to the end
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tunesmith.engine.faults import visit
from tunesmith.errors import DoesNotFitError
from tunesmith.events import Reporter, Rescued, Stepped
from tunesmith.folder import RunFolder, read_json, staged, write_json
from tunesmith.opened import base_model
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.loader import Batch, RunSteps
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.samples import Sample, SampleSet
    from tunesmith.data.template import ChatTemplate
    from tunesmith.engine.loop import HeldOut as HeldOutLoss
    from tunesmith.engine.progress import FitResult, Settings
    from tunesmith.engine.store import CheckpointStore
    from tunesmith.evaluation.known import Known
    from tunesmith.evaluation.scores import Evaluated, HeldOut
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.device import Device
    from tunesmith.plan.forecast import Plan
    from tunesmith.tuning.method import Method, Schedule, Setting, TunedModel


Found = TypeVar("Found")
LEAST_EVALUATED_TOKENS = 64
# A forecast below this share of the memory there is needs no trial: it has never been wrong by so much (docs/plan.md).
SAFE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    """Everything known before a weight is loaded."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    data: Prepared
    facts: ModelFacts
    device: Device
    steps: RunSteps
    plan: Plan


def base_of(work: Work) -> Any:
    """The model that a recipe starts from."""
    from tunesmith.model.quantised import Held
    from tunesmith.tuning.untrained import with_new_tokens

    recipe = work.recipe
    lm = base_model(recipe.model, work.device, work.plan.precision, recipe.seed, Held.by(recipe.tuning))
    with_new_tokens(
        recipe, work.tokenizer, work.template, work.data, work.facts, recipe.model
    )  # the hub's are here now
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
        checkpoint_layers(lm, work.plan.recomputed, recipe.compute.offload == "checkpoints")
    return tuned, method


def _setting(work: Work) -> Setting:
    """What a method may look at before training: the length of the run, words, and the first rows."""
    from tunesmith.data.loader import batches
    from tunesmith.tuning.method import Setting

    def sample() -> Iterator[Batch]:
        for step in range(work.steps.known):
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
    store: CheckpointStore | None,
    reporter: Reporter,
    *,
    stop_after: int | None = None,
    anyway: bool = False,
    base_loss_nats: float | None = None,
    schedule: Schedule | None = None,
    enough: Callable[[Stepped], bool] | None = None,
) -> FitResult:
    """Hand the engine what it needs, and the held-out loss as a function.

    `base_loss_nats` is the held-out loss before training, where it is known. `schedule` gives another rate than the
    recipe's; then nothing is evaluated on the way.
    """
    from tunesmith.engine.loop import fit
    from tunesmith.objectives.language_modelling import summed_loss

    recipe = work.recipe
    validation = work.data.validation if schedule is None else None
    if validation is not None and not len(validation):
        validation = None
    settings = replace(
        _settings(work),
        stop_after=stop_after,
        schedule=schedule,
        enough=enough,
        anyway=anyway,
        held_out=validation,
        base_loss_nats=base_loss_nats,
    )
    held_out = None if validation is None else _held_out(work, tuned, validation, reporter)
    rows, steps = work.data.train, work.steps
    loss_of = partial(summed_loss, z_loss=recipe.optim.z_loss)
    return fit(
        tuned, method, loss_of, rows, steps, recipe, settings, store, identity_of(work), reporter, held_out
    )  # fmt: skip


def _settings(work: Work) -> Settings:
    """What plan and recipe say to the engine."""
    from tunesmith.engine.progress import settings_of
    from tunesmith.plan.memory import STATE_BYTES

    recipe, plan = work.recipe, work.plan
    return replace(
        settings_of(
            recipe, len(work.steps), lr=plan.lr, bf16=plan.precision == "bf16", micro_tokens=plan.micro_tokens
        ),
        vocabulary=work.facts.vocab_size,
        text_of=_words_of(work),
        dry_run=_is_tight(work),
        foreseen=plan.foreseen,
        next_recipe=plan.lower(f"{recipe.output}/recipe.yaml"),
        state_bytes=STATE_BYTES[recipe.optim.optimizer],
    )


def _held_out(work: Work, tuned: TunedModel, rows: SampleSet, reporter: Reporter) -> HeldOutLoss:
    """The held-out loss as the engine asks for it."""
    from tunesmith.evaluation.heldout import held_out_loss

    def held_out(breathe: Callable[[], None]) -> tuple[float, int]:
        def measured(micro_tokens: int) -> HeldOut:
            return held_out_loss(tuned.model, rows, micro_tokens, progress=lambda done: breathe())

        found = _evaluated_in_pieces(work, measured, reporter)
        return found.loss_nats, sum(found.targets)

    return held_out


def save_trained(work: Work, folder: RunFolder, tuned: TunedModel, method: Method) -> None:
    """What was trained, with its tokenizer and template, so that plain transformers or PEFT loads it.

    Whole or absent: a folder that is there is one that can be used.
    """
    from tunesmith.model.forward import causal_lm
    from tunesmith.model.load import DTYPES, save_model, save_tokenizer
    from tunesmith.tuning.methods import METHODS

    whole = METHODS[work.recipe.tuning.method].can.whole
    with staged(folder.model if whole else folder.adapter) as staging:
        if whole:
            save_model(
                causal_lm(tuned.model), work.tokenizer, work.template, staging, DTYPES[work.plan.precision]
            )
        else:
            method.save(tuned, staging)
            save_tokenizer(work.tokenizer, work.template, staging)
        visit("kept")


def scores_at(
    model: Any, work: Work, folder: RunFolder, when: str, reporter: Reporter, known: Known | None = None
) -> Evaluated:
    """Evaluate once: a resumed run finds what was measured before; the test set is touched once."""
    from tunesmith.evaluation.evaluate import evaluate as measure
    from tunesmith.evaluation.scores import from_json

    kept = folder.answers / f"{when}.json"
    if kept.exists():
        return from_json(read_json(kept))
    wanted = work.recipe.evaluation

    def measured(micro_tokens: int) -> Evaluated:
        return measure(
            model,
            work.tokenizer,
            work.template,
            held_out=work.data.test if when == "test" else work.data.validation,
            tasks=() if when == "test" else work.recipe.tasks,
            probes=() if when == "test" else wanted.probes,
            micro_tokens=micro_tokens,
            reporter=reporter,
            answers=folder.answers / f"{when}.jsonl",
            max_length=work.recipe.data.max_length,
            held_out_name="test-set loss" if when == "test" else "held-out loss",
            known=known,
        )

    found = _evaluated_in_pieces(work, measured, reporter)
    write_json(kept, found.to_json())
    return found


def identity_of(work: Work) -> dict[str, str]:
    """Digests of what is learnt from and by: each data file, the samples made of them, the model."""
    from tunesmith.model.load import fingerprint

    files = {f"data file {path}": digest for path, digest in work.data.files.items()}
    return {**files, "data": work.data.fingerprint, "model": fingerprint(work.recipe.model)}


def surroundings_of(work: Work) -> dict[str, Any]:
    """environment.json: what bit-exact resume depends on beside the recipe."""
    from tunesmith.engine.world import environment

    return {**environment(), "fingerprints": identity_of(work)}


def _evaluated_in_pieces(work: Work, measured: Callable[[int], Found], reporter: Reporter) -> Found:
    """An evaluation with fewer tokens at once where memory runs out. Training's own micro-batches stay."""
    from tunesmith.model.memory import in_pieces, is_out_of_memory

    def shrunk(tokens: int) -> None:
        action = f"evaluation begins anew with {tokens} tokens at once; training is not touched"
        reporter.event(Rescued(step=0, reason="out of memory while evaluating", action=action))

    try:
        return in_pieces(work.plan.micro_tokens, LEAST_EVALUATED_TOKENS, measured, shrunk)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = f"out of memory with {LEAST_EVALUATED_TOKENS} tokens at once; {work.plan.foreseen}"
        fix = work.plan.lower(f"{work.recipe.output}/recipe.yaml")
        raise DoesNotFitError.at("evaluation", what, fix) from error


def _is_tight(work: Work) -> bool:
    """Whether the forecast comes so near to what there is that the worst batch is better tried first."""
    from tunesmith.engine.world import free_bytes, peak_bytes

    room = work.device.memory_bytes
    if work.device.kind == "cpu" and (free := free_bytes()) is not None:
        room = min(room, free + peak_bytes())
    return work.plan.peak_bytes > SAFE_SHARE * room


def _words_of(work: Work) -> Callable[[Sample], str]:
    """The text of a sample, control tokens included, for events that name rows."""

    def words(sample: Sample) -> str:
        ids = [*sample.input_ids.tolist(), *sample.labels[-1:].tolist()]
        return str(work.tokenizer.decode([token for token in ids if token >= 0]))

    return words
