"""A file of probe questions: a YAML list of texts, or {probes: [..]}; a .txt has one a line."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import UserError
from tunesmith.recipe.plain_yaml import parse_yaml

_KINDS = (".yaml", ".yml", ".txt")


def read_probes(name: str) -> tuple[str, ...]:
    """The questions in a file. Raises ValueError, in words, where they cannot be read."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in _KINDS:
        raise ValueError(
            f"is a text, {name!r:.40}; give a list of questions, or the path of a .yaml with one"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"names {name}, which is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ValueError(
            f"names {name}, which cannot be read: {error.strerror}; give a .yaml with a list of questions"
        ) from None
    if path.suffix.lower() == ".txt":
        found: object = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            found = parse_yaml(text, name)
        except UserError as error:
            raise ValueError(
                f'names {name}, which cannot be read: {error.problems[0].what}; write each as - "question"'
            ) from None
    if isinstance(found, dict) and set(found) == {"probes"}:
        found = found["probes"]
    if not isinstance(found, list) or not found or not all(isinstance(q, str) and q.strip() for q in found):
        raise ValueError(f'names {name}, which is no list of questions; write each as - "question"')
    return tuple(found)
