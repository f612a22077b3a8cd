"""A model ready to use: a run, a model folder or a hub id -> evaluate, answer, export.

One loader for all of them, and for what training starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import FolderError, ModelError, RecipeError
from tunesmith.evaluation.tasks import read_tasks
from tunesmith.events import Reporter, Silent
from tunesmith.folder import RunFolder, is_run, read_json
from tunesmith.model.adapted import PROMPTS, is_adapter, read_adapter
from tunesmith.model.config import read_config
from tunesmith.model.run_recipe import recipe_of, trained_run
from tunesmith.model.trained import trained_folder
from tunesmith.model.words import tokenizer_of
from tunesmith.readable import require_openable
from tunesmith.recipe import Lora, Model, Prompt, PTuningV2, Recipe, Task, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tunesmith.data.records import Message
    from tunesmith.data.samples import SampleSet
    from tunesmith.data.template import ChatTemplate
    from tunesmith.evaluation.scores import Evaluated
    from tunesmith.export.merge import Trained
    from tunesmith.model.quantised import Held
    from tunesmith.plan.device import Device
    from tunesmith.tuning.method import Method

# Where a run's adapter is put, if its base was held in few bits.
Onto = Literal["as trained", "own tables", "dequantised", "original"]
# What opens a PEFT adapter that is not folded.
_OPENED_BY: Mapping[str, Tuning] = {
    "PROMPT_TUNING": Prompt(method="prompt"),
    "P_TUNING": Prompt(method="prompt"),
    "PREFIX_TUNING": PTuningV2(method="p_tuning_v2"),
}
MICRO_TOKENS = 4096  # evaluation of a model without a plan of its own
MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to answer; `model` has its adapter on. A run has a recipe, method and folder too."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    precision: str
    recipe: Recipe | None = None
    method: Method | None = None
    folder: RunFolder | None = None


def precision_for(model: Model, device: Device) -> str:
    """What a model is opened in; one that cannot be trained here, its shape unknown, as a wide one."""
    from tunesmith.model.facts import read_facts

    try:
        return device.precision(read_facts(model).hidden_size)
    except ModelError:
        return "bf16" if device.bf16 else "fp32"


def open_model(target: str | Path, *, trust_remote_code: bool = False) -> Opened:
    """A run folder (its trained model), a model folder or a hub id. Raises ModelError or FolderError."""
    require_openable(target)
    from tunesmith.data.template import ChatTemplate
    from tunesmith.plan.device import find_device
    from tunesmith.tuning.build import build

    device = find_device()
    model = Model(path=str(target), trust_remote_code=trust_remote_code)
    tokenizer = tokenizer_of(model)
    if is_adapter(target):
        precision = precision_for(model, device)
        method, adapted = _adapted(model, device, precision, seed=0)
        chat = ChatTemplate.of(tokenizer, "auto")
        return Opened(str(target), adapted, tokenizer, chat, precision, method=method)
    if not is_run(target):
        precision = precision_for(model, device)
        lm = base_model(model, device, precision, seed=0)
        return Opened(str(target), lm, tokenizer, ChatTemplate.of(tokenizer, "auto"), precision)
    folder = trained_run(target)
    recipe = recipe_of(folder)
    precision = read_json(folder.plan)["precision"]
    method = build(recipe.tuning)
    trained: Any
    if trained_folder(folder) == folder.model:
        trained = base_model(Model(path=str(folder.model)), device, precision, recipe.seed)
    else:
        trained = _attached(recipe, folder.adapter, device, precision)
    return Opened(str(target), trained, tokenizer, _template(tokenizer), precision, recipe, method, folder)


def _attached(
    recipe: Recipe, adapter: Path, device: Device, precision: str, onto: Onto = "as trained"
) -> Any:
    """A run's adapter on its base.

    A base that was held in 4 bits: held so again, or its numbers in plain layers (which may be merged into), or
    the weights it was quantised from. Any other base is the same in all. Embedding and head are held in few bits
    again only as trained: they took no update, and are handed over as they were."""
    from tunesmith.model.quantised import Held, widen
    from tunesmith.tuning.build import build

    tuning = recipe.tuning if onto == "as trained" else recipe.tuning.model_copy(update={"tables": 16})
    held = None if onto == "original" else Held.by(tuning)
    base: Any = base_model(recipe.model, device, precision, recipe.seed, held)
    if onto == "dequantised":
        base = widen(base)
    return build(recipe.tuning).attach(base, adapter).eval()


def base_model(
    model: Model, device: Device, precision: str, seed: int, held: Held | None = None
) -> PreTrainedModel:
    """The weights a recipe starts from, `held` in 4 bits where asked; a run gives its trained model.

    That one is merged in fp32 (into plain layers, where its own base was held in 4 bits) and rounded once.
    """
    from tunesmith.model.load import DTYPES, load_model
    from tunesmith.model.quantised import hold
    from tunesmith.tuning.build import build

    dtype = DTYPES[precision if model.dtype == "auto" else model.dtype]
    where = "cuda" if device.kind == "cuda" else "cpu"
    if is_adapter(model.path):
        method, adapted = _adapted(model, device, precision, seed)
        return hold(method.merge(adapted), held).to(dtype)  # type: ignore[return-value]
    if model.path is None or not is_run(model.path):
        return load_model(model, where, dtype, seed, held)
    folder = trained_run(model.path)
    if trained_folder(folder) == folder.model:
        return load_model(model.model_copy(update={"path": str(folder.model)}), where, dtype, seed, held)
    recipe = recipe_of(folder)
    its_own = read_json(folder.plan)["precision"]
    merged = build(recipe.tuning).merge(_attached(recipe, folder.adapter, device, its_own, "dequantised"))
    return hold(merged, held).to(dtype)  # type: ignore[return-value]


def require_mergeable(model: Model) -> None:
    """Raise RecipeError, before a weight loads, where a run or adapter cannot be folded into plain weights."""
    from tunesmith.model.facts import read_facts
    from tunesmith.tuning.table import merge_problems

    if model.path is not None and is_run(model.path):
        recipe = recipe_of(trained_run(model.path))
        if problems := merge_problems(recipe.tuning, read_facts(recipe.model)):
            raise RecipeError(problems)
    elif is_adapter(model.path) and (kind := read_adapter(model).kind) in PROMPTS:
        what = (
            f"{model.path} is a {kind} adapter: it adds to what the model computes, which no weight can say"
        )
        raise RecipeError.at("merged", what, "use it as it is: it can be evaluated, and talked to")


def _adapted(model: Model, device: Device, precision: str, seed: int) -> tuple[Method, Any]:
    """A PEFT adapter on the base its config names, in plain layers, and the method that put it there."""
    from tunesmith.model.facts import read_facts
    from tunesmith.model.quantised import widen
    from tunesmith.tuning.also import AlsoTuning
    from tunesmith.tuning.build import build
    from tunesmith.tuning.table import capability_problems

    adapter = read_adapter(model)
    tuning = _OPENED_BY.get(adapter.kind, Lora(method="lora"))
    if problems := capability_problems(tuning, read_facts(adapter.base)):
        raise RecipeError(problems)
    method = AlsoTuning(build(tuning), tuning)  # with what trained beside it
    base = widen(base_model(adapter.base, device, precision, seed))
    return method, method.attach(base, adapter.folder).eval()


def answer(
    opened: Opened,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """The next turn of a dialogue, through the template of training. Greedy unless a temperature is given.

    `tools` are OpenAI's schemas, as rows have them. `on_text` hears the answer while it comes; what it heard, put
    together, begins the answer.
    """
    from tunesmith.model.generate import generate
    from tunesmith.model.stream import Stream

    def decode(ids: list[int]) -> str:
        return str(opened.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    stream = Stream(decode, on_text) if on_text else None
    prompt = opened.template.prompt_ids(messages, tools=tools)
    pad = opened.tokenizer.pad_token_id or 0
    found = generate(
        opened.model,
        [prompt],
        max_new_tokens,
        opened.template.stop_ids,
        pad,
        temperature=temperature,
        seed=seed,
        on_token=(lambda _, token: stream.hear(token)) if stream else None,
    )
    return decode(found[0])


def evaluate(
    target: str | Path,
    *,
    tasks: Sequence[Task] | None = None,
    probes: Sequence[str] | None = None,
    baseline: str | None = None,
    answers: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score a model on tasks and probes (a run: its own), against a baseline if named: the JSON of `eval`."""
    recipe = recipe_of(trained_run(target)) if is_run(target) else None
    chosen = tuple(tasks) if tasks is not None else recipe.tasks if recipe else ()
    asked = tuple(probes) if probes is not None else recipe.evaluation.probes if recipe else ()
    if recipe is None and not chosen and not asked:
        read_config(Model(path=str(target)))  # whose absence is the nearer fault
        raise RecipeError.at("--tasks", "nothing says what to score", f"{target} is no run: --tasks FILE")
    for name in (target, *([baseline] if baseline else [])):
        require_openable(name)
    read_tasks(chosen)  # a fault in a task file is told before a model is loaded
    from tunesmith.evaluation.evaluate import evaluate as measure
    from tunesmith.evaluation.forgetting import compare

    def scores(name: str | Path, kept: Path | None) -> Evaluated:
        opened = open_model(name)
        return measure(
            *(opened.model, opened.tokenizer, opened.template),
            held_out=_held_out(opened, recipe) if recipe else None,
            tasks=chosen,
            probes=asked,
            micro_tokens=MICRO_TOKENS,
            reporter=reporter or Silent(),
            answers=kept,
            max_length=recipe.data.max_length if recipe else MAX_LENGTH,
        )

    results = scores(target, answers)
    other = scores(baseline, None) if baseline else None
    return {
        "model": str(target),
        "baseline": baseline,
        "results": results.scores,
        "baseline_results": other.scores if other else None,
        "forgetting": compare(other, results, chosen) if other else {},
    }


