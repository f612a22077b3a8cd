"""What this machine can do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tunesmith.app import doctor, matrices
from tunesmith.app.extras import EXTRAS, Extra
from tunesmith.app.matrices import Rates
from tunesmith.app.render import doctor as pages

from .render.test_base import printed

RATES = Rates("cpu", 1024, 2e10, 1e10)


@pytest.fixture(autouse=True)
def _no_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "measure", lambda: RATES)


def test_every_check_has_a_finding_in_words() -> None:
    document = doctor.diagnose()
    names = [check["name"] for check in document["checks"]]
    assert {
        "python",
        "libraries",
        "device",
        "memory",
        "disk",
        "model hub",
        "hub token",
        "matrix units",
    } <= set(names)
    assert all(check["value"] for check in document["checks"])
    json.dumps(document)


def test_a_token_is_named_but_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_swordfish9000")
    document = doctor.diagnose()
    assert "swordfish" not in json.dumps(document)
    assert next(check for check in document["checks"] if check["name"] == "hub token")["value"] == "set"


def test_one_bad_finding_makes_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = doctor.Check("disk", "bad", "0.1 GiB free", "free some space")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([broken]),))
    document = doctor.diagnose()
    assert document["ok"] is False
    out = printed(pages.page(document))
    assert "✗ disk" in out
    assert "→ free some space" in out
    assert "will make runs fail" in out


def test_a_missing_library_is_bad_and_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-library"))
    checks = list(doctor.packages())
    assert checks[-1].status == "bad"
    assert checks[-1].fix == "pip install no-such-library"


def test_the_page_fits_80_columns() -> None:
    assert max(map(len, printed(pages.page(doctor.diagnose())).splitlines())) <= 80


# --- matrix units and what can be added ---------------------------------------------------------------------


def test_the_rates_are_measured_within_their_time() -> None:
    found = matrices._rate("cpu", 64, __import__("torch").float32, 0.05)
    assert found > 1e6


def said(monkeypatch: pytest.MonkeyPatch, rates: Rates, believed: bool) -> doctor.Check:
    from tunesmith.plan import device

    known = device.Device("cpu", "a processor", 2**34, bf16=believed)
    monkeypatch.setattr(device, "find_device", lambda: known)
    (check,) = doctor._speed(rates)
    return check


def test_bf16_that_does_not_pay_is_told_where_it_would_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = RATES, Rates("cpu", 1024, 2e10, 2e11)
    assert said(monkeypatch, fast, believed=True).status == "good"
    assert said(monkeypatch, slow, believed=False).status == "good"
    wrong = said(monkeypatch, slow, believed=True)
    assert (wrong.status, "compute.precision=fp32" in wrong.fix) == ("warn", True)
    assert "compute.precision=bf16" in said(monkeypatch, fast, believed=False).fix


def test_quick_leaves_the_test_out() -> None:
    document = doctor.diagnose(quick=True)
    assert document["matrices"] is None
    assert doctor.diagnose()["matrices"]["fp32_flops"] == 2e10


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]
    assert {extra.name for extra in EXTRAS} == set(wanted) - {"dev"}
    for extra in EXTRAS:
        assert len(extra.modules) == len(wanted[extra.name])


def test_a_missing_extra_is_told_with_its_price_and_the_words_to_type() -> None:
    extra = Extra("odd", "telling the future", ("no_such_module",), 50)
    told = {"name": "odd", "for": extra.what, "missing": extra.missing, "megabytes": 50, "seconds": extra.seconds,
            "install": extra.install}  # fmt: skip
    out = printed(pages.page({"ok": True, "checks": [], "extras": [told]}))
    for words in ("telling the future", "50 MB", "10 s", "pip install 'tunesmith[odd]'"):
        assert words in out
