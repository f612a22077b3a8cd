"""Whatever a file or a template holds, the answer is a row, a fault or an error in words: never a traceback.

Cases that were found stand as examples beside the random ones.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.data.byte_tokenizer import byte_tokenizer
from tunesmith.data.formats import COLUMNS, Fault, recognise, to_record
from tunesmith.data.gather import open_source
from tunesmith.data.marks import MARK
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Text
from tunesmith.data.sources import BadRow, Row, parse, read_rows
from tunesmith.data.template import ChatTemplate
from tunesmith.data.turns import ROLES
from tunesmith.errors import UserError
from tunesmith.recipe import DataFormat, Source

FORMATS = get_args(DataFormat)
RECORDS = (Chat, Text, Preference, Judged, Choice)
KINDS = (".jsonl", ".json", ".txt", ".csv", ".tsv", ".parquet", ".arrow", ".jsonl.gz", ".csv.zst", ".json.gz")
PARTS = (
    b'{"prompt": "q", "response": "a"}',
    b"\n",
    b"[",
    b"]",
    b",",
    b'"',
    b"{",
    b"}",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\\u0000",
    b'{"text": "\\ud83d"}',
    b"<|endoftext|>",
    b"\r\n",
    b"a,b\n",
    b'"a\nb",c\n',
    b"PAR1",
    b"ARROW1\x00\x00",
    b"\x1f\x8b\x08",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 2000,
    "你好".encode("gb18030"),
    "你好".encode("utf-16"),
    b"\t",
    b"question,A,B,answer\nq,x,y,A\n",
    b"(\xb5/\xfd",
)


def read_all(path: Path) -> None:
    """Read a file to its end and make records of it; only a UserError may come out."""
    with contextlib.suppress(UserError):
        for row in read_rows(Source(path=str(path))):
            assert isinstance(row, Row | BadRow)
        opened = open_source(Source(path=str(path)))
        for raw in opened.rows:
            assert isinstance(opened.record(raw), (Fault, *RECORDS))
            parse(raw)


@settings(max_examples=250, deadline=None)
@given(
    st.binary(max_size=300) | st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join),
    st.sampled_from(KINDS),
    st.booleans(),
)
@example(b"[", ".json", False)
@example(b'"', ".csv", False)
@example(b"PAR1PAR1", ".parquet", False)
@example(b"\x1f\x8b\x08", ".jsonl.gz", False)  # found: EOFError while the file was looked up
@example(b"(\xb5/\xfd", ".csv.zst", False)
@example(b"no zstd", ".csv.zst", False)
@example(b"[" * 100_000, ".jsonl", False)
def test_any_bytes_in_any_kind_of_file(data: bytes, kind: str, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{kind}"
        path.write_bytes(gzip.compress(data) if packed and kind.endswith(".gz") else data)
        read_all(path)


NAMES = sorted(
    {name for names in COLUMNS.values() for name in names}
    | {"A", "B", "choices", "conversation", "value", "kto_tag", MARK}
)
INNER = [
    "tool_calls",
    "function",
    "name",
    "arguments",
    "type",
    "weight",
    "train",
    "label",
    "text",
    "of",
    "by",
    "key",
]
texts = st.sampled_from(
    [
        "",
        " ",
        "x",
        "[{",
        "[]",
        "{}",
        "true",
        "A",
        "\n\nHuman:",
        "\n\nHuman: a\n\nAssistant: b",
        '[{"role": 3}]',
        "0a",
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | texts
    | st.sampled_from([*ROLES, "function_call"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, *INNER]), inner, max_size=4)
    ),
    max_leaves=12,
)
rows = st.dictionaries(st.sampled_from(NAMES), values, max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    values | rows,
    st.sampled_from(FORMATS),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NAMES), max_size=2),
)
@example({"messages": [{"role": "assistant", "content": None, "tool_calls": {"a": 1}}]}, "messages", {})
@example({"question": "q", "choices": {"label": [1], "text": ["a", "b"]}, "answer": 0}, "choice", {})
@example({"chosen": "\n\nHuman:", "rejected": "\n\nHuman:"}, "preference", {})
@example({"question": "q", "A": "x", "B": 3, "answer": "B"}, "choice", {})
@example(
    {"prompt": "q", "response": "a", "augmented": {"of": 1, "by": [], "key": "é"}}, "prompt_response", {}
)
def test_any_row_as_any_format(row: Any, format: DataFormat, columns: dict[str, str]) -> None:
    assert isinstance(to_record(row, format, columns), (Fault, *RECORDS))


@settings(max_examples=60, deadline=None)
@given(st.lists(rows | values, max_size=4))
def test_any_rows_are_recognised_or_refused_in_words(some: list[Any]) -> None:
    with contextlib.suppress(UserError):
        assert recognise(some, "a.jsonl", {}) in FORMATS


PIECES = (
    "{% for message in messages %}",
    "{% endfor %}",
    "{{ message['content'] }}",
    "{{ message.role }}",
    "{% if add_generation_prompt %}",
    "{% endif %}",
    "{{ eos_token }}",
    "{{ bos_token }}",
    "{{ raise_exception('no') }}",
    "{{ messages[5].content }}",
    "{{ 1 / 0 }}",
    "{{ tools | tojson }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{{ ''.__class__.__mro__ }}",
    "{% set x = namespace(a=1) %}",
    "{{ x.a }}",
    "{%",
    "}}",
    "Assistant:",
    "\n",
    "{{ 'a' * 10**9 }}",
    "{{ range(10**9) | list }}",
    "{% include 'x' %}",
    "{{ undefined.a.b }}",
    "{{ message['content'] | length }}",
    "{% macro m(a) %}{{ m(a) }}{% endmacro %}{{ m(1) }}",
    "{{ strftime_now('%Y') }}",
    "{# #}",
)
CHAT = Chat((Message("user", "q"), Message("assistant", "a")))


def render(source: str) -> None:
    from tunesmith.data.render import render as render_row

    tokenizer = copy.deepcopy(byte_tokenizer())  # the other tests share it
    tokenizer.chat_template = source
    with contextlib.suppress(UserError):
        template = ChatTemplate.of(tokenizer, "auto")
        render_row(CHAT, "a:1", template, "sft", 200, "drop")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
@example("{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}")
@example(
    "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}"
)
@example("{% macro m(a) %}{{ m(a) }}{% endmacro %}{{ m(1) }}")
@example("{{ ''.__class__.__mro__ }}")
def test_any_template_renders_or_is_refused_in_words(source: str) -> None:
    render(source)


def test_a_parquet_file_of_strange_types_gives_rows_or_faults(tmp_path: Path) -> None:
    import datetime
    import decimal

    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    row = {
        "prompt": "q",
        "response": "a",
        "when": datetime.datetime(2026, 1, 1),
        "raw": b"\xff",
        "price": decimal.Decimal("1.5"),
        "pairs": [("a", 1)],
        "nested": [{"x": [None]}],
    }
    table = pa.Table.from_pylist([{**row, "pairs": [{"a": 1}]}])
    pq.write_table(table, tmp_path / "a.parquet")
    read_all(tmp_path / "a.parquet")
