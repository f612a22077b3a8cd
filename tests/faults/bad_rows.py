"""Data files that cannot be learnt from: encodings, broken JSON, rows that mean nothing, files that are none."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.faults.trying import Case, Content

GOOD = "".join(json.dumps({"prompt": f"say {n}", "response": f"it is {n * 7}"}) + "\n" for n in range(8))
RECIPE = "model: '{model}'\ndata: {train: '{dir}/%s'}\noutput: '{dir}/run'\n"


def rows(name: str, bad: str | bytes, what: str, where: str = r"rows\.jsonl:9$", **more) -> Case:
    """Eight good rows and then a bad one (or what `file` says instead)."""
    file = more.pop("file", "rows.jsonl")
    bad_bytes = bad if isinstance(bad, bytes) else bad.encode()
    content: Content = more.pop("content", GOOD.encode() + bad_bytes + b"\n")
    words = more.pop("words", "plan {dir}/r.yaml")
    code = more.pop("code", "data")
    return Case(name, words, code, where, what, files={"r.yaml": RECIPE % file, file: content}, **more)


def messages(name: str, turns: object, what: str, **more) -> Case:
    """A file of dialogues, the last of which is bad."""
    lines = [json.dumps({"messages": [turn("user", f"q{n}"), turn("assistant", f"a{n}")]}) for n in range(8)]
    content = "\n".join([*lines, json.dumps({"messages": turns})]) + "\n"
    return rows(name, "", what, content=content.encode(), **more)


def turn(role: object, content: object, **more: object) -> dict[str, object]:
    """One message."""
    return {"role": role, "content": content, **more}


Q, A = turn("user", "q"), turn("assistant", "a")


def link(target: str) -> Callable[[Path], None]:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    """A folder with nothing in it."""
    path.mkdir()


def deep(size: int) -> str:
    """JSON nested as deep as that."""
    return '{"prompt": ' + "[" * size + "]" * size + ', "response": "x"}'


def closed(path: Path) -> None:
    """A file one may not read."""
    path.write_text(GOOD)
    path.chmod(0)


def long_line(path: Path) -> None:
    """A line of 1 GB that ends nowhere, as a sparse file: no disk is used."""
    with path.open("wb") as file:
        file.write(GOOD.encode())
        file.truncate(1 << 30)


CASES = [
    # ---- JSON ----
    rows("a line cut short", '{"prompt": "say", "resp', "broken_json"),
    rows("a comma at the end", '{"prompt": "a", "response": "b",}', "comma"),
    rows("single quotes", "{'prompt': 'a', 'response': 'b'}", "JSON"),
    rows("a comment", "// a comment", "JSON"),
    rows("a key twice", '{"prompt": "a", "prompt": "c", "response": "b"}', "twice|duplicate"),
    rows("NaN", '{"prompt": NaN, "response": "b"}', ""),
    rows("a number for a row", "7", ""),
    rows("a list for a row", '["a", "b"]', ""),
    rows("null for a row", "null", ""),
    rows("a number for an answer", '{"prompt": "a", "response": 7}', ""),
    rows("null for an answer", '{"prompt": "a", "response": null}', ""),
    rows("a list for a question", '{"prompt": ["a"], "response": "b"}', ""),
    rows("no answer key", '{"prompt": "a"}', ""),
    rows("an empty answer", '{"prompt": "a", "response": ""}', "empty"),
    rows("an answer of blanks", '{"prompt": "a", "response": "  \\n "}', "empty"),
    rows("an empty question", '{"prompt": "", "response": "b"}', "empty"),
    rows("half a surrogate pair", '{"prompt": "a", "response": "\\ud83d"}', "surrogate|character|encod"),
    rows("deep JSON", deep(100_000), ""),
    rows("a number with 10000 digits", '{"prompt": "a", "response": ' + "9" * 10_000 + "}", ""),
    rows("a NUL byte", b'{"prompt": "a\x00", "response": "b"}', ""),
    rows("bytes that are no UTF-8", b'{"prompt": "a\xff\xfe", "response": "b"}', "UTF-8"),
    rows("a line of 1 GB", "", "", where="rows.jsonl", content=long_line),
    rows("several bad rows at once", '{"prompt": "a"}\n{"prompt": 7, "response": "b"}\nnull', "", problems=3),
    # ---- encodings and files ----
    rows("UTF-16", "", "UTF-16", where=r"rows\.jsonl", content=GOOD.encode("utf-16")),
    rows(
        "GB18030",
        "",
        "GB18030",
        where=r"rows\.jsonl",
        content='{"prompt": "失眠怎么办", "response": "少喝茶"}\n'.encode("gb18030") * 9,
    ),
    rows("an empty file", "", "no rows", where=r"rows\.jsonl", content=b""),
    rows("blank lines only", "", "no rows", where=r"rows\.jsonl", content=b"\n \n\n"),
    rows(
        "a file that is not there",
        "",
        "not exist",
        where="absent",
        file="rows.jsonl",
        words="plan {dir}/r.yaml data.train={dir}/absent.jsonl",
    ),
    rows("an empty folder", "", "", where="empty", content=folder, file="empty"),
    rows(
        "a folder of pictures",
        "",
        "",
        where="",
        file="pictures/a.png",
        content=b"\x89PNG",
        words="plan {dir}/r.yaml data.train={dir}/pictures",
    ),
    rows(
        "a pattern that fits nothing", "", "", where="", words="plan {dir}/r.yaml data.train={dir}/*.parquet"
    ),
    rows("a picture", "", "", where="a.png", file="a.png", content=b"\x89PNG\r\n\x1a\n"),
    rows("a pickle", "", "", where="a.pkl", file="a.pkl", content=b"\x80\x04\x95."),
    rows("a link to nowhere", "", "", where="rows.jsonl", content=link("nowhere.jsonl")),
    rows("a link to itself", "", "", where="rows.jsonl", content=link("rows.jsonl")),
    rows(
        "gzip cut short",
        "",
        "",
        where="rows.jsonl.gz",
        file="rows.jsonl.gz",
        content=gzip.compress(GOOD.encode() * 99)[:-20],
    ),
    rows(
        "no gzip behind the name", "", "", where="rows.jsonl.gz", file="rows.jsonl.gz", content=GOOD.encode()
    ),
    rows(
        "parquet that is none",
        "",
        "",
        where="rows.parquet",
        file="rows.parquet",
        content=b"PAR1 nothing PAR1",
    ),
    rows("arrow that is none", "", "", where="rows.arrow", file="rows.arrow", content=b"ARROW1"),
    rows(
        "JSON that ends early",
        "",
        "",
        where="rows.json",
        file="rows.json",
        content=b'[{"prompt": "a", "response": "b"}, {"pro',
    ),
    rows("JSON that is a word", "", "", where="rows.json", file="rows.json", content=b'"hello"'),
    rows("csv without its columns", "", "", where="rows.csv", file="rows.csv", content=b"a,b\n1,2\n"),
    rows(
        "csv with too many cells",
        "",
        "",
        where="rows.csv:3",
        file="rows.csv",
        content=b"prompt,response\na,b\na,b,c,d\n",
    ),
    rows(
        "csv with an open quote",
        "",
        "",
        where="rows.csv",
        file="rows.csv",
        content=b'prompt,response\na,"b\n',
    ),
    rows(
        "text without blank lines is one document",
        "",
        "",
        where="",
        file="rows.txt",
        content=b"",
        code="data",
    ),
    # ---- dialogues ----
    messages("no turns", [], "empty"),
    messages("messages as a string", "hello", ""),
    messages("a turn that is a string", ["hello"], ""),
    messages("a turn without role", [{"content": "a"}, A], ""),
    messages("a turn without content", [{"role": "user"}, A], ""),
    messages("an unknown role", [turn("robot", "q"), A], "role"),
    messages("a role that is a number", [turn(7, "q"), A], "role"),
    messages("two questions in a row", [Q, Q, A], ""),
    messages("two answers in a row", [Q, A, A], ""),
    messages("an answer first", [A, Q, A], ""),
    messages("a question last", [Q, A, Q], ""),
    messages("only a system turn", [turn("system", "s")], ""),
    messages("a system turn in the middle", [Q, A, turn("system", "s"), Q, A], ""),
    messages("no answer", [Q], ""),
    messages("a content of numbers", [turn("user", 7), A], ""),
    messages("a picture in the content", [turn("user", [{"type": "image_url", "image_url": "x"}]), A], ""),
    messages("a weight below 0", [Q, turn("assistant", "a", weight=-1)], "weight"),
    messages("a weight that is a word", [Q, turn("assistant", "a", weight="much")], "weight"),
    messages("a weight beyond all", [Q, turn("assistant", "a", weight=1e9)], "weight"),
    messages("nothing learnt", [Q, turn("assistant", "a", weight=0)], ""),
    messages("a tool call without a name", [Q, turn("assistant", "", tool_calls=[{"function": {}}])], ""),
    messages("tool calls that are a word", [Q, turn("assistant", "", tool_calls="now")], ""),
    # ---- formats ----
    rows(
        "preference rows for sft",
        "",
        "preference",
        where="rows.jsonl",
        content=b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    ),
    rows(
        "choice rows for sft",
        "",
        "choice",
        where="rows.jsonl",
        content=b'{"question": "a", "options": ["b", "c"], "answer": "A"}\n',
    ),
    rows("columns nobody knows", "", "", where="rows.jsonl", content=b'{"x": "a", "y": "b"}\n'),
    rows(
        "columns mapped to nothing",
        "",
        "",
        where="rows.jsonl",
        words="plan {dir}/r.yaml 'data.train=[{path: rows.jsonl, format: prompt_response, columns: {prompt: nope}}]'",
    ),
    rows("documents for sft", "", "", where="rows.jsonl", content=b'{"text": "a long document"}\n'),
    rows(
        "rows longer than allowed",
        '{"prompt": "a", "response": "%s"}' % ("b" * 500),
        "long",
        words="plan {dir}/r.yaml data.max_length=64 data.overlength=error",
    ),
    rows(
        "every row too long",
        "",
        "none of",
        where="data",
        words="plan {dir}/r.yaml data.max_length=8 data.overlength=drop",
    ),
    rows("one row and a share of it", "", "", where="data", content=b'{"prompt": "a", "response": "b"}\n'),
    rows(
        "data show of nothing", "", "", where="nothing", words="data show {dir}/nothing.jsonl --model {model}"
    ),
    rows(
        "data show without a model",
        "",
        "",
        where="rows.jsonl",
        fix="--model",
        code="recipe",
        words="data show {dir}/rows.jsonl",
    ),
    rows(
        "data show of no rows",
        "",
        "",
        where="--rows",
        code="user",
        words="data show {dir}/rows.jsonl --model {model} --rows 0",
    ),
    rows(
        "data show of a broken file",
        "",
        "",
        where="rows.parquet",
        file="rows.parquet",
        content=b"PAR1",
        words="data show {dir}/rows.parquet --model {model}",
    ),
    rows(
        "data stats of a broken file",
        "",
        "",
        where="rows.parquet",
        file="rows.parquet",
        content=b"PAR1",
        words="data stats {dir}/rows.parquet --model {model}",
    ),
]
if os.getuid():  # root may read anything
    CASES.append(
        rows(
            "a file one may not read",
            "",
            "ermission",
            where="rows.jsonl",
            content=closed,
        )
    )
