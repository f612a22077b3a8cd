"""The bundled base model, data and recipe, found wherever the package is installed.

path("model")  path("data")  path("recipes/demo.yaml")
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from tunesmith.errors import FolderError


def path(name: str = "") -> Path:
    """Where a bundled file or folder lies. Raises FolderError when the installation lacks it."""
    with as_file(files(__name__).joinpath(name)) as found:  # an installed package is plain files
        if not found.exists():
            raise FolderError.at(str(found), "is missing from this installation", "install tunesmith again")
        return found
