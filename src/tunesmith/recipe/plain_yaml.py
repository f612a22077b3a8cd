"""YAML 1.1 without its traps: no duplicate keys, 2e-5 is a number, dates stay text, no objects.

"lr: 2e-5" -> {"lr": 2e-05}        "a: 1\\na: 2" -> RecipeError: r.yaml:2: key 'a' stands twice
{"revision": "7e12345"} -> "revision: '7e12345'"        without the quotes it would be read as a number
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tunesmith.errors import Problem, RecipeError

_FLOAT = re.compile(
    r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+)$"
)
_ONE_LINE = 10**6  # characters: never broken


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its traps: duplicate keys are noted, 2e-5 is a number, dates stay text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[tuple[int, str]] = []
        """Lines from 1 that say a key again, and what to tell of it."""


def _mapping_without_duplicates(
    loader: _Loader, node: yaml.MappingNode, deep: bool = False
) -> dict[Any, Any]:
    seen: dict[Any, yaml.Mark] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        mark = key_node.start_mark
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", mark)
        if key in seen:
            told = f"key {key!r} stands twice (first on line {seen[key].line + 1})"
            loader.twice.append((mark.line + 1, told))
        seen.setdefault(key, mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in pairs
        if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader`, or a plain reader of YAML 1.1, would not take for text."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    """Text; between double quotes where PyYAML would lose an unusual space or line end (U+0085, U+00A0, U+2028)."""
    plain = all(letter.isprintable() or letter == "\n" for letter in value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain values; `where` names the text in errors.

    Raises RecipeError for a syntax error, or for every key that stands twice.
    """
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{where}:{mark.line + 1}" if mark else where
        fix = "indent with spaces, not tabs" if "\\t" in str(error.problem) else "correct the line"
        raise RecipeError.at(line, f"not valid YAML: {error.problem}", fix) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError.at(where, f"not valid YAML: {error}", "correct the file") from error
    if loader.twice:
        raise RecipeError(
            [
                Problem(f"{where}:{line}", f"not valid YAML: {what}", "keep one of the two")
                for line, what in sorted(loader.twice)
            ]
        )
    return value


def write_yaml(value: Any, *, flow: bool = False) -> str:
    """Plain values as YAML that `parse_yaml` reads as the same; with `flow` on one line, as typed after a key."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=flow,
        width=_ONE_LINE if flow else None,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.removesuffix("...\n").removesuffix("\n") if flow else text