def _held_out(opened: Opened, recipe: Recipe) -> SampleSet | None:
    """The validation rows of a run, in the tokens of the opened model; none where the data have gone."""
    from tunesmith.data.prepare import prepare

    named = (recipe.data.validation, recipe.data.test)
    files = [*named, *(source.path for source in recipe.data.train if source.stream is None)]
    if not all(Path(path).is_file() for path in files if isinstance(path, str)):
        return None
    data = prepare(recipe.data, recipe.objective, opened.tokenizer, opened.template, recipe.seed)
    return data.validation


def export(
    target: str | Path,
    form: Literal["merged", "adapter"],
    reporter: Reporter | None = None,
    onto: Literal["dequantised", "original"] | None = None,
) -> dict[str, Any]:
    """Hand over a run as a plain model or adapter folder, with the certificate that it answers alike.

    `onto`: a base that was held in 4 bits is merged into as it was computed with (the default), or as it was before.
    """
    if is_adapter(target):
        _choose_base(None, form, onto)
        return _export_adapted(str(target), form, reporter)
    recipe = recipe_of(folder := trained_run(target))
    if form == "merged":
        require_mergeable(Model(path=str(target)))
    require_openable(target)
    chosen, trained = _choose_base(recipe, form, onto), trained_folder(folder)
    from tunesmith.export.adapter import export_adapter
    from tunesmith.export.merge import export_merged
    from tunesmith.plan.device import find_device

    device = find_device()
    plainly = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "auto"})})

    def attached(adapter: Path, precision: str, onto: Onto = "own tables") -> Any:
        if trained == folder.model:
            return base_model(Model(path=str(trained)), device, precision, recipe.seed)
        return _attached(plainly, adapter, device, precision, onto)

    parts = _trained(recipe, trained, attached, chosen)
    destination = RunFolder(Path(target)).export(form)
    probes = recipe.evaluation.probes
    if form == "merged":
        asked = recipe.model.dtype
        precision = read_json(folder.plan)["precision"] if asked == "auto" else asked
        found = export_merged(parts, destination, precision, probes, reporter)
    else:
        found = export_adapter(parts, destination, lambda copy: attached(copy, "fp32"), probes, reporter)
    return {"run": str(target), "form": form, "folder": str(destination), "certificate": found}


