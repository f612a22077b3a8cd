"""Tunesmith: fine-tune language models and prove what it did. This is the door.

    import tunesmith

    recipe = tunesmith.load_recipe("recipe.yaml", ["optim.lr=2e-4"])
    print(tunesmith.plan(recipe)["memory"]["peak_bytes"])
    outcome = tunesmith.train(recipe)
    tunesmith.export(outcome.run, "merged")
    print(tunesmith.chat(outcome.run, "Hello!"))

The verbs load when they are first asked for; importing this package is silent and cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.errors import (
    CertificateError,
    CheckpointError,
    DataError,
    DiskFullError,
    DivergedError,
    DoesNotFitError,
    FolderError,
    Interrupted,
    ModelError,
    Problem,
    RecipeError,
    TemplateError,
    TunesmithError,
    UserError,
)

if TYPE_CHECKING:
    from tunesmith.app.chat import chat
    from tunesmith.recipe import load as load_recipe
    from tunesmith.run import evaluate, export, plan, train

__version__ = "0.1.0"

__all__ = [
    "CertificateError",
    "CheckpointError",
    "DataError",
    "DiskFullError",
    "DivergedError",
    "DoesNotFitError",
    "FolderError",
    "Interrupted",
    "ModelError",
    "Problem",
    "RecipeError",
    "TemplateError",
    "TunesmithError",
    "UserError",
    "__version__",
    "chat",
    "evaluate",
    "export",
    "load_recipe",
    "plan",
    "train",
]

# name here -> (module that owns it, name there)
_LATE = {
    "chat": ("tunesmith.app.chat", "chat"),
    "evaluate": ("tunesmith.run", "evaluate"),
    "export": ("tunesmith.run", "export"),
    "load_recipe": ("tunesmith.recipe", "load"),
    "plan": ("tunesmith.run", "plan"),
    "train": ("tunesmith.run", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    from importlib import import_module

    module, original = _LATE[name]
    return getattr(import_module(module), original)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
