"""A talk in the terminal: what is typed goes through the template the model was trained with.

you › How many?          /new begins again, /quit or Ctrl-D ends
  » three
"""

from __future__ import annotations

import sys
from typing import Any

from tunesmith import run
from tunesmith.app.progress import reporting
from tunesmith.app.render import base
from tunesmith.data.records import Message

PROMPT = "you › "


def chat(target: str, prompt: str, *, max_new_tokens: int = 256) -> str:
    """One question to a run, a model folder or a hub id; its answer, greedy, through its own template."""
    return run.answer(run.open_model(target), [Message("user", prompt)], max_new_tokens=max_new_tokens)


def ask(target: str, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """The document of `chat --prompt`."""
    opened = opening(target)
    answer = run.answer(opened, [Message("user", prompt)], max_new_tokens=max_new_tokens)
    return {"model": target, "prompt": prompt, "answer": answer}


def page(document: dict[str, Any]) -> str:
    """The answer alone, harmless to a terminal."""
    return base.visible(document["answer"], keep_newlines=True)


def opening(target: str) -> run.Opened:
    """The model, with a line that says it is being loaded."""
    with reporting() as reporter:
        reporter.progress(f"loading {target}", 0, None)
        opened = run.open_model(target)
        reporter.progress(f"loading {target}", 1, 1)
    return opened


def talk(target: str, max_new_tokens: int) -> int:
    """Questions and answers until the end of input. The whole talk is given each time."""
    opened = opening(target)
    screen = base.console()
    by_hand = sys.stdin.isatty()
    if by_hand:
        screen.print(base.heading(f"chat with {target}", "/new begins again, /quit or Ctrl-D ends"))
    said: list[Message] = []
    while (words := _heard(by_hand)) is not None:
        match words.strip():
            case "":
                continue
            case "/quit" | "/exit" | "/q":
                break
            case "/new":
                said = []
                screen.print(base.mark("quiet", "a new talk"))
                continue
        said.append(Message("user", words))
        answer = run.answer(opened, said, max_new_tokens=max_new_tokens)
        said.append(Message("assistant", answer))
        screen.print(base.Text(base.visible(answer, keep_newlines=True), "good"))
    return 0


def _heard(by_hand: bool) -> str | None:
    """The next line, or None at the end."""
    try:
        if by_hand:
            return input(PROMPT)
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        sys.stdout.write("\n")
        return None
