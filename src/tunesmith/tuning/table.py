"""Every tuning method on one page: what it trains, its options, its rate, its exact count. No torch.

full    all weights                       freeze  last n layers (+ named modules)
lora    r (inputs + outputs) a target     h = W x + s B A x
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe import TUNING_ALIASES, Freeze, Full, Lora, Recipe, Section, Tuning

if TYPE_CHECKING:
    from tunesmith.model.facts import Linear, ModelFacts

FULL = Full(method="full")
# A model that starts from random weights has nothing to forget.
NEW_MODEL_LR = 1e-3


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A row of `tunesmith methods`. default_lr is by objective."""

    name: str
    trains: str
    section: type[Section]
    default_lr: Mapping[str, float]
    merge: str
    quantised_base: bool
    packing: bool
    when: str
    source: str

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
            "options": self.options,
            "default_lr": self.default_lr["sft"],
            "default_lr_by_objective": dict(self.default_lr),
            "parameters": _count(self, facts),
            "merge": self.merge,
            "quantised_base": self.quantised_base,
            "packing": self.packing,
            "when": self.when,
            "source": self.source,
        }


METHODS: Mapping[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo(
            "full", "every weight", Full, {"sft": 1e-5, "pretrain": 5e-5}, "exact", False, True,
            "much data, a new model, or knowledge far from the base; about 16 bytes of memory a parameter",
            "notes 001 (points 8, 17, 18) and 003",
        ),
        MethodInfo(
            "freeze", "the last layers, or named modules", Freeze, {"sft": 2e-5, "pretrain": 5e-5}, "exact",
            False, True, "a task near what the model knows; saves activations only of layers that train",
            "note 003; LLaMA-Factory's freeze tuning",
        ),
        MethodInfo(
            "lora", "low-rank updates beside every linear layer", Lora, {"sft": 2e-4, "pretrain": 2e-4},
            "rounded", True, True, "the usual choice: little memory, little forgetting, a small adapter",
            "Hu et al. 2021, arXiv:2106.09685; note 003",
        ),
        MethodInfo(
            "rslora", "as lora, scaled by alpha/sqrt(rank)", Lora, {"sft": 2e-4, "pretrain": 2e-4},
            "rounded", True, True, "ranks of 64 and more, where alpha/rank would shrink the update",
            "Kalajdzievski 2023, arXiv:2312.03732",
        ),
    )
}  # fmt: skip


def _count(info: MethodInfo, facts: ModelFacts | None) -> int | None:
    if facts is None:
        return None
    try:
        return trainable_parameters(info.tuning(), facts)
    except RecipeError:
        return None


def default_lr(recipe: Recipe) -> float:
    """The peak learning rate of `optim.lr: auto`: the method's own for the objective."""
    if recipe.model.from_config is not None and not isinstance(recipe.tuning, Lora):
        return NEW_MODEL_LR
    return METHODS[recipe.tuning.method].default_lr[recipe.objective]


def resolve_lr(recipe: Recipe) -> float:
    """The peak learning rate of a recipe, auto or given."""
    return default_lr(recipe) if recipe.optim.lr == "auto" else recipe.optim.lr


def trainable_parameters(tuning: Tuning, facts: ModelFacts) -> int:
    """How many parameters train, exactly; tied weights once. Raises RecipeError for unknown names."""
    match tuning:
        case Full():
            return facts.parameters
        case Freeze():
            counts = dict(facts.named_parameters())
            return sum(counts[name] for name in freeze_names(tuning, facts))
        case Lora():
            layers = [lora_targets(tuning, facts, index) for index in range(facts.layers)]
            targets = [*outside_targets(tuning, facts), *(linear for layer in layers for linear in layer)]
            return sum(tuning.rank * (linear.inputs + linear.outputs) for linear in targets)


def freeze_names(tuning: Freeze, facts: ModelFacts) -> set[str]:
    """Names of the parameters that train: those of the last layers and of the named modules."""
    if tuning.last_layers > facts.layers:
        raise RecipeError.at(
            "tuning.last_layers", f"{tuning.last_layers} layers asked, the model has {facts.layers}",
            "ask for fewer, or use tuning: {method: full}",
        )  # fmt: skip
    names = [name for name, _ in facts.named_parameters()]
    first = facts.layers - tuning.last_layers
    layers = tuple(f"{facts.layer(index)}." for index in range(first, facts.layers))
    chosen = {name for name in names if name.startswith(layers)} if layers else set()
    problems = []
    for wanted in tuning.modules:
        found = {name for name in names if _inside(name, wanted, facts)}
        chosen |= found
        if not found:
            problems.append(
                Problem(
                    "tuning.modules", f"{wanted!r} is not a module of this model that has weights",
                    f"such as {_some_modules(facts)}",
                )
            )  # fmt: skip
    if problems:
        raise RecipeError(problems)
    return chosen


def _inside(parameter: str, wanted: str, facts: ModelFacts) -> bool:
    """Whether a module named `wanted` (whole, or the end of its dotted name) holds the parameter."""
    if facts.tied and wanted == facts.spelling.head:
        return parameter in (f"{facts.spelling.embedding}.weight", f"{wanted}.bias")
    parts = parameter.split(".")[:-1]
    prefixes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(prefix == wanted or prefix.endswith(f".{wanted}") for prefix in prefixes)


def _some_modules(facts: ModelFacts) -> str:
    family = facts.spelling
    ends = [name for name in (family.head, family.final_norm, family.embedding) if name]
    return f"{', '.join(ends)}, or a name inside a layer: {facts.linears[-1].name}"


def lora_targets(tuning: Lora, facts: ModelFacts, layer: int) -> list[Linear]:
    """The linear layers of decoder layer `layer` that get an update."""
    linears = facts.linears_of(layer)
    if tuning.targets == "all_linear":
        return list(linears)
    problems = [_no_target(t, facts) for t in tuning.targets if not _names_a_linear(t, facts)]
    if problems:
        raise RecipeError(problems)
    prefix = facts.layer(layer)
    return [linear for linear in linears if any(_is(f"{prefix}.{linear.name}", t) for t in tuning.targets)]


def outside_targets(tuning: Lora, facts: ModelFacts) -> list[Linear]:
    """The linear layers that stand in no decoder layer and get an update; known families have none."""
    linears = facts.skeleton.outside if facts.skeleton else ()
    if tuning.targets == "all_linear":
        return list(linears)
    return [linear for linear in linears if any(_is(linear.name, t) for t in tuning.targets)]


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _names_a_linear(target: str, facts: ModelFacts) -> bool:
    inside = (
        f"{facts.layer(layer)}.{linear.name}"
        for layer in range(facts.layers)
        for linear in facts.linears_of(layer)
    )
    outside = (linear.name for linear in (facts.skeleton.outside if facts.skeleton else ()))
    return any(_is(name, target) for name in (*inside, *outside))


def _no_target(target: str, facts: ModelFacts) -> Problem:
    reason = (
        "cannot take a low-rank update: its logits are computed in chunks from the weight itself"
        if target == facts.spelling.head
        else "is not a linear layer of this model"
    )
    names = dict.fromkeys(linear.short for linear in facts.linears)
    return Problem("tuning.targets", f"{target!r} {reason}", f"all_linear, or names among {', '.join(names)}")
