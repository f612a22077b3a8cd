"""Try a command on bad input in this process: what it says, under which code, how long it took."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.app.cli import main

Content = str | bytes | Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One bad input. Words and files may say {model} and {dir}; `where`, `what`, `fix` are patterns to be found."""

    name: str
    words: str
    code: str
    where: str
    what: str
    fix: str = "."
    files: Mapping[str, Content] = field(default_factory=dict)
    problems: int = 1
    """How many problems are told at once, at least."""
    exit: int = 2


def lay(case: Case, folder: Path, model: Path) -> None:
    """Write the files of a case."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case bytes():
                path.write_bytes(content)
            case str():
                path.write_text(fill(content, folder, model), encoding="utf-8")
            case _:
                content(path)


def fill(text: str, folder: Path, model: Path) -> str:
    """Names of this test's folders in a text of a case."""
    return text.replace("{dir}", str(folder)).replace("{model}", str(model))


def run(words: list[str]) -> tuple[int, dict[str, Any], str, float]:
    """Exit code, the JSON object, standard error and processor seconds of a command."""
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "--json"])
    seconds = time.process_time() - began
    text = out.getvalue()
    assert text.count("\n") == 1, f"not one JSON object on standard output:\n{text}\n{err.getvalue()}"
    return code, json.loads(text), err.getvalue(), seconds


def check(case: Case, folder: Path, model: Path) -> float:
    """The command says what is wrong, where and what to do; returns processor seconds."""
    lay(case, folder, model)
    words = [fill(word, folder, model) for word in shlex.split(case.words)]
    code, document, err, seconds = run(words)
    assert code == case.exit, document
    assert "Traceback" not in err
    error = document["error"]
    assert error["code"] == case.code, error
    problems = error["problems"]
    assert len(problems) >= case.problems, problems
    assert all(problem["fix"] for problem in problems), problems
    assert any(
        re.search(case.where, problem["where"])
        and re.search(case.what, problem["what"])
        and re.search(case.fix, problem["fix"])
        for problem in problems
    ), problems
    return seconds
