"""A table of words that may stand for each other: ours, or the user's.

synonyms.yaml   - [quick, fast, rapid]          cilin.txt   Aa01A01= 人 士 人物
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.recipe.plain_yaml import parse_yaml

_FIX = "a YAML list of groups, such as - [quick, fast, rapid]; or a .txt with a group a line, spaces between"


@dataclass(frozen=True, slots=True)
class Synonyms:
    """For each word those that may stand for it; a word of two groups has the others of both."""

    words: Mapping[str, tuple[str, ...]]

    def of(self, word: str) -> tuple[str, ...]:
        """What may stand for the word; () where it is not in the table."""
        return self.words.get(word.casefold(), ())


def read_synonyms(name: str | None) -> Synonyms:
    """The table in a file; None takes the small one that comes along. Raises DataError, in words."""
    if name is None:
        text = resources.files("tunesmith.data.reshape").joinpath("synonyms.yaml").read_text(encoding="utf-8")
        return _table(parse_yaml(text, "synonyms.yaml"), "synonyms.yaml")
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError.at(name, "is not UTF-8 text", "save the table as UTF-8") from error
    except OSError as error:
        raise DataError.at(name, f"cannot be read: {error.strerror}", _FIX) from error
    if path.suffix.lower() in (".yaml", ".yml"):
        return _table(parse_yaml(text, name), name)
    return _table([group for line in text.splitlines() if (group := _group(line))], name)


def _group(line: str) -> list[str]:
    """The words of a line. A Cilin code before them says whether they are equal (=) or only alike (#, @)."""
    words = line.split()
    if words and words[0][:1].isascii() and words[0][-1:] in "=#@" and len(words[0]) > 1:
        return words[1:] if words[0].endswith("=") else []
    return [] if line.startswith("#") else words


def _table(groups: object, where: str) -> Synonyms:
    if not isinstance(groups, Sequence) or isinstance(groups, str) or not groups:
        raise DataError.at(where, "is no list of groups of words", _FIX)
    found: dict[str, dict[str, None]] = {}
    for number, group in enumerate(groups, 1):
        if not isinstance(group, list) or not all(isinstance(word, str) and word.strip() for word in group):
            raise DataError.at(f"{where}: group {number}", "is no list of words", _FIX)
        for word in group:
            others = [other.strip() for other in group if other.casefold() != word.casefold()]
            found.setdefault(word.strip().casefold(), {}).update(dict.fromkeys(others))
    return Synonyms({word: tuple(others) for word, others in found.items()})
