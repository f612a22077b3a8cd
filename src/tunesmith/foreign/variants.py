"""Relatives of LoRA and quantised bases: taken over where this version's recipe has them, else said plainly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.foreign.draft import Draft, truthy

# switch -> (how a recipe might spell it, what it meant)
VARIANTS: Mapping[str, tuple[Sequence[Mapping[str, Any]], str]] = {
    "use_dora": (
        ({"method": "dora"}, {"method": "lora", "dora": True}),
        "DoRA: direction and size of each weight apart",
    ),
    "pissa_init": (
        ({"method": "pissa"}, {"method": "lora", "init": "pissa"}),
        "PiSSA: start from the largest singular vectors",
    ),
    "use_oft": (({"method": "oft"},), "OFT: orthogonal changes"),
    "use_relora": (({"method": "relora"},), "ReLoRA: merge and start again, several times"),
    "use_galore": (({"method": "galore"},), "GaLore: full tuning with low-rank gradients"),
    "use_badam": (({"method": "badam"},), "BAdam: full tuning, block by block"),
    "use_apollo": (({"method": "apollo"},), "APOLLO: full tuning with low-rank states"),
    "use_llama_pro": (({"method": "llama_pro"},), "LLaMA Pro: new blocks only"),
}


def variants(draft: Draft) -> None:
    """Switches for relatives of the method: the recipe's own where there is one."""
    for key, (spellings, meaning) in VARIANTS.items():
        if not truthy(draft.value(key)):
            draft.account(key, "off")
            continue
        found = next(
            (dict(s) for s in spellings if draft.offers(tuning={**draft.values.get("tuning", {}), **s})), None
        )
        if found is None:
            draft.leave(
                key, f"{meaning}; not in this version, so plain {draft.values['tuning']['method']} is written"
            )
            continue
        for name, value in found.items():
            draft.put(f"tuning.{name}", value, key, meaning)


def quantised(draft: Draft, key: str, bits: int) -> None:
    """A base held in few bits: taken over where this version has it, else the base stays in 16 bit."""
    spellings: tuple[tuple[str, Any], ...] = (
        ("tuning.method", "qlora"),
        ("tuning.base", "nf4"),
        ("model.base", "nf4"),
    )
    for to, value in spellings if bits == 4 else ():
        section, _, name = to.partition(".")
        before = draft.values.get(section) or {}
        before = {"path": before} if isinstance(before, str) else before
        values = {**before, name: value}
        if draft.offers(**{section: values}):
            draft.values[section] = values
            draft.put(to, value, key, "NF4 with double quantisation; training is in 16 bit on top")
            return
    how = f"frozen weights in {bits} bit; here 16 bit: nothing is lost but memory, {16 // bits} x as much for them"
    draft.leave(key, how)


def objective(draft: Draft, key: str, wanted: str) -> None:
    """What is learnt. Raises RecipeError where this version does not have it: another objective is another run."""
    if not draft.offers(objective=wanted):
        from typing import get_args

        from tunesmith.recipe import ObjectiveKind

        known = ", ".join(get_args(ObjectiveKind))
        what = f"{draft.given.get(key)!r} is not in this version, and another objective would be another run"
        raise RecipeError.at(draft.name(key), what, f"objectives here: {known}")
    draft.put("objective", wanted, key)
