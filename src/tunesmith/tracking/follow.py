"""Follow events.jsonl as it grows and tell a tracker; go on where an earlier follower stopped.

events.jsonl --lines--> points --> Sink        RUN/tracking/NAME.json remembers id, lines and the last step
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.folder import RunFolder, read_json, write_json
from tunesmith.recipe import load, values_of
from tunesmith.tracking.metrics import flat, point, scores
from tunesmith.tracking.sinks import SINKS, About, Sink


@dataclass
class Memory:
    """What was told so far, kept beside the run; `bytes` of events.jsonl are read."""

    id: str | None = None
    bytes: int = 0
    step: int = -1
    held_out_step: int = -1
    status: str = "running"
    note: str = ""


def follow(
    run: RunFolder, name: str, wait: Callable[[], bool], open_sink: Callable[[About], Sink] | None = None
) -> Memory:
    """Tell tracker `name` of a run until `wait()` (which pauses) says that nothing more will come.

    Whatever the tracker's library raises goes to the caller; the run itself is never touched.
    """
    folder = run.tracking / name
    memory = _recall(run, name)
    recipe = load(run.recipe)
    config = flat(values_of(recipe))
    about = About(run.path.resolve().name, folder, config, run.recipe.read_text(encoding="utf-8"), memory.id)
    sink = (open_sink or SINKS[name])(about)
    memory.id, memory.note, memory.status = sink.id, sink.note, "running"
    going = True
    while going:
        going = wait()
        if _tell(run, sink, memory):
            _keep(run, name, memory)
    memory.status = "killed" if memory.status == "running" else memory.status
    ended = memory.status in ("done", "stopped") and run.report.is_file()
    sink.close(memory.status, scores(read_json(run.report)) if ended else {})
    _keep(run, name, memory)
    return memory


def _tell(run: RunFolder, sink: Sink, memory: Memory) -> bool:
    """Send what is new; a resumed run repeats steps bit for bit, so those known are passed over."""
    lines, memory.bytes = _new_lines(run.events, memory.bytes)
    for line in lines:
        event = _parse(line)
        if event.get("kind") == "finished":
            memory.status = str(event.get("status"))
        elif event.get("kind") == "failed":
            memory.status = "failed"
        found = point(event)
        if found is None or not found.values or _known(event, found.step, memory):
            continue
        sink.log(found)
    return bool(lines)


def _known(event: dict[str, Any], step: int, memory: Memory) -> bool:
    """Whether this step was told before; remembers it."""
    field = "held_out_step" if event["kind"] == "evaluated" else "step"
    known = step <= getattr(memory, field) if event["kind"] != "rescued" else step < memory.step
    if not known and event["kind"] != "rescued":
        setattr(memory, field, step)
    return known


def _new_lines(path: Path, start: int) -> tuple[list[bytes], int]:
    """Whole lines after byte `start`; a line half written is left for the next time."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), start + len(whole)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _recall(run: RunFolder, name: str) -> Memory:
    try:
        return Memory(**read_json(run.tracking / f"{name}.json"))
    except (OSError, ValueError, TypeError):
        return Memory()


def _keep(run: RunFolder, name: str, memory: Memory) -> None:
    write_json(run.tracking / f"{name}.json", asdict(memory))