def _trained(recipe: Recipe, folder: Path, attached: Callable[..., Any], onto: Onto | None) -> Trained:
    """What a run trained, as an export opens it; `attached(adapter, precision, onto)` gives a model."""
    from tunesmith.export.merge import Trained
    from tunesmith.model.load import load_tokenizer
    from tunesmith.tuning.build import build

    tokenizer = load_tokenizer(Model(path=str(folder)))

    def opened(dtype: Any, place: Onto = "own tables") -> Any:
        return attached(folder, _precision_of(dtype), place)

    return Trained(
        open=opened if onto != "original" else lambda dtype: opened(dtype, "original"),
        fold=(lambda: attached(folder, "fp32", "dequantised")) if onto == "dequantised" else None,
        as_trained=lambda dtype: opened(dtype, "as trained"),
        onto=onto,
        tables=recipe.tuning.tables,
        merge=build(recipe.tuning).merge,
        tokenizer=tokenizer,
        template=_template(tokenizer),
        base=Path(recipe.model.path) if recipe.model.path else None,
        trained=folder,
    )


def _choose_base(recipe: Recipe | None, form: str, onto: Onto | None) -> Onto | None:
    """What a merge goes into, where the base was held in 4 bits. Raises RecipeError where there is no choice."""
    from tunesmith.model.facts import read_facts

    if recipe is None or form != "merged" or recipe.tuning.base == "none":
        if onto is not None:
            what = "is for merging a run whose base was held in 4 bits, and this is none"
            raise RecipeError.at("--onto", what, "leave it out")
        return None
    if onto == "original" and read_facts(recipe.model).stored:
        what = f"{recipe.model.path} is stored in 4 bits; there are no original weights"
        raise RecipeError.at("--onto", what, "use --onto dequantised")
    return onto or "dequantised"


