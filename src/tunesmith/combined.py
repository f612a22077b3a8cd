"""Several LoRA adapters and the base they were trained on: talk to any weighted sum of them, hand one over.

chat BASE --adapter RUN_A --adapter RUN_B=0.5        y = W x + 1 s_A B_A A_A x + 0.5 s_B B_B A_B x
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import FolderError, ModelError, Problem, RecipeError, UserError
from tunesmith.export.staging import CERTIFICATE, refuse_foreign
from tunesmith.folder import is_run
from tunesmith.model.adapted import is_adapter, read_adapter, sum_problem
from tunesmith.model.run_recipe import recipe_of, trained_run
from tunesmith.model.trained import trained_folder
from tunesmith.opened import Opened, base_model, precision_for, tokenizer_of
from tunesmith.readable import require_openable
from tunesmith.recipe import Lora, Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.events import Reporter
    from tunesmith.export.merge import Trained

WHERE = "--adapter"


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter: what the user calls it, PEFT's name for it (no dots), where it lies, on which base."""

    label: str
    name: str
    weight: float
    folder: Path
    base: Model


@dataclass(frozen=True, slots=True)
class Combined:
    """A base with adapters on it, ready to answer."""

    opened: Opened
    parts: tuple[Part, ...]

    def weigh(self, wanted: Mapping[str, float]) -> None:
        """Let the adapters named (by label) count so much, and no other. Raises UserError for unknown ones."""
        from tunesmith.tuning.several import weigh

        names = {part.label: part.name for part in self.parts}
        if unknown := [label for label in wanted if label not in names]:
            what = f"no adapter is called {', '.join(unknown)}"
            raise UserError.at("/adapter", what, f"choose from: {', '.join(names)}")
        weigh(self.opened.model, {name: wanted.get(label, 0.0) for label, name in names.items()})


def parts_of(target: str, wanted: Sequence[str]) -> tuple[Part, ...]:
    """The adapters named, each PATH or PATH=WEIGHT. Raises RecipeError with every reason why they cannot be summed."""
    parts: list[Part] = []
    problems: list[Problem] = []
    for number, words in enumerate(wanted):
        path, weight = split_weight(words)
        try:
            found = _part(path, weight, f"adapter{number}")
        except (ModelError, FolderError) as error:
            problems += error.problems
            continue
        parts.append(found)
        alone = len(wanted) == 1 and weight == 1
        if reason := sum_problem(found.folder, alone):
            problems.append(
                Problem(f"{WHERE} {path}", reason, "sum plain LoRA adapters, or merge it by itself")
            )
        elif not _same_model(target, found.base):
            what = f"was trained on {found.base.path}, not on {target}"
            problems.append(Problem(f"{WHERE} {path}", what, f"name {found.base.path} as the model"))
    labels = [part.label for part in parts]
    if twice := {label for label in labels if labels.count(label) > 1}:
        what = f"{', '.join(sorted(twice))} is named twice"
        problems.append(Problem(WHERE, what, "name each once, with one weight"))
    if problems:
        raise RecipeError(problems)
    return tuple(parts)


def split_weight(words: str) -> tuple[str, float]:
    """ "runs/a=0.5" -> ("runs/a", 0.5); without a number the weight is 1."""
    path, equals, number = words.rpartition("=")
    try:
        return (path, float(number)) if equals else (words, 1.0)
    except ValueError:
        return words, 1.0


def _part(path: str, weight: float, name: str) -> Part:
    label = Path(path).name or path
    if is_run(path):
        run = trained_run(path)
        folder = trained_folder(run)
        if folder == run.model:
            what = "trained the whole model, so it has no adapter"
            raise ModelError.at(path, what, "use a run of tuning: {method: lora}")
        return Part(label, name, weight, folder, recipe_of(run).model)
    if not is_adapter(path):
        what = "is neither a run nor a PEFT adapter folder"
        raise ModelError.at(path, what, "name a run folder, or one with adapter_config.json")
    adapter = read_adapter(Model(path=path))
    return Part(label, name, weight, adapter.folder, adapter.base)


def _same_model(target: str, base: Model) -> bool:
    """Whether both are one place, or hold the same weights."""
    if base.path is None or target == base.path:
        return target == base.path
    one, other = Path(target).expanduser(), Path(base.path).expanduser()
    if not (one.is_dir() and other.is_dir()):
        return False
    from tunesmith.export.certificate import weight_hashes

    return one.resolve() == other.resolve() or weight_hashes(one) == weight_hashes(other) != {}


