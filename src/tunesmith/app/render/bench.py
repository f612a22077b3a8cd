"""What bench found, for a person: speed, where the time goes, and the forecast beside what was measured."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base

BAR = 24


def speed_page(found: dict[str, Any]) -> RenderableType:
    """A recipe's steps on this machine."""
    return base.page(
        base.heading("bench", found["recipe"]),
        _facts(found),
        _breakdown(found),
        _forecast(found),
        _formula(found),
    )


def _facts(found: dict[str, Any]) -> RenderableType:
    device, parameters = found["device"], found["parameters"]
    threads = f", {base.many(device['threads'], 'thread')}" if device["kind"] == "cpu" else ""
    again = "" if found["checkpointing"] == "off" else f", recomputing {found['checkpointing']}"
    return base.facts(
        [
            ("device", f"{device['kind']}: {base.visible(device['name'])}{threads}"),
            (
                "run",
                f"{found['method']}, {base.short_count(parameters['total'])} parameters, {found['precision']}, "
                f"{base.count(found['micro_tokens'])} tokens at once{again}",
            ),
            (
                "speed",
                f"{base.count(found['tokens_per_second'])} tokens/s, {base.count(found['targets_per_second'])} "
                f"learnt tokens/s; {base.duration(found['seconds_per_step'])} a step, over "
                f"{base.many(found['steps'], 'step')}",
            ),
            (
                "of the peak",
                f"{100 * found['mfu']:.1f}% MFU: {found['flops_per_second'] / 1e9:,.1f} of "
                f"{found['peak_flops'] / 1e9:,.1f} GFLOP/s",
            ),
        ]
    )


def _breakdown(found: dict[str, Any]) -> RenderableType:
    parts = found["breakdown"]
    most = max(part["share"] for part in parts.values())
    rows = [
        (
            name,
            Text(f"{1000 * part['seconds']:,.1f} ms"),
            Text(f"{100 * part['share']:.1f}%"),
            Text(base.bar(part["share"], most, BAR), "accent"),
        )
        for name, part in parts.items()
    ]
    return base.table(["where a step's time goes", "", "", ""], rows, right=[1, 2])


def _forecast(found: dict[str, Any]) -> RenderableType:
    memory, time = found["memory"], found["time"]
    rows = [
        ("tensors", *_pair(memory, "allocated_bytes", "allocated_error")),
        ("all memory", *_pair(memory, "peak_bytes", "peak_error")),
        (
            "time of these steps", base.duration(time["predicted_seconds"]),
            base.duration(time["measured_seconds"]), _error(time["error"]),
        ),
    ]  # fmt: skip
    return base.table(["forecast", "predicted", "measured", "error"], rows, right=[1, 2, 3])


def _pair(memory: dict[str, Any], key: str, error: str) -> tuple[str, str, Text]:
    return base.size(memory[f"predicted_{key}"]), base.size(memory[f"measured_{key}"]), _error(memory[error])


def _error(value: float | None) -> Text:
    if value is None:
        return Text("–")
    return Text(f"{100 * value:+.1f}%", "good" if abs(value) <= 0.05 else "warn")


def _formula(found: dict[str, Any]) -> RenderableType:
    words = f"MFU = flops a second / peak; {found['mfu_formula']}. Peak: {found['peak_is']}"
    return base.indent(Text(words, "quiet"))


def memory_page(found: dict[str, Any]) -> RenderableType:
    """The matrix: predicted against measured, cell by cell."""
    from tunesmith.bench.cells import Cell
    from tunesmith.bench.memory import MOST_EACH, MOST_MEAN, label

    rows = [
        (
            label(Cell(**row["cell"])),
            base.size(row["predicted_allocated"]),
            base.size(row["measured_allocated"]),
            _error(row["error"]),
            Text(f"{100 * row['whole_error']:+.1f}%", "quiet"),
        )
        for row in found["rows"]
    ]
    sums, whole = found["allocated"], found["whole"]
    words = (
        f"tensors: at most {100 * sums['largest_error']:.1f}% off, {100 * sums['mean_error']:.2f}% on average "
        f"(bar: {100 * MOST_EACH:.0f}% and {100 * MOST_MEAN:.0f}%); whole process: at most "
        f"{100 * whole['largest_error']:.0f}%, {100 * whole['mean_error']:.0f}% on average"
    )
    return base.page(
        base.heading("bench --memory", f"{found['device']['kind']}: {found['device']['name']}"),
        Group(base.table(["cell", "predicted", "measured", "error", "process"], rows, right=[1, 2, 3, 4])),
        base.mark("good" if found["passed"] else "bad", words),
    )
