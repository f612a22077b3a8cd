"""The guides tell the truth of today: links lead somewhere, commands and keys exist, both languages say it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunesmith.app.cli import VERBS
from tunesmith.plan.advice import RULES
from tunesmith.recipe import parse
from tunesmith.recipe.plain_yaml import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "README.zh-CN.md"])
GUIDES = ("quickstart", "own-model", "chat-or-base", "report", "ladder", "data-tools", "advice", "sweep")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


# mutation tried: a link to own-model.md#which-sise
@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        if heading:
            assert heading in anchors(found), target


# mutation tried: `tunesmith runs diff` in ladder.md
@each_page
def test_every_command_shown_exists(page: Path) -> None:
    known = {words for _, words, _ in VERBS}
    shown = re.findall(r"^\s*(?:\$ )?tunesmith ([a-z-]+)(?: ([a-z-]+))?", page.read_text("utf-8"), re.M)
    for verb, inner in shown:
        assert verb in known or f"{verb} {inner}" in known, (verb, inner)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_speaks_both_languages_with_the_same_examples(name: str) -> None:
    english, chinese = (
        (ROOT / "docs" / f"{name}{language}.md").read_text(encoding="utf-8") for language in ("", ".zh-CN")
    )
    assert f"({name}.zh-CN.md)" in english
    assert f"({name}.md)" in chinese
    commands = re.compile(r"^(?:\$ )?(tunesmith [^#\n]*?)\s*(?:#.*)?$", re.M)
    assert commands.findall(english) == commands.findall(chinese)
    assert len(re.findall(r"^## ", english, re.M)) == len(re.findall(r"^## ", chinese, re.M))


# mutation tried: learning_rate in the quickstart's recipe
@pytest.mark.parametrize("language", ["", ".zh-CN"])
def test_the_recipe_of_the_quickstart_is_one(language: str) -> None:
    text = (ROOT / "docs" / f"quickstart{language}.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert parse(parse_yaml(recipe, "quickstart")).output == "runs/faq"


# mutation tried: a rule more in RULES; "point 5" for "point 7" in a row
@pytest.mark.parametrize("language", ["", ".zh-CN"])
def test_the_page_of_advice_has_a_line_for_every_rule_with_its_source(language: str) -> None:
    from tests.plan.test_advice import TRIGGERS
    from tunesmith.plan.advice import advise

    text = (ROOT / "docs" / f"advice{language}.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", text, re.M))
    assert list(rows) == [rule.__name__ for rule in RULES]
    for name, source in rows.items():
        (advice,) = advise(TRIGGERS[name].case())
        named = re.compile(r"note 00\d|arXiv:[\d.]+|\d+")
        assert set(named.findall(source)) <= set(named.findall(advice.source)), name


def test_rules_of_advice_that_the_guides_name_exist() -> None:
    rules = {rule.__name__ for rule in RULES}
    text = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
    named = re.findall(r"`plan` says so \(`(\w+)`\)", text)
    assert named
    assert set(named) <= rules
