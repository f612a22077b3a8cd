"""Whether one source or task drowns the others: hundreds of rows each, none above the rest (note 001, point 3).

task "chat" 9,000 rows, "sum" 40 rows   ->   unbalanced_task chat: 99%; small_task sum: 40 rows
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tunesmith.data.doctor.findings import Notes, Share

# Columns that usually tell the task of a row, the more telling first.
TASK_COLUMNS = ("task", "task_type", "task_name", "category", "type", "domain", "subject", "intent", "skill")
LEAST_ROWS = 100  # a task with fewer is hardly learnt
DROWNS = 0.6
TIMES = 3.0
MOST_TASKS = 500


def judge_sources(budget: Sequence[Share], notes: Notes) -> None:
    """A source without a weight that is most of what is read, and many times its even share."""
    total = sum(share.size for share in budget)
    if len(budget) < 2 or not total or any(share.weight is not None for share in budget):
        return
    for share in budget:
        part = share.size / total
        if part > DROWNS and part * len(budget) > TIMES / 2:
            what = f"is {100 * part:.0f}% of what is read, the other {len(budget) - 1} together {100 - 100 * part:.0f}%"
            notes.add("unbalanced_source", share.path, what)


def judge_tasks(tasks: Mapping[str, Counter[str]], notes: Notes) -> None:
    """Tasks by a column: {column: {task: rows}}. A column of names that hardly repeat tells no tasks."""
    for column, counts in tasks.items():
        total = sum(counts.values())
        if not 2 <= len(counts) <= MOST_TASKS or total < 10 * len(counts):
            continue
        for name, rows in counts.most_common():
            others = sorted((counts - Counter({name: rows})).values())
            usual = others[len(others) // 2]
            where = f"{column}={name}"
            if rows > DROWNS * total and rows > TIMES * usual:
                notes.add(
                    "unbalanced_task",
                    where,
                    f"{rows:,} of {total:,} rows; half of the others have at most {usual:,}",
                )
            elif rows < LEAST_ROWS and total >= LEAST_ROWS * 2:
                notes.add("small_task", where, f"{rows:,} rows")
