"""Options of a tuning section that exclude each other, or that a model cannot have. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.errors import Problem
from tunesmith.recipe import Lora, Oft, Prompt, PTuning, Tuned
from tunesmith.tuning.footprint import footprint
from tunesmith.tuning.targets import all_targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunesmith.model.facts import ModelFacts
    from tunesmith.recipe import Tuning


def combination_problems(tuning: Tuning, facts: ModelFacts) -> list[Problem]:
    """Every combination that is refused, with its reason."""
    own = _PROBLEMS.get(type(tuning), lambda tuning, facts: [])
    return table_problems(tuning, facts) + own(tuning, facts)


def table_problems(tuning: Tuned, facts: ModelFacts) -> list[Problem]:
    """Why embedding and head cannot be held in few bits."""
    if tuning.tables == 16:
        return []
    tables = {f"{facts.spelling.embedding}.weight", f"{facts.spelling.head}.weight"}
    if tuning.new_tokens_only or tables & set(footprint(tuning, facts).names):
        why = "embedding or head trains, and a small update would round back to the code it came from"
    elif isinstance(tuning, Prompt | PTuning):
        why = "a prompt begins as rows of the embedding, and is kept in its form"
    elif facts.own_forward is not None:
        why = f"{facts.name} runs through its own forward ({facts.own_forward})"
    elif facts.hidden_size % 2:
        why = f"codes stand two to a byte, and rows have {facts.hidden_size} weights"
    else:
        return []
    return [
        Problem("tuning.tables", f"cannot be held in {tuning.tables} bits: {why}", "set tuning.tables: 16")
    ]


def _lora_problems(lora: Lora, facts: ModelFacts) -> list[Problem]:
    problems: list[Problem] = []
    if lora.init not in ("pissa", "olora"):
        return problems
    if lora.base != "none" or facts.stored:
        what = f"{lora.init} begins with parts of the full weights, and 4 bits hold only their rounded form"
        fix = "set tuning.init: eva or default; or tuning.base: none"
        problems.append(Problem("tuning.init", what, fix))
    if lora.variant == "dora" and lora.dropout:
        what = f"the frozen twin of {lora.init} sees no dropout, and dora takes lengths of both together"
        problems.append(Problem("tuning.dropout", what, "set tuning.dropout: 0"))
    smallest = min(min(linear.inputs, linear.outputs) for linear in all_targets(lora.targets, facts))
    if lora.rank > smallest:
        what = f"{lora.init} has as many parts as the smallest linear layer has rows, {smallest}, not {lora.rank}"
        problems.append(Problem("tuning.rank", what, f"set tuning.rank: {smallest} or less"))
    return problems


def _oft_problems(oft: Oft, facts: ModelFacts) -> list[Problem]:
    if facts.family != "gpt2":
        return []
    what = "PEFT rotates plain linear layers only, and gpt2 keeps its weights transposed"
    return [Problem("tuning.method", what, "use tuning: {method: lora}")]


_PROBLEMS: Mapping[type[Tuned], Callable[[Any, ModelFacts], list[Problem]]] = {
    Lora: _lora_problems,
    Oft: _oft_problems,
}
