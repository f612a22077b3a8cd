"""Files that a verb lays beside each other: all of them, or none where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith import bundled
from tunesmith.errors import FolderError
from tunesmith.recipe.edit import require_free, require_new_recipe


@contextmanager
def laid_out(recipe: Path, general: Path) -> Iterator[None]:
    """A place for a new recipe, with the bundled general questions beside it; nothing is left where it fails.

    Raises FolderError where one of them exists, or the folder cannot be written to.
    """
    require_new_recipe(recipe, "--output")
    require_free(general, "--output")
    try:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        general.write_bytes((bundled.path("data") / "general_test.jsonl").read_bytes())
    except OSError as error:
        raise FolderError.at(
            str(general), f"cannot be written: {error.strerror}", "another --output"
        ) from error
    try:
        yield
    except BaseException:
        general.unlink(missing_ok=True)
        raise
