"""The catalogue of errors is what the classes and tables of the code say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


# mutation tried: a docstring changed in errors.py; a reason added to faults.py
def test_the_catalogue_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make_errors", ROOT / "docs/make_errors.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    for name, text in made.pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run: python docs/make_errors.py"
