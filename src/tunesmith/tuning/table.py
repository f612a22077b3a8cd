"""Every tuning method on one page: what it trains, when to choose it, what it can do, its rate. No torch.

The rows stand in methods.py; counts in footprint.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import PydanticUndefined

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe import TUNING_ALIASES, BitFit, GaLore, Lisa, Recipe, Section, Tuning
from tunesmith.tuning.combinations import combination_problems
from tunesmith.tuning.footprint import (
    bias_targets,
    footprint,
    trainable_parameters,
    virtual_tokens,
    wrapped_linears,
)
from tunesmith.tuning.targets import bias_flags, module_names

if TYPE_CHECKING:
    from tunesmith.model.facts import ModelFacts

# A model that starts from random weights has nothing to forget.
NEW_MODEL_LR = 1e-3
# Weights of the model that train beside a method learn at most so fast: prompts and factors like far higher rates.
ALSO_LR = 2e-4


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a method can do; checked against the recipe before anything heavy loads.

    serve: as LoRA, as merged weights, or only in a Hugging Face runtime. own_forward: on families that run
    through their own forward, too. whole: what is kept is the model, not a part of it.
    """

    merge: Literal["exact", "rounded", "no"] = "rounded"
    serve: frozenset[Literal["lora", "merged", "hf"]] = frozenset({"lora", "merged", "hf"})
    quantised_base: bool = True
    checkpointing: bool = True
    packing: bool = True
    own_forward: bool = True
    whole: bool = False
    needs_calibration: bool = False


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A row of `tunesmith methods`. default_lr is by objective."""

    name: str
    section: type[Section]
    trains: str
    equation: str
    when: str
    when_not: str
    source: str
    default_lr: Mapping[str, float]
    can: Capabilities

    def tuning(self) -> Tuning:
        """The method as a recipe names it, with its defaults."""
        values = TUNING_ALIASES.get(self.name, {"method": self.name})
        return self.section.model_validate(dict(values))  # type: ignore[return-value]

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """Name -> default and meaning of each option, from the recipe's own section."""
        preset = TUNING_ALIASES.get(self.name, {})
        return {
            name: {
                "default": preset.get(name, None if field.default is PydanticUndefined else field.default),
                "help": field.description or "",
            }
            for name, field in self.section.model_fields.items()
            if name != "method"
        }

    def to_json(self, facts: ModelFacts | None = None) -> dict[str, Any]:
        """The contracted shape; `parameters` is exact for a model, null without one or where it cannot be."""
        return {
            "name": self.name,
            "trains": self.trains,
            "equation": self.equation,
            "options": self.options,
            "default_lr": self.default_lr["sft"],
            "default_lr_by_objective": dict(self.default_lr),
            "parameters": _count(self, facts),
            "merge": self.can.merge,
            "quantised_base": self.can.quantised_base,
            "packing": self.can.packing,
            "when": self.when,
            "when_not": self.when_not,
            "source": self.source,
        }


def _count(info: MethodInfo, facts: ModelFacts | None) -> int | None:
    if facts is None:
        return None
    try:
        return trainable_parameters(info.tuning(), facts)
    except RecipeError:
        return None


def rows_of(tuning: Tuning) -> list[MethodInfo]:
    """The rows that describe a tuning section: its method's, and those of the aliases that it amounts to."""
    from tunesmith.tuning.methods import METHODS

    values = tuning.model_dump()
    aliases = [
        METHODS[name]
        for name, preset in TUNING_ALIASES.items()
        if name in METHODS and all(values.get(key) == value for key, value in preset.items())
    ]
    return [METHODS[tuning.method], *aliases]


def default_lr(recipe: Recipe) -> float:
    """The peak learning rate of `optim.lr: auto`: the method's own for the objective, the lowest that applies."""
    if recipe.model.from_config is not None and recipe.tuning.method == "full":
        return NEW_MODEL_LR
    if recipe.model.from_config is not None and isinstance(recipe.tuning, GaLore):
        return NEW_MODEL_LR / recipe.tuning.scale  # the projected update takes NEW_MODEL_LR
    return min(row.default_lr[recipe.objective] for row in rows_of(recipe.tuning))


