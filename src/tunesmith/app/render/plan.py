"""The plan as a page: does it fit, what takes the memory, how long it runs, what is advised and why."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base, stages
from tunesmith.app.render.memory import stacked

BAR = 24


def page(plan: dict[str, Any], note: str = "") -> RenderableType:
    """The contracted plan document, for a person."""
    each = stages.planned(plan["stages"]) if plan.get("stages") else None
    return base.page(
        base.heading("plan", note),
        verdict(plan),
        overview(plan),
        each,
        mixing(plan),
        heads(plan),
        memory(plan),
        stacked(plan),
        largest(plan),
        ladder(plan),
        advice(plan),
        written(plan),
    )


def verdict(plan: dict[str, Any]) -> RenderableType:
    """Fits, or does not, with the two numbers that say so."""
    peak, room = plan["memory"]["peak_bytes"], plan["device"]["memory_bytes"]
    if plan["fits"]:
        return base.mark("good", f"fits: about {base.size(peak)} of {base.size(room)}")
    return base.mark("bad", f"does not fit: about {base.size(peak)} needed, {base.size(room)} there")


def overview(plan: dict[str, Any]) -> RenderableType:
    """Model, device and run in three lines."""
    total, trainable = plan["parameters"]["total"], plan["parameters"]["trainable"]
    run, device = plan["run"], plan["device"]
    length = f"{base.many(run['steps'], 'step')}, {base.short_count(run['tokens'])} tokens"
    if run.get("targets") is not None:
        length += f" ({base.short_count(run['targets'])} learnt)"
    return base.facts(
        [
            ("device", f"{device['kind']}: {base.visible(device['name'])}"),
            (
                "parameters",
                f"{base.count(total)}, {base.count(trainable)} train ({base.share(trainable, total)})",
            ),
            ("run", length),
            ("time", spent(run)),
            *([("of which", parts_of(run["seconds_of"]))] if run.get("seconds_of") else []),
            ("disk", base.size(run["disk_bytes"])),
            *_beside_the_card(plan["memory"].get("host_bytes", 0)),
            *([("frozen layers", trunk(plan["trunk"]))] if plan.get("trunk", {}).get("layers") else []),
            *([("settings", settings(plan))] if "lr" in plan else []),
        ]
    )


def _beside_the_card(host_bytes: int) -> list[tuple[str, str]]:
    """What stands in the main memory of a card's run, if anything does."""
    return [("main memory", f"about {base.size(host_bytes)}, beside the card")] if host_bytes else []


def mixing(plan: dict[str, Any]) -> RenderableType | None:
    """What each of several sources was asked to give of the run's tokens, and what it gives."""
    sources = plan.get("mix", [])
    if len(sources) < 2:
        return None
    rows = [
        (
            Text(base.visible(source["path"])),
            Text(base.share(source["requested_share"] or 0.0, 1.0), "quiet"),
            Text(base.share(source["realised_share"] or 0.0, 1.0)),
            Text(f"{source['repeats']:.3g}x", "quiet"),
        )
        for source in sources
    ]
    return base.table(["mixing", "asked", "given", "read"], rows, right=[1, 2, 3])


def heads(plan: dict[str, Any]) -> RenderableType | None:
    """What the forecast of a run that reads streams rests on."""
    lines = [
        f"from the first {base.many(each['rows'], 'row')} of {base.visible(each['path'])}: "
        "a stream does not say what else it holds, nor that it goes on so long"
        for each in plan.get("heads", [])
    ]
    return (
        Group(*(base.indent(base.bullet(Text("›", "warn"), Text(line))) for line in lines)) if lines else None
    )


def trunk(found: dict[str, Any]) -> str:
    """Layers that never change: computed once and kept on disk, or why not."""
    if not found["on"]:
        return f"{found['layers']} computed in every epoch: {found['reason']}"
    saved = f"saves {base.duration(found['saved_seconds'])} ({found['saved_share']:.0%})"
    return f"{found['layers']} computed once, {base.size(found['disk_bytes'])} in the cache; {saved}"


def spent(run: dict[str, Any]) -> str:
    """The time, and how far off it may be."""
    about = f"about {base.duration(run['seconds'])}"
    if run["seconds"] is None:
        return about
    if run.get("busy", 1.0) > 1:
        alone = base.duration(run["seconds"] / run["busy"])
        about += f" on a machine as busy as now, {alone} by itself"
    if run.get("seconds_low") is None:
        return f"{about}; how right that is was never measured on such a device"
    low, high = base.duration(run["seconds_low"]), base.duration(run["seconds_high"])
    return f"{about}; {low} to {high} going by {base.many(run['seconds_held_against'], 'measured run')}"


def parts_of(parts: dict[str, float]) -> str:
    """What the time is made of, and what is left out of it."""
    names = {
        "steps": "steps",
        "evaluations": "evaluations",
        "saves": "saves",
        "frozen_layers": "frozen layers",
    }
    total = sum(parts.values()) or 1.0
    told = [
        f"{name} {base.duration(parts[key])}" for key, name in names.items() if parts[key] > 0.005 * total
    ]
    return ", ".join(told) + "; loading and scores before and after come on top"


