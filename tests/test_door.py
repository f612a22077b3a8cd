"""The door: what `import tunesmith` offers."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tunesmith
from tunesmith import errors


def test_public_names_are_sorted_and_all_there() -> None:
    assert list(tunesmith.__all__) == sorted(tunesmith.__all__)
    assert len(set(tunesmith.__all__)) == len(tunesmith.__all__)
    for name in tunesmith.__all__:
        assert getattr(tunesmith, name) is not None
        assert name in dir(tunesmith)


# mutation tried: leaving DoesNotFitError out of __all__ is noticed
def test_every_error_of_the_tree_is_a_public_name() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert tree <= set(tunesmith.__all__)


def test_the_verbs_of_the_design_are_offered() -> None:
    verbs = {"load_recipe", "plan", "train", "evaluate", "export", "chat"}
    assert verbs <= set(tunesmith.__all__)
    assert all(callable(getattr(tunesmith, verb)) for verb in verbs)


# mutation tried: without _Door, tunesmith.plan is a module that cannot be called once a plan was made
def test_verbs_stay_verbs_when_rooms_of_the_same_name_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import tunesmith.export.certificate
    import tunesmith.plan.device
    from tunesmith import run

    monkeypatch.setattr(run, "plan", lambda recipe: f"plan of {recipe}")
    monkeypatch.setattr(run, "export", lambda target, form: f"{target} as {form}")
    assert tunesmith.plan("it") == "plan of it"  # type: ignore[operator]
    assert tunesmith.export("it", "merged") == "it as merged"  # type: ignore[operator]
    assert callable(tunesmith.plan.device.find_device)  # type: ignore[attr-defined]


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tunesmith.trian


def test_only_errors_are_imported_eagerly() -> None:
    tree = ast.parse(Path(tunesmith.__file__).read_text(encoding="utf-8"))
    eager = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert eager == {"__future__", "types", "typing", "tunesmith.errors"}


def test_the_version_is_that_of_the_distribution() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{tunesmith.__version__}"' in text
