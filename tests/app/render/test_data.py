"""Pages of data check and data stats."""

from __future__ import annotations

from typing import Any

from tunesmith.app.render import check, data

from .test_base import printed

LENGTHS = {
    "unit": "tokens", "count": 3, "total": 90, "mean": 30.0, "min": 8, "median": 30, "p95": 52, "max": 52,
    "histogram": [{"from": 8, "to": 15, "count": 1}, {"from": 32, "to": 63, "count": 2}],
}  # fmt: skip
FILE = {"path": "a/x.jsonl", "use": "train", "format": "messages", "why": "", "rows": 4, "bad_rows": 0}
FINDING = {
    "rule": "broken_json", "severity": "error", "count": 1, "fix": "mend it",
    "examples": [{"where": "a/x.jsonl:2", "what": "Expecting value"}],
}  # fmt: skip


def report(*findings: dict[str, Any], ok: bool = True) -> dict[str, Any]:
    return {
        "ok": ok,
        "files": [FILE],
        "rows": 4,
        "findings": list(findings),
        "formats": {"messages": 4},
        "lengths": LENGTHS,
    }


def source(**fates: int) -> dict[str, Any]:
    named = dict.fromkeys(data.FATES, 0) | fates
    return {
        "path": "x.jsonl",
        "format": "messages",
        "rows_in": sum(named.values()),
        **named,
        "reasons": {"too_long": 2},
    }


def test_a_finding_has_its_place_its_words_and_its_cure() -> None:
    out = printed(check.page(report(FINDING, ok=False)))
    for part in ("✗ broken json  1 ×", "a/x.jsonl:2  Expecting value", "→ mend it", "a run would stop"):
        assert part in out


def test_good_data_says_so_in_a_line() -> None:
    assert check.words(report()) == "4 rows in 1 file, all readable"
    warned = report({**FINDING, "severity": "warning"})
    assert check.words(warned) == "4 rows in 1 file, all readable; 1 thing to look at"


def test_bad_rows_that_a_run_leaves_out_are_not_called_readable() -> None:
    found = report()
    found["files"] = [{**FILE, "bad_rows": 3}]
    assert check.words(found) == "4 rows in 1 file, 3 bad ones left out"


def test_fates_nobody_met_are_left_out_of_the_ledger() -> None:
    out = printed(data.ledger({"sources": [source(whole=5, shortened=2)]}))
    assert "shortened" in out
    assert "expanded" not in out


def test_files_of_one_name_keep_their_folders() -> None:
    assert data.short_names(["a/x.jsonl", "b/y.jsonl"]) == ["x.jsonl", "y.jsonl"]
    assert data.short_names(["a/x.jsonl", "b/x.jsonl"]) == ["a/x.jsonl", "b/x.jsonl"]


def test_stats_show_lengths_sources_and_reasons() -> None:
    part = {"rows": 5, "samples": 5, "tokens": 90, "targets": 45}
    document = {
        "lengths": {"train": LENGTHS},
        "sources": [
            {"path": "x.jsonl", "samples": 5, "tokens": 90, "targets": 45, "share": 1.0, "weight": None,
             "budget_share": 1.0, "repeats": 1.0},
        ],
        "rows": [{"path": "x.jsonl", "rows": 5, "rounds": LENGTHS, "questions": LENGTHS, "answers": LENGTHS}],
        "ledger": {"sources": [source(whole=5, shortened=2)], "splits": {"train": part}},
        "longest": 52, "fingerprint": "",
    }  # fmt: skip
    out = printed(data.stats_page(document))
    for part_of in ("longest 52", "100%", "50%", "1 ×", "rounds", "questions", "too long", "32 – 63", "█"):
        assert part_of in out
    assert max(map(len, out.splitlines())) <= 80