def settings(plan: dict[str, Any]) -> str:
    """What `auto` came to."""
    again = f", {_recomputed(plan['checkpointing'])}" if plan["checkpointing"] != "off" else ""
    return f"lr {plan['lr']:g}, {plan['precision']}, {base.count(plan['micro_tokens'])} tokens at once{again}"


def largest(plan: dict[str, Any]) -> RenderableType | None:
    """How far this device would reach."""
    found = plan["largest"]
    names = {"micro_tokens": "{} tokens at once", "max_length": "{} tokens a sample", "rank": "rank {}"}
    parts = [words.format(base.short_count(found[key])) for key, words in names.items() if found.get(key)]
    fitting = [name for name, fits in found.get("methods", {}).items() if fits]
    if not parts and not fitting:
        return None
    rows: list[tuple[str, RenderableType]] = [("fits up to", ", ".join(parts))] if parts else []
    siblings = [row["model"] for row in found.get("family", []) if row["fits"]]
    if found.get("family"):
        rows.append(("its family", f"up to {siblings[-1]}" if siblings else "none fits"))
    return base.facts([*rows, ("methods", ", ".join(fitting) or "none fits")])


def _recomputed(level: str | int) -> str:
    return "all layers recomputed" if level == "full" else f"{base.many(float(level), 'layer')} recomputed"


def ladder(plan: dict[str, Any]) -> RenderableType | None:
    """Ways to need less, where it does not fit; the nearest that does is marked, with the words to type."""
    if plan["fits"]:
        return None
    asked, *lower = plan["largest"]["ladder"]
    # what changes no key and needs no less was tried for what was asked already
    rungs = [asked, *(r for r in lower if r["change"] or r["peak_bytes"] < asked["peak_bytes"])]
    near = plan.get("nearest")
    rows = [
        (
            base.mark("good" if rung["fits"] else "bad", rung["name"]),
            Text(base.size(rung["peak_bytes"])),
            Text(f"x{rung['slowdown']:.2f}"),
            Text(" ".join(f"{key}={_yaml(value)}" for key, value in rung["change"].items()), "accent"),
        )
        for rung in rungs
    ]
    words = (
        f"the nearest that fits: {near['name']}; write it with --fix FILE" if near else "none of these fits"
    )
    table = base.table(["to need less", "peak", "time", "change"], rows, right=[1, 2])
    return Group(table, Text(f"  {words}", "quiet"))


def memory(plan: dict[str, Any]) -> RenderableType:
    """Each term of the forecast as a bar, largest first, and the peak with its stated error."""
    found = plan["memory"]
    terms = sorted((t for t in found["terms"] if t["bytes"]), key=lambda term: -term["bytes"])
    largest = max((term["bytes"] for term in terms), default=0)
    rows = [
        (
            Text(base.visible(term["name"]).replace("_", " ")),
            Text(base.size(term["bytes"])),
            Text(base.bar(term["bytes"], largest, BAR), "accent"),
        )
        for term in terms
    ]
    error = f" ±{100 * found['error_share']:.0f}%" if found.get("error_share") else ""
    phase = f"while {base.visible(found['phase'])}" if found.get("phase") else ""
    peak = (
        Text("peak" + error, "strong"),
        Text(base.size(found["peak_bytes"]), "strong"),
        Text(phase, "quiet"),
    )
    guess = "  the ± is a guess: nothing was ever measured on such a device (docs/plan.md)"
    told = [Text(guess, "warn")] if found.get("error_share") and found.get("held_against") == 0 else []
    return Group(base.table(["memory", "", ""], [*rows, peak], right=[1]), *told)


def advice(plan: dict[str, Any]) -> RenderableType | None:
    """What to change, each with its reason and the words to type."""
    if not plan["advice"]:
        return None
    lines: list[RenderableType] = [Text("  advice", "key")]
    for item in plan["advice"]:
        body = Text(base.visible(item["reason"]))
        if item.get("source"):
            body.append(f"  ({base.visible(item['source'])})", "quiet")
        for key, value in (item.get("change") or {}).items():
            body.append(f"\n{key}={_yaml(value)}", "accent")
        lines.append(base.indent(base.bullet(Text("›", "warn"), body)))
    return Group(*lines)


def written(plan: dict[str, Any]) -> RenderableType | None:
    """The files that --fix and --picture made."""
    lines = []
    if plan.get("fixed"):
        near = plan.get("nearest")
        how = near["name"] if near and not plan["fits"] else "it fits as it is"
        lines.append(
            base.mark(
                "good",
                f"written, {how}: {base.visible(plan['fixed'])}; its run: {base.visible(plan['fixed_output'])}",
            )
        )
    if plan.get("picture"):
        lines.append(base.mark("good", f"drawn: {base.visible(plan['picture'])}"))
    return Group(*lines) if lines else None


def _yaml(value: Any) -> str:
    """A value as it is typed after key= on the command line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