def open_combined(target: str, wanted: Sequence[str]) -> Combined:
    """The base with several adapters on it. Raises RecipeError, ModelError or FolderError."""
    require_openable(target)
    parts = parts_of(target, wanted)
    from tunesmith.data.template import ChatTemplate
    from tunesmith.plan.device import find_device
    from tunesmith.tuning.build import build

    precision = precision_for(Model(path=target), find_device())
    tokenizer = _tokenizer(parts)
    model, method = _attached(target, parts, precision), build(Lora(method="lora"))
    opened = Opened(target, model, tokenizer, ChatTemplate.of(tokenizer, "auto"), precision, method=method)
    return Combined(opened, parts)


def _attached(target: str, parts: Sequence[Part], precision: str) -> Any:
    """The adapters on the base, in plain layers, each with its weight."""
    from tunesmith.model.quantised import widen
    from tunesmith.plan.device import find_device
    from tunesmith.tuning.several import attach_several, weigh

    base = widen(base_model(Model(path=target), find_device(), precision, seed=0))
    model = attach_several(base, {part.name: part.folder for part in parts})
    weigh(model, {part.name: part.weight for part in parts})
    return model


def _tokenizer(parts: Sequence[Part]) -> PreTrainedTokenizerFast:
    """The tokenizer all were trained with. Raises RecipeError where their templates differ."""
    every = [tokenizer_of(Model(path=str(part.folder))) for part in parts]
    for part, tokenizer in zip(parts, every):
        if (tokenizer.chat_template, len(tokenizer)) != (every[0].chat_template, len(every[0])):
            what = f"was trained with another template or vocabulary than {parts[0].label}"
            raise RecipeError.at(f"{WHERE} {part.label}", what, "sum adapters that read the same words")
    return every[0]


def export_combined(
    target: str,
    wanted: Sequence[str],
    form: Literal["merged", "adapter"],
    out: str | Path,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """The weighted sum as a plain model or one LoRA adapter in the folder `out`, with its certificate."""
    destination = Path(out).expanduser()
    refuse_foreign(destination, CERTIFICATE)
    require_openable(target)
    parts = parts_of(target, wanted)
    from tunesmith.data.template import ChatTemplate
    from tunesmith.export.merge import Trained, export_merged
    from tunesmith.model.config import read_config
    from tunesmith.tuning.build import build

    tokenizer = _tokenizer(parts)
    trained = Trained(
        open=lambda dtype: _attached(target, parts, _precision_of(dtype)),
        merge=build(Lora(method="lora")).merge,
        tokenizer=tokenizer,
        template=ChatTemplate.of(tokenizer, "auto"),
        base=Path(target),
        trained=parts[0].folder,
        parts={part.label: part.folder for part in parts},
    )
    if form == "merged":
        values = read_config(Model(path=target)).values
        stored = values.get("dtype") or values.get("torch_dtype")
        found = export_merged(trained, destination, "bf16" if stored == "bfloat16" else "fp32", (), reporter)
    else:
        found = _export_update(target, parts, trained, destination, reporter)
    return {
        "run": target,
        "form": form,
        "folder": str(destination),
        "adapters": {part.label: part.weight for part in parts},
        "certificate": found,
    }


def _export_update(
    target: str, parts: Sequence[Part], trained: Trained, destination: Path, reporter: Reporter | None
) -> dict[str, Any]:
    """One adapter of rank r1 + r2: what it answers is compared with the adapters side by side."""
    from tunesmith.export.adapter import export_adapter
    from tunesmith.plan.device import find_device
    from tunesmith.tuning.peft_methods import attach_adapter
    from tunesmith.tuning.several import write_joined

    def attached(copy: Path) -> Any:
        return attach_adapter(base_model(Model(path=target), find_device(), "fp32", seed=0), copy).eval()

    with tempfile.TemporaryDirectory() as made:
        write_joined(_attached(target, parts, "fp32"), {p.name: p.weight for p in parts}, target, Path(made))
        joined = replace(trained, trained=Path(made))
        return export_adapter(joined, destination, attached, (), reporter)


def _precision_of(dtype: Any) -> str:
    from tunesmith.model.load import DTYPES

    return next(name for name, known in DTYPES.items() if known == dtype)
