"""One question, one answer, in the words of the template the model was trained with; talk.py asks on.

{"target": "runs/x", "system": "Be brief."} + "How many?"  -->  {"model": "runs/x", .., "answer": "three"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tunesmith import run
from tunesmith.app.progress import reporting
from tunesmith.app.render import base
from tunesmith.combined import Combined, open_combined
from tunesmith.data.faults import Unfit
from tunesmith.data.records import Message
from tunesmith.data.turns import read_tools
from tunesmith.errors import DataError, UserError

LONGEST = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """Who is asked, and under what terms: the adapters on it, who it is told to be, the tools it may call."""

    target: str
    max_new_tokens: int = LONGEST
    adapters: Sequence[str] = ()
    system: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError.at(
                "--max-new-tokens",
                f"must be at least 1, got {self.max_new_tokens}",
                "try --max-new-tokens 64",
            )


def chat(target: str, prompt: str, *, max_new_tokens: int = LONGEST) -> str:
    """One question to a run, a model folder or a hub id; its answer, greedy, through its own template."""
    return run.answer(run.open_model(target), [Message("user", prompt)], max_new_tokens=max_new_tokens)


def ask(terms: Terms, prompt: str) -> dict[str, Any]:
    """The document of `chat --prompt`."""
    opened, combined = opening(terms)
    said = [*beginning(terms.system), Message("user", prompt)]
    answer = run.answer(opened, said, tools=terms.tools, max_new_tokens=terms.max_new_tokens)
    weights = {"adapters": {part.label: part.weight for part in combined.parts}} if combined else {}
    return {"model": terms.target, **weights, "prompt": prompt, "answer": answer}


def ask_aloud(terms: Terms, prompt: str) -> int:
    """Like `ask`, for a person at a terminal, who sees the answer while it comes."""
    opened, _ = opening(terms)
    speak(opened, [*beginning(terms.system), Message("user", prompt)], terms, base.console())
    return 0


def page(document: dict[str, Any]) -> str:
    """The answer alone, harmless to a terminal."""
    return base.visible(document["answer"], keep_newlines=True)


def beginning(system: str | None) -> list[Message]:
    """What stands before the first question."""
    return [Message("system", system)] if system else []


def opening(terms: Terms) -> tuple[run.Opened, Combined | None]:
    """The model (and adapters on it, where named), with a line that says it is being loaded."""
    what = f"loading {terms.target}"
    with reporting() as reporter:
        reporter.progress(what, 0, None)
        combined = open_combined(terms.target, terms.adapters) if terms.adapters else None
        opened = combined.opened if combined else run.open_model(terms.target)
        reporter.progress(what, 1, 1)
    return opened, combined


def speak(opened: run.Opened, said: Sequence[Message], terms: Terms, screen: Console) -> str:
    """Answer on `screen`; in a terminal while it comes."""
    told: list[str] = []

    def show(text: str, end: str) -> None:
        words = base.Text(base.visible(text, keep_newlines=True), "good")
        screen.print(words, end=end, soft_wrap=True)

    def tell(text: str) -> None:
        told.append(text)
        show(text, "")

    answer = run.answer(
        opened, said, tools=terms.tools, max_new_tokens=terms.max_new_tokens,
        on_text=tell if screen.is_terminal else None,
    )  # fmt: skip
    begun = "".join(told)
    show(answer.removeprefix(begun) if answer.startswith(begun) else f"\n{answer}", "\n")
    return answer


def tools_in(path: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of a JSON file: a list of OpenAI's schemas. Raises DataError."""
    fix = 'give [{"type": "function", "function": {"name": .., "description": .., "parameters": {..}}}]'
    try:
        found = read_tools({"tools": json.loads(Path(path).read_text(encoding="utf-8-sig"))}, "tools")
    except OSError as error:
        raise DataError.at(path, f"cannot be read: {error.strerror}", "check --tools") from error
    except ValueError as error:
        raise DataError.at(path, f"is no JSON: {error}", fix) from error
    except Unfit as unfit:
        raise DataError.at(path, unfit.fault.detail, fix) from unfit
    if not found:
        raise DataError.at(path, "holds no tool", fix)
    return found
