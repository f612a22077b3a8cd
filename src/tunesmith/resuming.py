"""What is different when a run is resumed: each change named, with what it means; some go on, others want a word.

recipe, data files, model, libraries: then -- now -> [Change(where, was, is, means, harmless)]
harmless -> told, and the run goes on        others -> an error, unless --resume-anyway
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.errors import FolderError, Problem, RecipeError, UserError
from tunesmith.events import Reporter, Rescued
from tunesmith.folder import RunFolder, read_json
from tunesmith.model.run_recipe import recipe_of
from tunesmith.recipe import Recipe, diff

if TYPE_CHECKING:
    from tunesmith.plan.forecast import Plan


@dataclass(frozen=True, slots=True)
class Rule:
    """What a change of a key means. harmless: what is learnt stays the same, or is only rounded otherwise."""

    means: str
    harmless: bool = False
    never: bool = False


_ORDER = "rows come in another order from here on: some that were learnt come again, others never come"
_RATE = "the steps to come follow the new schedule, as if it had been so from the start"
_COME = "holds for the steps to come"
_ROUNDED = "the same sums, rounded in another order: not bit for bit the run it would have been"

# The longest key that a changed key begins with decides.
RECIPE: Mapping[str, Rule] = {
    "": Rule("another run than the one that began"),
    "output": Rule("runs are movable: nothing refers to where the folder stands", harmless=True),
    "track": Rule("who is told changes nothing that is learnt", harmless=True),
    "checkpoint": Rule("how often it is saved, and how much of that stays", harmless=True),
    "rescue": Rule(f"what counts as a bad step {_COME}", harmless=True),
    "evaluation.tasks": Rule(
        "the base is measured anew, so that before and after are the same tasks", harmless=True
    ),
    "evaluation.probes": Rule("the base is asked anew", harmless=True),
    "evaluation.every": Rule("held-out losses are taken at other steps", harmless=True),
    "evaluation.early_stop": Rule(f"when it is enough {_COME}", harmless=True),
    "compute.micro_tokens": Rule(_ROUNDED, harmless=True),
    "compute.checkpointing": Rule("activations are kept or computed again: the same numbers", harmless=True),
    "compute.offload": Rule("where inputs are kept: the same numbers", harmless=True),
    "compute.trunk_cache": Rule(_ROUNDED, harmless=True),
    "compute.deterministic": Rule(_ROUNDED, harmless=True),
    "compute.precision": Rule("computed in another precision from here on"),
    "model": Rule("what was learnt so far was learnt on another model"),
    "model.trust_remote_code": Rule("what may run, not what is trained", harmless=True),
    "model.from_config.vocab_size": Rule("filled in from the tokenizer", harmless=True),
    "data": Rule(_ORDER),
    "data.validation": Rule(f"held-out losses are of other rows, and {_ORDER}"),
    "data.test": Rule(f"other rows are held out, and {_ORDER}"),
    "tuning": Rule("what trains is another: only where every tensor keeps its shape can it go on"),
    "objective": Rule("another objective from here on, of the same samples only where they are the same"),
    "optim": Rule(_COME),
    "optim.lr": Rule(_RATE),
    "optim.schedule": Rule(_RATE),
    "optim.warmup": Rule(_RATE),
    "optim.batch_tokens": Rule(_ORDER),
    "optim.batch_growth": Rule(_ORDER),
    "optim.optimizer": Rule("its moments are kept in another form, and cannot be taken over", never=True),
    "budget": Rule("the end is another, and with it the schedule: the steps to come follow the new one"),
    "seed": Rule(_ORDER),
    "sharding": Rule(_ROUNDED, harmless=True),
}
LIBRARIES: Mapping[str, Rule] = {
    "tunesmith": Rule("its own code is another: samples, steps or schedule may differ"),
    "torch": Rule("the code that computes is another"),
    "transformers": Rule("the code of the model is another"),
    "peft": Rule("the code of the adapters is another"),
    "python": Rule("computes the same", harmless=True),
    "threads": Rule(_ROUNDED, harmless=True),
    "processor": Rule(_ROUNDED, harmless=True),
    "device": Rule(_ROUNDED, harmless=True),
}
DATA_FILE = Rule(f"another data file; {_ORDER}")
DATA = Rule(f"template, tokenizer or their code make other samples of the data; {_ORDER}")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    where: str
    was: Any
    now: Any
    rule: Rule

    @property
    def what(self) -> str:
        """In words, with what it means."""
        return f"was {self.was!r} when the run began, is {self.now!r} now: {self.rule.means}"


def recipe_changes(folder: RunFolder, recipe: Recipe) -> list[Change]:
    """Keys of the recipe that are not what the run began with."""
    return [Change(key, old, new, rule_of(key)) for key, old, new in diff(recipe_of(folder), recipe)]


def rule_of(key: str) -> Rule:
    """The rule of the longest known beginning of a key: optim.lr, else optim, else the strictest; of a stage, too."""
    parts = key.split(".")
    parts = parts[2:] if parts[0] == "stages" else parts
    return next(
        RECIPE[name]
        for name in (".".join(parts[:count]) for count in range(len(parts), -1, -1))
        if name in RECIPE
    )


def surrounding_changes(folder: RunFolder, now: Mapping[str, Any]) -> list[Change]:
    """Libraries, machine, data and model, against what environment.json says of the beginning."""
    try:
        then = read_json(folder.environment)
    except FileNotFoundError:  # killed before it was written: nothing had begun
        return []
    except ValueError as error:
        raise _unreadable(folder.environment, error) from error
    found = [
        Change(name, then[name], now[name], rule)
        for name, rule in LIBRARIES.items()
        if name in then and then[name] != now[name]
    ]
    old, new = then.get("fingerprints", {}), now["fingerprints"]
    differ = [key for key in new if key in old and old[key] != new[key]]
    files = [key for key in differ if key.startswith("data file")]
    found += [Change(key, _short(old[key]), _short(new[key]), DATA_FILE) for key in files]
    if "model" in differ:
        found.append(Change("model files", _short(old["model"]), _short(new["model"]), RECIPE["model"]))
    if "data" in differ and not files:
        found.append(Change("samples", _short(old["data"]), _short(new["data"]), DATA))
    return found


def _short(digest: str) -> str:
    return digest[:12]


def require_harmless(changes: Iterable[Change], anyway: bool, error: type[UserError] = RecipeError) -> None:
    """Raise RecipeError, or CheckpointError where the recipe is the same, with every change that needs a word."""
    problems = []
    for change in changes:
        if change.rule.never:
            problems.append(
                Problem(change.where, change.what, "resume with what it began with, or output=NEW")
            )
        elif not change.rule.harmless and not anyway:
            fix = "resume with what it began with; or add --resume-anyway, if that is meant; or output=NEW"
            problems.append(Problem(change.where, change.what, fix))
    if problems:
        raise error(problems)


def tell(changes: Iterable[Change], folder: RunFolder, reporter: Reporter) -> None:
    """Say what is different, and let go of what no longer holds."""
    changes = [change for change in changes if change.where not in ("output", "model.from_config.vocab_size")]
    for change in changes:
        reason = f"{change.where} was {change.was!r} when the run began"
        action = f"is {change.now!r} now; {change.rule.means}"
        reporter.event(Rescued(step=0, reason=reason, action=action))
    if any(change.where.startswith(("evaluation.tasks", "evaluation.probes")) for change in changes):
        folder.forget_answers("before")


def finished(folder: RunFolder) -> dict[str, Any] | None:
    """The report of a run that is at its end; None while it can go on."""
    if not folder.report.exists():
        return None
    try:
        report: dict[str, Any] = read_json(folder.report)
        return None if report["status"] == "interrupted" else report
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder.report, error) from error


def as_begun(plan: Plan, folder: RunFolder, changes: Iterable[Change]) -> Plan:
    """What `auto` became when the run began holds to its end, whatever memory is free today."""
    try:
        stored = read_json(folder.plan)
    except (OSError, ValueError):
        return plan
    keys = {"precision": "compute", "checkpointing": "compute", "micro_tokens": "compute", "lr": "optim"}
    changed = {change.where for change in changes}
    kept = {k: stored[k] for k, room in keys.items() if k in stored and f"{room}.{k}" not in changed}
    if "compute.trunk_cache" not in changed:
        on = bool(stored.get("trunk", {}).get("on"))
        kept["trunk"] = replace(plan.trunk, on=on and plan.trunk.layers > 0)
    return replace(plan, **kept)


def _unreadable(path: Any, error: Exception) -> FolderError:
    fix = f"put it back from a copy, or delete it: rm {path}"
    return FolderError([Problem(str(path), f"cannot be read: {error}", fix)])
