"""The sandbox that runs chat templates."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.data.families import FAMILIES, tokenizer_of
from tunesmith.data.jinja import JinjaTemplate, TemplateRefusal, Written
from tunesmith.data.watchdog import TookTooLong, limited

TURNS = [{"role": "user", "content": "Hi <b>&</b>"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_template_writes_what_transformers_writes(name: str) -> None:
    tokenizer = tokenizer_of(name)
    template = JinjaTemplate(FAMILIES[name].source, tokenizer.special_tokens_map)
    for prompt in (False, True):
        turns = TURNS[: 1 if prompt else 2]
        expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
        assert template.write(turns, generation_prompt=prompt).text == expected


# mutation tried: lstrip_blocks off, trim_blocks off, no loopcontrols.
@pytest.mark.parametrize(
    "source",
    [
        "  {% for turn in messages %}\n  {{ turn.content }}\n  {% endfor %}\nend",
        "{% for turn in messages %}{% if loop.last %}{% break %}{% endif %}{{ turn['role'] }}{% endfor %}",
        "{{ messages[0] | tojson }}{{ dict(a=1) }}{{ messages | map(attribute='role') | join(',') }}",
        "{% set ns = namespace(n=0) %}{% for t in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{{ messages[0].items() | list | length }}{{ messages[0].get('x', 'none') }}{{ messages[0].gone }}",
        "{{ messages[1].content.upper().strip('!').split('L') }}{{ 'a'.join(['b', 'c']) }}",
    ],
)
def test_jinja_is_set_up_as_in_transformers(source: str) -> None:
    tokenizer = tokenizer_of("chatml")
    expected = tokenizer.apply_chat_template(TURNS, chat_template=source, tokenize=False)
    assert JinjaTemplate(source, tokenizer.special_tokens_map).write(TURNS, False).text == expected


def test_generation_blocks_are_found_inside_macros_and_sets() -> None:
    source = (
        "{% macro say(turn) %}<{% generation %}{{ turn.content }}{% endgeneration %}>{% endmacro %}"
        "{% set second %}{{ say(messages[1]) }}{% endset %}{{ say(messages[0]) }}{{ second }}"
    )
    turns = [{"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert JinjaTemplate(source, {}).write(turns, False) == Written("<one><two>", ((1, 4), (6, 9)))


def test_a_message_cannot_forge_a_generation_block() -> None:
    source = "{% for turn in messages %}{% generation %}{{ turn.content }}{% endgeneration %}{% endfor %}"
    forged = "a\U0010f000b\U0010f001c"
    assert JinjaTemplate(source, {}).write([{"role": "user", "content": forged}], False) == Written(
        forged, ((0, 5),)
    )


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ messages[7].content.strip() }}", "it fails"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(1000000000) %}{% endfor %}", "it fails"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "may not set"),
        ("{% if %}", "not valid Jinja"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(source: str, why: str) -> None:
    with pytest.raises(TemplateRefusal, match=why):
        JinjaTemplate(source, {}).write(TURNS, False)


ENDLESS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "filters": "{% for a in range(99999) %}{{ range(99999) | map('string') | join }}{% endfor %}",
}


# mutation tried: the watchdog finds nobody late.
@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_a_template_that_does_not_end_is_ended(name: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateRefusal, match="more than a second"):
        JinjaTemplate(ENDLESS[name], {}).write(TURNS, False)
    assert time.thread_time() - began < 2
    assert JinjaTemplate("{{ messages | length }}", {}).write(TURNS, False).text == "2"


def test_who_was_ended_on_the_way_out_is_watched_again() -> None:
    # mutation tried: the mark of one who was ended is taken off at the way out alone
    limited._ended.add(threading.get_ident())
    began = time.monotonic()

    def turn() -> None:
        with limited:
            while time.monotonic() - began < 20:
                pass

    with pytest.raises(TookTooLong):
        turn()


def test_it_is_ended_in_any_thread_and_no_other_is() -> None:
    def write(source: str) -> str:
        try:
            return JinjaTemplate(source, {}).write(TURNS, False).text
        except TemplateRefusal as refusal:
            return str(refusal)

    sources = [ENDLESS["macros"], ENDLESS["loops in loops"], "fine {{ messages | length }}"]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(write, sources))
    assert ["more than a second" in text for text in found] == [True, True, False]


def test_it_is_ended_in_a_forked_process_too() -> None:
    code = (
        "import os, sys\n"
        "from tunesmith.data.jinja import JinjaTemplate, TemplateRefusal\n"
        "JinjaTemplate('x', {}).write([], False)\n"
        "child = os.fork()\n"
        "if child:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "try:\n"
        f"    JinjaTemplate({ENDLESS['macros']!r}, {{}}).write([], False)\n"
        "except TemplateRefusal:\n"
        "    os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7


def test_once_it_is_ended_a_debugger_may_look_on() -> None:
    # mutation tried: what was thrown is taken back with NULL (seen to hang on CPython 3.11)
    code = (
        "import sys\n"
        "from tunesmith.data.jinja import JinjaTemplate, TemplateRefusal\n"
        "def look(): return 7\n"
        "try:\n"
        f"    JinjaTemplate({ENDLESS['loops in loops']!r}, {{}}).write([], False)\n"
        "except TemplateRefusal:\n"
        "    sys.settrace(lambda *_: None)\n"
        "    sys.exit(look())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7


# mutation tried: products, or numbers, are not checked.
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 1000000000 }}",
        "{% set n = 3000 %}{{ ['x'] * n * n }}",
        "{% set n = 99 %}{{ n ** n ** n }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ messages[0].content | indent(1000000000) }}",
    ],
)
def test_what_would_fill_the_memory_at_once_is_refused(source: str) -> None:
    with pytest.raises(TemplateRefusal, match="it fails"):
        JinjaTemplate(source, {}).write(TURNS, False)


def test_source_that_is_nested_without_measure_is_refused() -> None:
    with pytest.raises(TemplateRefusal, match=r"not valid Jinja|it fails"):
        JinjaTemplate("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", {}).write(TURNS, False)


def test_a_template_that_writes_the_date_writes_the_same_on_every_day() -> None:
    assert JinjaTemplate("{{ strftime_now('%d %b %Y') }}", {}).write([], False).text == "26 Jul 2024"


def test_json_is_written_as_transformers_writes_it() -> None:
    assert (
        JinjaTemplate("{{ messages | tojson }}", {}).write([{"a": "<好>"}], False).text == '[{"a": "<好>"}]'
    )
