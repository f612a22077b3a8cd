"""What this machine can do."""

from __future__ import annotations

import json

import pytest

from tunesmith.app import doctor
from tunesmith.app.render import doctor as pages

from .render.test_base import printed


def test_every_check_has_a_finding_in_words() -> None:
    document = doctor.diagnose()
    names = [check["name"] for check in document["checks"]]
    assert {"python", "libraries", "device", "disk", "model hub", "hub token"} <= set(names)
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
