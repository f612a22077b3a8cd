"""Rules of the user's own: plain Python functions in a file, told apart by how they are called.

def find_shouting(text, role): return "is all capitals" if text.isupper() else None     check names it
def clean_spaces(text, role): return " ".join(text.split())                             clean does it
def drop_old(row): return "before 2020" if row.get("year", 2020) < 2020 else None       clean leaves it out
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError

FIND, CLEAN, DROP = "find_", "clean_", "drop_"
Own = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class OwnRules:
    """Functions by name. What they raise is told with the row it happened at."""

    find: dict[str, Own]
    clean: dict[str, Own]
    drop: dict[str, Own]


NONE = OwnRules({}, {}, {})


def load_own(files: Sequence[str | Path]) -> OwnRules:
    """The rules in Python files. They run as code: give only files you have read. Raises UserError."""
    rules = OwnRules({}, {}, {})
    kinds = ((FIND, rules.find), (CLEAN, rules.clean), (DROP, rules.drop))
    for number, file in enumerate(files):
        held = vars(load_module(Path(file), f"tunesmith_own_rules_{number}"))
        found = 0
        for name, value in held.items():
            for prefix, table in kinds:
                if name.startswith(prefix) and callable(value):
                    table[name.removeprefix(prefix)] = value
                    found += 1
        if not found:
            raise UserError.at(
                str(file),
                "has no rule",
                "define find_NAME(text, role), clean_NAME(text, role) or drop_NAME(row)",
            )
    return rules


def load_module(path: Path, name: str) -> Any:
    """Run a Python file of the user's as a module. Raises UserError."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError.at(str(path), "is no Python file", "give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError.at(
            str(path), f"cannot be run: {type(error).__name__}: {error}", "correct the file"
        ) from error
    return module


def ask(rule: Own, name: str, where: str, kind: type, *given: Any) -> Any:
    """What a rule says, None or a `kind`. Raises UserError, with the row, where it raises or says something else."""
    try:
        said = rule(*given)
    except Exception as error:
        what = f"{name} raised {type(error).__name__}: {error}"
        raise UserError.at(where, what, "correct the rule; it must take any row") from error
    if said is None or isinstance(said, kind):
        return said
    what = f"{name} gave {type(said).__name__}, not {kind.__name__}"
    raise UserError.at(where, what, f"return a {kind.__name__}, or None")
