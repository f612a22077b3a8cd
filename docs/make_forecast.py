"""Put what was measured of the forecast into the package and the pages: one state of the code, no number by hand.

    tunesmith bench --memory --out memory.json      (some seven minutes on a quiet machine)
    python benchmarks/time_forecast.py              (under five)
    python benchmarks/gpu/run.py                    (on a card)
    python docs/make_forecast.py [memory.json] [benchmarks/results/time_forecast.json] [benchmarks/results/gpu-*.json]

Each document given replaces its rows in src/tunesmith/plan/measured.json; then the tables between the marks
<!-- memory table -->, <!-- time table --> and <!-- card table --> of docs/plan.md and docs/plan.zh-CN.md are written
from that file. What was measured on a card is held against what this code forecasts for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tunesmith.bench.memory import registry_rows
from tunesmith.plan.device import Device
from tunesmith.plan.measured import PACKAGED

DOCS = Path(__file__).parent
Json = dict[str, Any]
WORDS: dict[str, Json] = {
    "plan.md": {
        "language": "en",
        "memory": ("cell", "predicted MiB", "measured MiB", "error", "whole process"),
        "sum": "{n} cells, {made}, {name}, torch {torch}: tensors at most {most:.1f}% off, {mean:.1f}% on average; "
        "the whole process at most {whole_most:.0f}%, {whole_mean:.0f}% on average.",
        "time": ("run", "forecast s", "took s", "error", "processor s"),
        "time sum": "{n} runs, {made}, {name}, {threads} thread(s): from {low:.2f} to {high:.2f} times as long as "
        "forecast, {off:.0f}% off on average.",
        "none": "No run was measured yet: `python benchmarks/time_forecast.py`.",
        "card": (
            "run",
            "tensors GiB",
            "measured",
            "error",
            "reserved GiB",
            "measured",
            "error",
            "step s",
            "took s",
        ),
    },
    "plan.zh-CN.md": {
        "language": "zh",
        "memory": ("格", "预估 MiB", "实测 MiB", "误差", "整个进程"),
        "sum": "{n} 格，{made}，{name}，torch {torch}：张量最多差 {most:.1f}%，平均 {mean:.1f}%；"
        "整个进程最多差 {whole_most:.0f}%，平均 {whole_mean:.0f}%。",
        "time": ("运行", "预估秒", "实际秒", "误差", "处理器秒"),
        "time sum": "{n} 次运行，{made}，{name}，{threads} 线程：实际为预估的 {low:.2f} 到 {high:.2f} 倍，"
        "平均差 {off:.0f}%。",
        "none": "尚无实测：`python benchmarks/time_forecast.py`。",
        "card": ("运行", "张量 GiB", "实测", "误差", "保留 GiB", "实测", "误差", "每步秒", "实际秒"),
    },
}


def take(packaged: Json, given: Json) -> Json:
    """What comes with the package, with the rows of one measurement in place of those before."""
    device = {key: given["device"][key] for key in ("kind", "name")}
    if "cells" in given:
        return {
            **packaged,
            "rows": [*_of_processors(packaged), *_of_card(given)],
            "card_steps": _steps_of_card(given),
        }
    if "allocated" in given:
        rows = [{name: getattr(row, name) for name in row.__slots__} for row in registry_rows(given)]
        cards = [row for row in packaged["rows"] if row["kind"] == "cuda"]
        kept = {key: value for key, value in packaged.items() if key != "note"}  # it was of the rows before
        return kept | {key: given[key] for key in ("made", "device", "versions")} | {"rows": [*rows, *cards]}
    rows = [
        {"kind": device["kind"], "device": device["name"],
         **{key: row[key] for key in ("what", "predicted_seconds", "measured_seconds", "processor_seconds", "counts")}}
        for row in given["rows"]
    ]  # fmt: skip
    return {**packaged, "time": rows, "time_made": {"made": given["made"], "threads": given["threads"]}}


def _of_processors(packaged: Json) -> list[Json]:
    return [row for row in packaged["rows"] if row["kind"] != "cuda"]


def _planned(given: Json) -> list[tuple[Json, Any]]:
    """Our own cells, and what this code plans for them on that card; one measured twice counts as the last, and one
    whose memory the code has changed since, `outdated`, not at all."""
    sys.path.insert(0, str(DOCS.parent / "benchmarks" / "gpu"))
    from run import CELLS  # type: ignore[import-not-found]
    from train import planned, recipe_of  # type: ignore[import-not-found]

    device = Device("cuda", given["device"]["name"], given["device"]["memory_bytes"], True)
    ours = [cell for cell in given["cells"] if cell["who"] == "tunesmith" and not cell.get("outdated")]
    cells = {cell["cell"]: cell for cell in ours}
    # states that are kept are read from memory there, and the forecast is of all layers
    jobs = {name: {"name": name, **CELLS[name]} for name in cells if not CELLS[name].get("kept")}
    found = []
    for name, job in jobs.items():  # what ran, whatever this code would choose
        ran = {
            "micro_tokens": cells[name]["micro_tokens"],
            "checkpointing": cells[name]["recomputed_layers"] or "off",
        }
        found.append((cells[name], planned(*recipe_of(job, **ran), job, device)))
    return found


def _of_card(given: Json) -> list[Json]:
    return [
        {"kind": "cuda", "device": given["device"]["name"], "what": cell["cell"],
         "predicted_bytes": plan.peak_bytes, "measured_bytes": cell["peak_bytes"],
         "predicted_allocated": plan.memory.allocated_bytes, "measured_allocated": cell["allocated_bytes"]}
        for cell, plan in _planned(given)
    ]  # fmt: skip


def _steps_of_card(given: Json) -> Json:
    """Forecast and measured seconds of a step: no run, so no range comes of them. One within which something was
    compiled is left out."""
    return {
        cell["cell"]: [plan.step_seconds, plan.shape.step_tokens / cell["tokens_per_second"]]
        for cell, plan in _planned(given)
        if not cell.get("note")
    }


def card_table(packaged: Json, words: Json) -> str:
    """What was measured on a card: memory, and a step where it was timed."""
    gib, steps = 2**30, packaged.get("card_steps", {})
    lines = []
    for row in (row for row in packaged["rows"] if row["kind"] == "cuda"):
        pairs = [(row[f"predicted_{kind}"], row[f"measured_{kind}"]) for kind in ("allocated", "bytes")]
        cells = [f"{p / gib:.2f} | {m / gib:.2f} | {100 * p / m - 100:+.1f}%" for p, m in pairs]
        timed = " | ".join(f"{seconds:.2f}" for seconds in steps.get(row["what"], [])) or "|"
        lines.append(f"| {row['what']} | {' | '.join(cells)} | {timed} |")
    return "\n".join([*_head(words["card"]), *lines])


def memory_table(packaged: Json, words: Json) -> str:
    """Each cell, and what they come to."""
    mib, rows = 2**20, _of_processors(packaged)
    errors = [row["predicted_allocated"] / row["measured_allocated"] - 1 for row in rows]
    whole = [row["predicted_bytes"] / row["measured_bytes"] - 1 for row in rows]
    lines = [
        f"| {row['what']} | {row['predicted_allocated'] / mib:.1f} | {row['measured_allocated'] / mib:.1f} "
        f"| {100 * error:+.2f}% | {100 * of_all:+.1f}% |"
        for row, error, of_all in zip(rows, errors, whole)
    ]
    told = words["sum"].format(
        n=len(rows), made=packaged["made"], name=packaged["device"]["name"], torch=packaged["versions"]["torch"],
        most=_largest(errors), mean=_mean(errors), whole_most=_largest(whole), whole_mean=_mean(whole),
    )  # fmt: skip
    return "\n".join(
        [
            " ".join([told, *packaged.get("note", {}).get(words["language"], [])]),
            "",
            *_head(words["memory"]),
            *lines,
        ]
    )


def time_table(packaged: Json, words: Json) -> str:
    """Each run, and what they come to."""
    rows = packaged.get("time", [])
    if not rows:
        return str(words["none"])
    times = [row["measured_seconds"] / row["predicted_seconds"] for row in rows]
    lines = [
        f"| {row['what']} | {row['predicted_seconds']:.1f} | {row['measured_seconds']:.1f} | {100 / ratio - 100:+.0f}% "
        f"| {row['processor_seconds']:.1f} |"
        for row, ratio in zip(rows, times)
    ]
    told = words["time sum"].format(
        n=len(rows), name=rows[0]["device"], low=min(times), high=max(times),
        off=_mean([1 / ratio - 1 for ratio in times]), **packaged["time_made"],
    )  # fmt: skip
    return "\n".join([told, "", *_head(words["time"]), *lines])


def _head(words: tuple[str, ...]) -> list[str]:
    return ["| " + " | ".join(words) + " |", "|" + "---|" * len(words)]


def _largest(errors: list[float]) -> float:
    return 100 * max(map(abs, errors))


def _mean(errors: list[float]) -> float:
    return 100 * sum(map(abs, errors)) / len(errors)


def page(text: str, packaged: Json, words: Json) -> str:
    """A page with its tables written anew."""
    tables = {"memory": memory_table, "time": time_table, "card": card_table}
    for name, table in ((name, make(packaged, words)) for name, make in tables.items()):
        begin, end = f"<!-- {name} table -->", f"<!-- end of the {name} table -->"
        assert text.count(begin) == text.count(end) == 1, name
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Take the documents that were named, and write the pages."""
    packaged = json.loads(PACKAGED.read_text(encoding="utf-8"))
    for name in sys.argv[1:]:
        packaged = take(packaged, json.loads(Path(name).read_text(encoding="utf-8")))
    PACKAGED.write_text(json.dumps(packaged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, words in WORDS.items():
        file = DOCS / name
        file.write_text(page(file.read_text(encoding="utf-8"), packaged, words), encoding="utf-8")


if __name__ == "__main__":
    main()
