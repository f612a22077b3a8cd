"""The bundled base model, data and recipe, found wherever the package is installed.

path("model")  path("data/orders.json")  recipe("demo") -> its paths lead into the package
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from tunesmith.errors import FolderError
from tunesmith.recipe import Recipe, parse, parse_yaml


def path(name: str = "") -> Path:
    """Where a bundled file or folder lies. Raises FolderError when the installation lacks it."""
    with as_file(files(__name__).joinpath(name)) as found:  # an installed package is plain files
        if not found.exists():
            raise FolderError.at(str(found), "is missing from this installation", "install tunesmith again")
        return found


def recipe(name: str, **changes: Any) -> Recipe:
    """A bundled recipe, runnable from any folder; `changes` replace its top-level keys, such as output."""
    file = path(f"recipes/{name}.yaml")
    values = {**parse_yaml(file.read_text(encoding="utf-8"), file.name), **changes}
    return parse(_rooted(values), where=file.name)


def _rooted(value: Any, key: str = "") -> Any:
    """The same values with every path made to lead into the package."""
    if isinstance(value, dict):
        return {inner: _rooted(held, inner) for inner, held in value.items()}
    if isinstance(value, list):
        return [_rooted(held, key) for held in value]
    return str(path(value)) if isinstance(value, str) and key in ("path", "validation", "test") else value
