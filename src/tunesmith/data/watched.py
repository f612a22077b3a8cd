"""Find out whether a template ever looks into what people wrote, by rendering contents that notice it.

'<|im_start|>user\\n' + content + '<|im_end|>'      adds to it: noticed by nobody, written alike for all contents
content | trim                                     trims it: the same, and what was trimmed is remembered
{% if '</think>' in content %}                     looks into it: other contents may be written otherwise

A template whose every step is of the first two kinds has written a form with gaps: the text of any other dialogue
of the same shape is the form with other words in the gaps. Where a step could not be seen, it counts as looking.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from tunesmith.data.sandbox import Sandbox

# Jinja that turns what it has written into a text again, which then could be looked into unseen.
_UNSEEN = (nodes.Macro, nodes.AssignBlock, nodes.FilterBlock, nodes.Include, nodes.Import)
# Tests that ask for a value's type alone.
_TYPE_TESTS = frozenset(
    ("string", "defined", "undefined", "none", "mapping", "sequence", "iterable", "number")
)
_TRIMS = frozenset(("strip", "lstrip", "rstrip"))
_SPACE = frozenset(" \t\r\n")


@dataclass(slots=True)
class Watch:
    """What was noticed: whether anything looked, and what each gap's text stands for: (content's name, trims)."""

    looked: bool = False
    gaps: dict[str, tuple[str, tuple[tuple[str, str | None], ...]]] = field(default_factory=dict)

    def content(self, name: str) -> Content:
        """A content to be watched, called `name`, which is also its text."""
        self.gaps.setdefault(name, (name, ()))
        return Content.make(self, name)

    def trimmed(self, text: str, how: str, characters: str | None) -> Content:
        """What stands for a gap once it was trimmed."""
        name, trims = self.gaps[text]
        steps = (*trims, (how, characters))
        known = next((key for key, value in self.gaps.items() if value == (name, steps)), None)
        known = known or f"{name}t{len(self.gaps)}x"
        self.gaps[known] = name, steps
        return Content.make(self, known)

    def over(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same messages with contents that are watched; their texts are their names."""
        return [{**message, "content": self.content(message["content"])} for message in messages]

    def look(self) -> None:
        """Somebody looked."""
        self.looked = True


class Content(str):
    """A text that knows when it is looked into."""

    watch: Watch

    @classmethod
    def make(cls, watch: Watch, text: str) -> Content:
        """A watched text."""
        made = cls(text)
        object.__setattr__(made, "watch", watch)
        return made

    def __add__(self, other: object) -> Content:
        return _joined(self, self, other)

    def __radd__(self, other: object) -> Content:
        return _joined(self, other, self)

    def __str__(self) -> str:
        return str.__str__(
            self
        )  # how Jinja writes a value; `~` and filters that do it too are refused elsewhere

    def __getattribute__(self, name: str) -> Any:
        if name in _TRIMS:
            return lambda characters=None: _trim(self, name, characters)
        if not name.startswith("__") and name != "watch":
            str.__getattribute__(self, "__dict__")["watch"].look()
        return str.__getattribute__(self, name)

    def __hash__(self) -> int:
        self.watch.look()
        return str.__hash__(self)


def _joined(of: Content, left: object, right: object) -> Content:
    if not isinstance(left, str) or not isinstance(right, str):
        of.watch.look()
    return Content.make(of.watch, str.__add__(str(left), str(right)))


def _trim(content: Content, how: str, characters: str | None) -> Content:
    """Trimming white space of a whole content is a form; of anything joined, or of other characters, it is looking."""
    text = str.__str__(content)
    if text in content.watch.gaps and (characters is None or set(characters) <= _SPACE):
        return content.watch.trimmed(text, how, characters)
    content.watch.look()
    return content


def _looking(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def look(self: Content, *values: Any) -> Any:
        self.watch.look()
        return plain(self, *values)

    return look


# What the interpreter calls without asking for an attribute. Not __len__: whether a text is empty is in its shape.
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", "getitem", "iter", "mod", "rmod", "mul", "rmul",
              "format", "repr"):  # fmt: skip
    setattr(Content, f"__{_name}__", _looking(f"__{_name}__"))


def holds(value: Any) -> bool:
    """Whether a watched content stands anywhere in a value."""
    if isinstance(value, Content):
        return True
    if isinstance(value, Context):  # what the mark of {% generation %} is given, and asks for its marks alone
        return False
    if isinstance(value, Mapping):
        return any(map(holds, value.values()))
    return isinstance(value, list | tuple) and any(map(holds, value))


class WatchedSandbox(Sandbox):
    """The sandbox, in which filters, tests and calls tell when they are given a watched content."""

    watch: Watch | None = None

    def call(__self, __context: Any, __obj: Any, *values: Any, **named: Any) -> Any:
        """A function given a content may do anything with it."""
        if __self.watch is not None and (holds(values) or holds(named)):
            __self.watch.look()
        return super().call(__context, __obj, *values, **named)


def _watch_all(environment: WatchedSandbox) -> None:
    """Have the filters and tests of an environment tell."""
    for name, filter in list(environment.filters.items()):
        if name not in ("trim", "length", "count"):
            environment.filters[name] = _telling(environment, filter)
    for name in ("length", "count"):
        environment.filters[name] = _telling(environment, environment.filters[name], lists=True)
    for name, test in list(environment.tests.items()):
        if name not in _TYPE_TESTS:
            environment.tests[name] = _telling(environment, test)  # type: ignore[arg-type]


def compile_watched(environment: WatchedSandbox, source: str) -> jinja2.Template:
    """A template whose `~` can be seen: it becomes a sum of texts."""
    _watch_all(environment)
    environment.filters[_AS_TEXT] = lambda value: value if isinstance(value, Content) else str(value)
    tree = _Sums().visit(environment.parse(source))
    code = environment.compile(tree)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


_AS_TEXT = "as_watched_text"


class _Sums(NodeTransformer):
    """a ~ b  ->  text(a) + text(b)"""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        """One concatenation."""
        self.generic_visit(node)
        line = node.lineno
        first, *rest = [nodes.Filter(part, _AS_TEXT, [], [], None, None, lineno=line) for part in node.nodes]
        total: nodes.Expr = first
        for part in rest:
            total = nodes.Add(total, part, lineno=line)
        return total


def _telling(
    environment: WatchedSandbox, plain: Callable[..., Any], lists: bool = False
) -> Callable[..., Any]:
    def tell(*values: Any, **named: Any) -> Any:
        found = isinstance(values[0], Content) if lists and values else holds(values) or holds(named)
        if found and environment.watch is not None:
            environment.watch.look()
        return plain(*values, **named)

    # some are given the environment or the context first
    functools.update_wrapper(tell, plain)
    return tell


def has_unseen_steps(tree: nodes.Template) -> bool:
    """Whether a template makes texts of what it wrote, so that looking into them would not be noticed."""
    if any(next(tree.find_all(kind), None) is not None for kind in _UNSEEN):
        return True
    # {% generation %} is a call around a block, whose text goes straight to the output
    return any(
        not isinstance(block.call.node, nodes.ExtensionAttribute) for block in tree.find_all(nodes.CallBlock)
    )


@lru_cache(maxsize=256)
def splitter(names: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the texts of gaps, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


def gaps_in(text: str, watch: Watch) -> Sequence[tuple[int, int, str]]:
    """[start, end) and the text of each gap in a written text."""
    return [
        (found.start(), found.end(), found.group()) for found in splitter(tuple(watch.gaps)).finditer(text)
    ]
