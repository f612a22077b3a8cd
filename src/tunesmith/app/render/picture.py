"""Courses and scores of runs as one PNG: losses large, rate and gradient small, scores with intervals below.

┌─ loss ──────────────┐ ┌ rate ┐
│ raw, mean, held-out │ ├ grad ┤
└─────────────────────┘ └──────┘
┌─ change of each task, 95% ───┐   of training; for two runs, of the second against the first
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError

COLOURS = ("#2a6f97", "#c8553d", "#588157", "#7b4f8a")
INK, QUIET, GRID = "#22303c", "#7b8794", "#e6eaee"
VERDICTS = {"gain": "#3a7d44", "loss": "#c0392b", "within_margin": "#7b8794", "cannot_tell": "#c99a2e"}
WORDS = {"gain": "better", "loss": "worse", "within_margin": "alike", "cannot_tell": "cannot tell"}
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"]


def save(runs: Sequence[dict[str, Any]], file: Path, changes: Mapping[str, dict[str, Any]]) -> None:
    """Draw documents of `runs show`, and rows of a forgetting table or of paired differences.

    Raises UserError where nothing can be drawn or written.
    """
    require_png(file)
    if not any(run["curve"]["step"] for run in runs):
        raise UserError.at("--png", "no step was taken yet, so there is nothing to draw", "train first")
    # a loss has another unit than shares and text scores; its course stands above
    rows = [(name, row) for name, row in changes.items() if row.get("metric") != "loss"]
    height = 5.3 + (1.05 + 0.32 * len(rows) if rows else 0)
    draw_png(file, (9.6, height), lambda figure: _draw(figure, runs, rows))


def require_png(file: Path) -> None:
    """Raise UserError for a name that is no picture's; asked before hours of work."""
    if file.suffix.lower() != ".png":
        raise UserError.at("--png", f"{file} is no .png file", "name it such as loss.png")


def draw_png(file: Path, inches: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Write a figure of that size, drawn by `draw`, in the look of all pictures. UserError where it cannot be."""
    require_png(file)
    import io

    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"font.family": _fonts(), "font.size": 9, "axes.unicode_minus": False, "text.color": INK}
    settings |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), QUIET)
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=inches, dpi=160, facecolor="white")
        draw(figure)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture.getvalue())
    except OSError as error:
        raise UserError.at(
            "--png", f"{file} cannot be written: {error.strerror}", "choose another place"
        ) from error


def _fonts() -> list[str]:
    """The fonts of this machine that are wanted; names of runs may be Chinese."""
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in there]


def _draw(figure: Any, runs: Sequence[dict[str, Any]], rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    height = figure.get_size_inches()[1]
    top, bottom = 1 - 1.15 / height, 0.55 / height
    below = (0.75 + 0.32 * len(rows)) / height if rows else 0
    floor = bottom + below + (0.5 / height if rows else 0)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(2.6, 1), left=0.075, right=0.975, top=top, bottom=floor, hspace=0.55, wspace=0.2
    )
    title = "  against  ".join(Path(run["run"]).name for run in runs)
    figure.text(0.035, 1 - 0.32 / height, title, fontsize=14, fontweight="bold", color=INK, va="center")
    figure.text(0.035, 1 - 0.58 / height, _about(runs), fontsize=9, color=QUIET, va="center")
    losses = plain_axes(figure.add_subplot(grid[:, 0]), "loss (nats a token)", "step")
    rates = plain_axes(figure.add_subplot(grid[0, 1]), "learning rate", "")
    norms = plain_axes(figure.add_subplot(grid[1, 1]), "gradient norm", "step")
    for index, run in enumerate(runs):
        _course(
            losses, rates, norms, run, COLOURS[index % 4], COLOURS[(index + 1) % 4] if len(runs) == 1 else ""
        )
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rates.yaxis.get_offset_text().set_fontsize(7)
    losses.legend(frameon=False, loc="upper right", fontsize=8.5)
    if rows:
        place = (0.2, bottom, 0.775, below - 0.25 / height)
        last = Path(runs[-1]["run"]).name
        what = "change by training" if len(runs) == 1 else f"{last} against {Path(runs[0]['run']).name}"
        _changes(plain_axes(figure.add_axes(place), f"{what}: points, with 95% interval", ""), rows)


def plain_axes(axes: Any, title: str, under: str) -> Any:
    """Axes without a box, with a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=8)
    axes.set_xlabel(under, fontsize=8.5)
    return axes


def _course(losses: Any, rates: Any, norms: Any, run: dict[str, Any], colour: str, second: str) -> None:
    """One run: raw losses pale, their running mean strong, held-out as points."""
    curve, name = run["curve"], Path(run["run"]).name
    steps, values = curve["step"], curve["loss_nats"]
    losses.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
    losses.plot(
        steps,
        smooth(values),
        color=colour,
        linewidth=2.0,
        label="training" if second else f"{name}: training",
    )
    if run["heldout"]:
        label = "held-out" if second else f"{name}: held-out"
        points = [(p["step"], p["loss_nats"]) for p in run["heldout"]]
        losses.plot(*zip(*points), color=second or colour, linewidth=1.4, linestyle="-" if second else (0, (3, 2)),
                    marker="o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.8, label=label)  # fmt: skip
        best = min(points, key=lambda point: point[1])
        losses.annotate(f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, 8), ha="center",
                        fontsize=8, color=second or colour)  # fmt: skip
    rates.plot(steps, curve["lr"], color=colour, linewidth=1.6)
    norms.plot(steps, curve["grad_norm"], color=colour, linewidth=1.0, alpha=0.85)


def _changes(axes: Any, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """A line a task: the interval of its change, and a point, coloured by the verdict."""
    axes.axvline(0, color=QUIET, linewidth=1)
    for place, (_, row) in enumerate(rows):
        points = 1 if row.get("metric") in ("bleu", "chrf") else 100
        colour = VERDICTS.get(row["verdict"], QUIET)
        if len(row["ci95"]) == 2:
            axes.plot(
                [points * bound for bound in row["ci95"]], [place, place],
                color=colour, linewidth=2.4, solid_capstyle="round", alpha=0.5,
            )  # fmt: skip
        axes.plot([points * row["change"]], [place], "o", color=colour, markersize=6)
        words = f"{points * row['change']:+.1f}  {WORDS.get(row['verdict'], row['verdict'])}"
        axes.annotate(
            words, (1, place), xytext=(0, 0), va="center", xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=8, color=colour,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name.rpartition(" (")[0] or name for name, _ in rows])
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.22 * (high - low))


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean of both sides, over a twentieth of the course; its ends are not pulled."""
    reach = max(1, len(values) // 40)
    parts = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _about(runs: Sequence[dict[str, Any]]) -> str:
    """Model, method and state, each once where the runs share it."""
    words = [
        f"{Path(run['model'] or 'model').name} · {run['method'] or '–'} · {run['status']} at step {run['step']}"
        for run in runs
    ]
    return "   |   ".join(word for word, _ in groupby(words))