def resolve_lr(recipe: Recipe) -> float:
    """The peak learning rate of a recipe, auto or given."""
    return default_lr(recipe) if recipe.optim.lr == "auto" else recipe.optim.lr


def capability_problems(tuning: Tuning, facts: ModelFacts) -> list[Problem]:
    """What the recipe asks of its method that the method cannot do."""
    can, method = rows_of(tuning)[0].can, tuning.method
    problems = []
    if tuning.base != "none" and not can.quantised_base:
        what = f"{method} trains the base's own weights, which cannot be held in 4 bits"
        problems.append(Problem("tuning.base", what, "set tuning.base: none, or tuning: {method: qlora}"))
    if facts.own_forward is not None and not can.own_forward:
        what = f"{method} needs our attention, and {facts.name} runs through its own ({facts.own_forward})"
        problems.append(Problem("tuning.method", what, "use tuning: {method: lora}"))
    if facts.max_positions and virtual_tokens(tuning) >= facts.max_positions:
        what = f"{virtual_tokens(tuning)} virtual tokens fill the model's context of {facts.max_positions}"
        problems.append(Problem("tuning.length", what, "choose a small part of it, such as 20"))
    return problems + combination_problems(tuning, facts) + _also_problems(tuning, facts)


def _also_problems(tuning: Tuning, facts: ModelFacts) -> list[Problem]:
    """Why what should train beside a method cannot. Raises RecipeError for modules that are not there."""
    names = module_names(tuning.also_train, facts, "tuning.also_train")
    where, problems = "tuning.also_train", []
    if rows_of(tuning)[0].can.whole:
        if tuning.new_tokens_only:
            what = f"{tuning.method} trains the tables whole, not only their rows of new tokens"
            problems.append(Problem("tuning.new_tokens_only", what, "use tuning: {method: lora}"))
        layers = tuple(f"{facts.layer(i)}." for i in range(facts.layers)) if isinstance(tuning, Lisa) else ()
        drawn = {name for name in names if layers and name.startswith(layers)}
        if drawn or names - footprint(tuning.model_copy(update={"also_train": ()}), facts).names:
            what = f"{tuning.method} draws anew which layers train; what stands outside them always does"
            problems.append(Problem(where, what, "leave it out, or use tuning: {method: freeze}"))
        return problems
    linears = {
        f"{facts.layer(i)}.{linear.name}.weight"
        for i in range(facts.layers)
        for linear in facts.linears_of(i)
    }
    if shared := names & {f"{name}.weight" for name in wrapped_linears(tuning, facts)}:
        what = f"{tuning.method} has a part of its own at {min(shared).removesuffix('.weight')}"
        problems.append(Problem(where, what, "name other modules, or leave it out of tuning.targets"))
    elif tuning.base != "none" and names & linears:
        what = f"{min(names & linears).removesuffix('.weight')} is held in 4 bits, so it cannot train"
        problems.append(Problem(where, what, "set tuning.base: none, or name embed_tokens, lm_head or norms"))
    return problems


def also_scale(tuning: Tuning) -> float:
    """How much slower than a method's own part weights of the model learn beside it: ALSO_LR at the default rate."""
    return min(1.0, ALSO_LR / min(row.default_lr["sft"] for row in rows_of(tuning)))


def merge_problems(tuning: Tuning, facts: ModelFacts) -> list[Problem]:
    """Why what the method trained cannot be folded into the weights of a plain model; none where it can."""
    fix = "export it with --to adapter"
    if rows_of(tuning)[0].can.merge == "no":
        what = f"{tuning.method} adds to what the model computes, which no weight of a plain model can say"
        return [Problem("merged", what, fix)]
    if not (isinstance(tuning, BitFit) and tuning.add_biases):
        return []
    flags = {} if facts.skeleton else bias_flags(facts.spelling)
    silent = dict.fromkeys(
        linear.name for linear in bias_targets(tuning, facts) if not flags.get(linear.name)
    )
    if not silent:
        return []
    what = f"the config of {facts.family} has no key that gives {', '.join(silent)} a bias"
    return [Problem("merged", what, fix)]
