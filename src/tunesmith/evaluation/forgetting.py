"""What was gained and what was forgotten: the same items before and after, paired, with an honest verdict.

improvement  ----[---- 0 ----]----   lower and upper bound of 95%
             both within the margin   -> within_margin
             all above zero           -> gain          all below -> loss
             anything else            -> cannot_tell, and how many items would tell
Sources: Miller 2024 (arXiv:2411.00640) for pairing; Bonett & Price 2012 for paired shares of small n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy import ndarray

from tunesmith.evaluation.metrics import Metric, ratio_stderr
from tunesmith.evaluation.scores import Evaluated, HeldOut, Measured

# Two-sided 95% points of Student's t for 1 to 10 degrees of freedom; above, an expansion is exact to 0.003.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z95 = NormalDist().inv_cdf(0.975)


def compare(before: Evaluated, after: Evaluated, tasks: Iterable[Any] | None = None) -> dict[str, Any]:
    """The contracted forgetting table {NAME: {...}} of tasks measured both times.

    `tasks` (names, or objects with a name) chooses and orders them; null takes all. `change` and `ci95`
    are after - before in the metric's own units; for a loss, lower is better and the verdict knows it.
    """
    names = [getattr(task, "name", task) for task in tasks] if tasks is not None else list(before.items)
    both = [name for name in names if name in before.items and name in after.items]
    return {name: compare_task(before.items[name], after.items[name]) for name in both}


def compare_heldout(before: HeldOut | None, after: HeldOut | None) -> dict[str, Any] | None:
    """The held-out loss, compared in the same way; None where it was not measured both times."""
    if before is None or after is None:
        return None
    return compare_task(before.measured("domain", ""), after.measured("domain", ""))


def compare_task(before: Measured, after: Measured) -> dict[str, Any]:
    """One row of the forgetting table."""
    assert before.metric == after.metric, "the same task has the same metric"
    rule = before.rule
    old, new = _paired(before, after)
    if len(old) == 0:
        return _row(before, before.value, after.value, [], "cannot_tell", 0, None)
    value, later = rule.value(old), rule.value(new)
    interval = paired_interval(rule, old, new)
    margin = rule.margin_at(value)
    row = _row(before, value, later, interval, _verdict(rule, interval, margin), len(old), margin)
    if row["verdict"] == "cannot_tell" and interval and margin > 0:
        half = (interval[1] - interval[0]) / 2
        row["n_needed"] = max(len(old) + 1, math.ceil(len(old) * (half / margin) ** 2))
    return row


def _row(
    task: Measured, before: float, after: float, ci95: list[float], verdict: str, n: int, margin: float | None
) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "change": after - before,
        "ci95": ci95,
        "verdict": verdict,
        "n": n,
        "margin": margin,
        "metric": task.metric,
        "group": task.group,
        "higher_is_better": task.rule.higher_is_better,
    }


def _paired(before: Measured, after: Measured) -> tuple[ndarray, ndarray]:
    """Numbers of the items measured both times, in the same order."""
    if before.addresses == after.addresses:
        return before.table, after.table
    later = dict(zip(after.addresses, after.numbers))
    pairs = [(old, later[at]) for at, old in zip(before.addresses, before.numbers) if at in later]
    return np.array([old for old, _ in pairs], float), np.array([new for _, new in pairs], float)


def paired_interval(rule: Metric, old: ndarray, new: ndarray) -> list[float]:
    """95% interval of after - before over the same items; empty for fewer than two."""
    n = len(old)
    if n < 2:
        return []
    if not rule.is_ratio:
        changes = rule.resampled(new) - rule.resampled(old)
        return [float(bound) for bound in np.quantile(changes, [0.025, 0.975])]
    if _is_share(old) and _is_share(new):
        return _paired_shares(old[:, 0], new[:, 0])
    change = rule.value(new) - rule.value(old)
    half = student_t95(n - 1) * ratio_stderr(new[:, 0] - old[:, 0], old[:, 1])
    return [change - half, change + half]


def _is_share(numbers: ndarray) -> bool:
    return bool(np.isin(numbers[:, 0], (0, 1)).all() and (numbers[:, 1] == 1).all())


def _paired_shares(old: ndarray, new: ndarray) -> list[float]:
    """Bonett-Price interval: a made-up item on each side keeps it honest where few items differ."""
    n = len(old)
    up = (float(((new == 1) & (old == 0)).sum()) + 1) / (n + 2)
    down = (float(((new == 0) & (old == 1)).sum()) + 1) / (n + 2)
    half = _Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return [max(-1.0, up - down - half), min(1.0, up - down + half)]


def _verdict(rule: Metric, interval: list[float], margin: float) -> str:
    if not interval:
        return "cannot_tell"
    low, high = interval if rule.higher_is_better else (-interval[1], -interval[0])
    if -margin <= low and high <= margin:
        return "within_margin"
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "cannot_tell"


def student_t95(freedom: int) -> float:
    """Two-sided 95% point of Student's t (Cornish-Fisher expansion above 10 degrees of freedom)."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
