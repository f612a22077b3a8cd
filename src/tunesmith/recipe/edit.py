"""Change keys of a recipe's text and leave the rest as the user wrote it, comments and order included.

"optim: {lr: 2e-4} # ours" + {"optim.warmup": 0.03} -> "optim: {lr: 2e-4, warmup: 0.03} # ours"
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import FolderError, UserError
from tunesmith.recipe.document import Recipe, dump, parse, set_key
from tunesmith.recipe.plain_yaml import parse_yaml

# A list whose items stand right below their key, not indented.
_FLUSH = re.compile(r"^( *)[^\s#-][^\n]*:[ ]*(#[^\n]*)?\n\1- ", re.M)
WIDEST = 4096  # longer than any line: a line is never folded anew


@dataclass(frozen=True, slots=True)
class Edited:
    """A recipe's new text. `comments_kept` is false where only the values could be kept."""

    text: str
    recipe: Recipe
    comments_kept: bool


def with_changes(text: str, changes: Mapping[str, Any], where: str = "recipe") -> Edited:
    """The text with dotted keys set. Where it cannot be edited in place it is spelt anew, every value in it.

    Raises RecipeError where the text, or what it becomes, is no recipe.
    """
    values = parse_yaml(text, where)
    for key, value in changes.items():
        set_key(values, key, value)
    wanted = parse(values, where)
    try:
        edited = _in_place(text, changes)
        if parse(parse_yaml(edited, where), where) == wanted:
            return Edited(edited, wanted, comments_kept=True)
    except Exception:  # whatever the editor cannot do: the values are what counts
        pass
    return Edited(dump(wanted), wanted, comments_kept=False)


def require_free(path: Path, flag: str) -> None:
    """Raise FolderError where a file to be written exists: nothing of the user's is ever overwritten."""
    if path.exists():
        raise FolderError.at(str(path), "exists already", f"choose another {flag}, or move it away")


def require_new_recipe(path: Path, flag: str) -> None:
    """`require_free` of a file that is to hold a recipe. Raises UserError where its name says something else."""
    if path.suffix not in (".yaml", ".yml"):
        what = f"writes a whole recipe into a new file, and {str(path)!r} is no .yaml"
        raise UserError.at(flag, what, f"{flag} {path.stem or 'recipe'}.yaml; one change alone: KEY=VALUE")
    require_free(path, flag)


def _in_place(text: str, changes: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = WIDEST
    flush = _FLUSH.search(text)
    yaml.indent(mapping=2, sequence=2 if flush else 4, offset=0 if flush else 2)
    values = yaml.load(text)
    for key, value in changes.items():
        set_key(values, key, value)
    out = io.StringIO()
    yaml.dump(values, out)
    return out.getvalue()
