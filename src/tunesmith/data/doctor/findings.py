"""What the doctor tells: each rule with its weight and its remedy, what was found, where for example.

near_duplicate  warning  count 12  a.jsonl:7 "95% of a.jsonl:3"  ->  keep one: data clean --with near_duplicates
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tunesmith.data.faults import fix_of
from tunesmith.data.splits import Split

Severity = Literal["error", "warning", "note"]
GRAVE: tuple[Severity, ...] = ("error", "warning", "note")
EXCERPT = 60

RULES: Mapping[str, tuple[Severity, str]] = {
    "unreadable_file": ("error", "correct the path, or the file"),
    "text_under_sft": ("error", "set objective: pretrain, or give rows with an answer"),
    "duplicate_row": ("warning", "keep one; a row that stands twice is learnt twice: tunesmith data clean"),
    "near_duplicate": ("warning", "keep one of each group: tunesmith data clean --with near_duplicates"),
    "contradictory_answer": ("warning", "keep one answer to the same question, unless variety is meant"),
    "train_row_in_validation": ("warning", "nothing to do: such rows are left out of training, and counted"),
    "train_row_in_test": ("warning", "nothing to do: such rows are left out of training, and counted"),
    "validation_row_in_test": ("warning", "nothing to do: such rows are left out of validation, and counted"),
    "leak_of_validation": (
        "warning",
        "remove these rows from training, or their twins from validation: the loss there would tell too much",
    ),
    "leak_of_test": ("warning", "remove these rows from training: the test would measure memory"),
    "leak_of_task": ("warning", "remove these rows from training: the task's score would measure memory"),
    "placeholder": ("warning", "fill in or remove {{...}}: the model would learn to say it"),
    "odd_character": (
        "warning",
        "remove control characters (tunesmith data clean); \\ufffd is a trace of a wrong conversion: "
        "convert the source anew",
    ),
    "invisible_character": ("warning", "remove them, they cost tokens and hide in words: tunesmith data clean"),
    "mojibake": ("warning", "text was decoded with the wrong encoding; tunesmith data clean puts it right"),
    "stray_html": ("warning", "remnants of a web page: tunesmith data clean --with html"),
    "control_token_in_text": ("note", "nothing to do: it is encoded as plain text and steers nothing"),
    "unknown_token": ("warning", "the tokenizer cannot spell this text; use a model that knows the language"),
    "short_answer": ("note", "look whether these answers are meant"),
    "cut_off_answer": ("warning", "complete the answer or remove the row: the model would learn to stop mid-way"),
    "other_language": ("note", "look whether the answer should be in the language of its question"),
    "rare_language": ("note", "a few rows in a language the rest is not in: keep them only if they are meant"),
    "filler_word": ("note", "remove what carries no meaning: tunesmith data clean --with fillers"),
    "refusal": ("note", "rewrite or remove boilerplate refusals that are not meant; they spread: data clean "
                "--with refusals"),
    "typo": ("note", "suspects only: look, then tunesmith data clean --with typos"),
    "unlikely_text": ("note", "suspects only: the model finds these texts far less likely than the rest; look"),
    "unfit": ("warning", "remove the rows, or the turn at fault: tunesmith data clean --with unfit"),
    "personal_data": ("warning", "mask it before training, a model may recite it: data clean --with personal"),
    "unbalanced_source": ("note", "cap it (data.limit or fewer rows), or weigh sources: data.train[].weight"),
    "unbalanced_task": ("note", "take hundreds of rows a task, none drowning the rest: drop some of this one"),
    "small_task": ("note", "a task learns from hundreds of rows; add some, or tunesmith data augment"),
    "missing_tag_column": ("warning", "data.tags names a column that no row has: correct its name"),
    "too_long": ("note", "raise data.max_length, or choose data.overlength"),
    "one_document": (
        "note",
        "a .txt without blank lines is one document; split: line takes each line for one",
    ),
}  # fmt: skip
_DROP = "leave such rows out and count them: data.on_bad_row=drop"
_OWN: tuple[Severity, str] = ("note", "a rule of your own found it; see its file")


@dataclass(frozen=True, slots=True)
class Example:
    """One place where a rule speaks, why, and the words at fault."""

    where: str
    what: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found: in how many rows, where for example, and what to do about it."""

    rule: str
    severity: Severity
    count: int
    examples: tuple[Example, ...]
    fix: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file: what it is, why it is taken for that, and how many of its rows are good and bad."""

    path: str
    use: Split
    format: str | None
    why: str
    rows: int
    bad_rows: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one train source brings. `size` and `learnt` are tokens where a tokenizer is at hand, else characters."""

    path: str
    rows: int
    size: int
    learnt: int
    share: float
    weight: float | None
    languages: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All that was found, the grave first."""

    files: tuple[CheckedFile, ...]
    findings: tuple[Finding, ...]
    lengths: dict[str, Any]
    turns: dict[str, Any]
    budget: tuple[Share, ...]
    compared: dict[str, Any]

    @property
    def rows(self) -> int:
        """Rows of all files, good and bad."""
        return sum(file.rows for file in self.files)

    @property
    def ok(self) -> bool:
        """Whether a run could start."""
        return not any(finding.severity == "error" for finding in self.findings)

    def finding(self, rule: str) -> Finding | None:
        """What one rule found; None where it found nothing."""
        return next((finding for finding in self.findings if finding.rule == rule), None)

    def to_json(self) -> dict[str, Any]:
        """What `data check --json` prints."""
        formats: dict[str, int] = {}
        for file in self.files:
            formats[file.format or "unknown"] = formats.get(file.format or "unknown", 0) + file.rows
        return {
            "ok": self.ok,
            "files": [asdict(file) for file in self.files],
            "rows": self.rows,
            "findings": [asdict(finding) for finding in self.findings],
            "formats": formats,
            "lengths": self.lengths,
            "turns": self.turns,
            "budget": [asdict(share) for share in self.budget],
            "compared": self.compared,
        }


@dataclass(slots=True)
class Notes:
    """Findings while they gather: a count a rule and the first examples, never the rows."""

    examples_kept: int
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)

    def add(self, rule: str, where: str, what: str, excerpt: str = "") -> None:
        """One more row of a rule."""
        self.counts[rule] = self.counts.get(rule, 0) + 1
        held = self.examples.setdefault(rule, [])
        if len(held) < self.examples_kept:
            held.append(Example(where, what, excerpt))

    def add_bad(self, reason: str, where: str, detail: str) -> None:
        """One more row that means nothing, or that the template cannot render."""
        self.bad.add(reason)
        self.add(reason, where, detail)

    def drop(self, rule: str) -> None:
        """Forget a rule that turned out not to say anything of this data."""
        self.counts.pop(rule, None)

    def findings(self, on_bad_row: str) -> tuple[Finding, ...]:
        """Errors first, then warnings and notes, each by count."""
        found = [self._finding(rule, count, on_bad_row) for rule, count in self.counts.items()]
        found.sort(key=lambda finding: (GRAVE.index(finding.severity), -finding.count, finding.rule))
        return tuple(found)

    def _finding(self, rule: str, count: int, on_bad_row: str) -> Finding:
        severity: Severity
        if rule in self.bad:
            severity = "error" if on_bad_row == "error" else "warning"
            fix = f"{fix_of(rule)}; or {_DROP}"
        else:
            severity, fix = RULES.get(rule.split(":")[0], _OWN)
        return Finding(rule, severity, count, tuple(self.examples[rule]), fix)


def excerpt(text: str, start: int = 0, end: int | None = None) -> str:
    """The words at fault with some around them, on one line: …und <b>so</b> fort…"""
    end = min(len(text), start + EXCERPT) if end is None else min(end, start + EXCERPT)
    spare = max(0, EXCERPT - (end - start)) // 2
    first, last = max(0, start - spare), min(len(text), end + spare)
    cut = " ".join(text[first:last].split())
    return ("…" if first else "") + cut + ("…" if last < len(text) else "")