def _export_adapted(target: str, form: str, reporter: Reporter | None) -> dict[str, Any]:
    """A PEFT adapter folder and its base as one plain model, into FOLDER/exports/merged/."""
    from tunesmith.data.template import ChatTemplate
    from tunesmith.export.merge import Trained, export_merged
    from tunesmith.plan.device import find_device
    from tunesmith.tuning.build import build

    if form != "merged":
        raise FolderError.at(target, "is an adapter already", "export it with --to merged")
    model = Model(path=target)
    require_mergeable(model)
    adapter, tokenizer, device = read_adapter(model), tokenizer_of(model), find_device()
    values = read_config(adapter.base).values
    stored = values.get("dtype") or values.get("torch_dtype")
    parts = Trained(
        open=lambda dtype: _adapted(model, device, _precision_of(dtype), seed=0)[1],
        merge=build(Lora(method="lora")).merge,
        tokenizer=tokenizer,
        template=ChatTemplate.of(tokenizer, "auto"),
        base=Path(str(adapter.base.path)),
        trained=adapter.folder,
    )
    destination = RunFolder(adapter.folder).export(form)
    found = export_merged(parts, destination, "bf16" if stored == "bfloat16" else "fp32", (), reporter)
    return {"run": target, "form": form, "folder": str(destination), "certificate": found}


def _precision_of(dtype: Any) -> str:
    from tunesmith.model.load import DTYPES

    return next(name for name, known in DTYPES.items() if known == dtype)


def _template(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
    """The template a run was trained with: it was saved with the tokenizer, whatever the recipe called it."""
    from tunesmith.data.template import ChatTemplate

    return ChatTemplate.of(tokenizer)
