"""The verbs that make data files of data files: convert, split, sample. No logic lives here."""

from __future__ import annotations

import contextlib
from typing import Annotated, Literal

from cyclopts import Parameter

from tunesmith.app.answer import Answer
from tunesmith.app.progress import reporting
from tunesmith.app.verbs import OUT, Json, Whole, names
from tunesmith.errors import UserError
from tunesmith.recipe import DataFormat, Source

Files = Annotated[str, Parameter(name="FILE", help="Data files: paths, patterns, folders or hub names.")]
Out = Annotated[str, Parameter(name=OUT, help="The new file; its suffix says its kind. Never written over.")]
From = Annotated[
    DataFormat | None, Parameter(name="--from", help="Format of FILE, where it is not to be recognised.")
]
Columns = Annotated[
    list[str] | None,
    Parameter(
        name="--column", help="A column's name in FILE, such as prompt=question; may be given several times."
    ),
]
Seed = Annotated[Whole, Parameter(name="--seed", help="Of every random choice.")]
DropBad = Annotated[
    bool, Parameter(name="--drop-bad", help="Leave unreadable rows out, counted.", show_default=False)
]
Part = Annotated[str | None, Parameter(help="Share of the rows (0.05 or 5%) or their number (200).")]


def sources_of(files: tuple[str, ...], format: DataFormat | None, columns: list[str] | None) -> list[Source]:
    """What the words say of the files. Raises UserError."""
    if not files:
        raise UserError.at("FILE", "is missing", "name a data file")
    mapped: dict[str, str] = {}
    for word in columns or ():
        name, equals, column = word.partition("=")
        if not (name and equals and column):
            raise UserError.at(f"--column {word}", "is no NAME=COLUMN", "such as --column prompt=question")
        mapped[name] = column
    return [Source(path=file, format=format, columns=mapped) for file in files]


def part_of(word: str | None, name: str) -> int | float | None:
    """0.05 and 5% are a share, 200 a number of rows. Raises UserError for anything else."""
    if word is None:
        return None
    with contextlib.suppress(ValueError):
        value = float(word.removesuffix("%")) / (100 if word.endswith("%") else 1)
        if 0 < value < 1:
            return value
        if value >= 1 and value.is_integer() and not word.endswith("%"):
            return int(value)
    raise UserError.at(
        name, f"is {word!r:.40}: neither a share nor a number of rows", "such as 0.05, 5% or 200"
    )


def data_convert(
    file: Files,
    /,
    *,
    out: Out,
    to: Annotated[
        DataFormat | None, Parameter(name="--to", help="Format of the new rows; FILE's own, unless given.")
    ] = None,
    from_: From = None,
    column: Columns = None,
    lossy: Annotated[
        bool,
        Parameter(name="--lossy", help="Carry what can be carried, and count the rest.", show_default=False),
    ] = False,
    json: Json = False,
) -> Answer:
    """Write data in another format or kind of file, without loss.

    Columns that the format does not read are carried along. What the new rows could not hold is listed, and nothing
    is written, unless --lossy says so. The new file is read back and compared before it takes its name.
    """
    from tunesmith.app.render import reshape as pages
    from tunesmith.data.reshape.convert import convert

    with reporting() as reporter:
        found = convert(sources_of((file,), from_, column)[0], to, out, lossy=lossy, reporter=reporter)
    return Answer(found, pages.converted, json)


def data_split(
    *files: Files,
    out: Annotated[str, Parameter(name=OUT, help="A new folder for the parts and split.json.")],
    validation: Annotated[Part, Parameter(name="--validation")] = None,
    test: Annotated[Part, Parameter(name="--test")] = None,
    by: Annotated[
        str | None, Parameter(name="--by", help="Column of groups: rows with the same value stay together.")
    ] = None,
    stratify: Annotated[
        str | None,
        Parameter(name="--stratify", help="Column of kinds, each of which gives its share; or: source."),
    ] = None,
    near: Annotated[
        float | None,
        Parameter(
            name="--near",
            help="Rows that share so much of their word triples never part. Unless given 0.8, up to 200,000 rows.",
        ),
    ] = None,
    seed: Seed = 0,
    from_: From = None,
    column: Columns = None,
    drop_bad: DropBad = False,
    json: Json = False,
) -> Answer:
    """Split rows into train, validation and test.

    Rows that are equal, or nearly (--near), and dialogues that continue each other, never part; nor do rows of one
    group (--by). Rows are written as they were read; which part a row goes to depends on content and seed alone.
    """
    from tunesmith.app.render import reshape as pages
    from tunesmith.data.reshape.divide import Wish, divide

    if near is not None and not 0 <= near <= 1:
        raise UserError.at("--near", f"{near} is no share", "such as 0.8; 0 keeps only equal rows together")
    wish = Wish(part_of(validation, "--validation"), part_of(test, "--test"), by, stratify, seed, near)
    with reporting() as reporter:
        found = divide(sources_of(files, from_, column), wish, out, drop_bad=drop_bad, reporter=reporter)
    return Answer(found, pages.divided, json)


Kind = Annotated[
    Literal["rows", "probes", "choice", "open"],
    Parameter(
        name="--as",
        help="rows for a first run; probes.yaml; a test set of choices (scored) or of open questions (for people).",
    ),
]
Number = Annotated[
    Whole | None,
    Parameter(name="--number", help="How many; unless given 100 rows, 10 probes, 50 choices, 30 open."),
]
Random = Annotated[
    bool, Parameter(name="--random", help="Rows drawn by the seed, not the first.", show_default=False)
]
Questions = Annotated[
    list[str] | None,
    Parameter(
        name="--question", help="A probe of your own; may be given several times.", allow_leading_hyphen=True
    ),
]
Rest = Annotated[
    str | None,
    Parameter(name="--rest", help="A new file for the rows that give none of the drawn ones away."),
]
NUMBERS = {"rows": 100, "probes": 10, "choice": 50, "open": 30}


def data_sample(
    *files: Files,
    out: Out,
    as_: Kind = "rows",
    number: Number = None,
    random: Random = False,
    question: Questions = None,
    rest: Rest = None,
    seed: Seed = 0,
    from_: From = None,
    column: Columns = None,
    drop_bad: DropBad = False,
    json: Json = False,
) -> Answer:
    """The first rows, ten probes, or a test set of your field.

    Choices get wrong options from other rows' answers and are marked for review. Name what is written in
    evaluation.tasks or evaluation.probes; train on --rest.
    """
    from tunesmith.app.render import reshape as pages
    from tunesmith.data.reshape.draw import draw_probes, draw_rows
    from tunesmith.data.reshape.quiz import build_choices, build_sheet

    _require_fitting(as_, random, question, rest)
    count = NUMBERS[as_] if number is None else number
    if count < 1:
        raise UserError.at("--number", f"must be at least 1, got {count}", f"try --number {NUMBERS[as_]}")
    sources = sources_of(files, from_, column)
    with reporting() as reporter:
        common = {"seed": seed, "drop_bad": drop_bad, "reporter": reporter}
        match as_:
            case "rows":
                or_all = number is None
                found = draw_rows(sources, count, out, or_all=or_all, random=random, rest=rest, **common)  # type: ignore[arg-type]
            case "probes":
                found = draw_probes(sources, count, out, written=question or (), **common)  # type: ignore[arg-type]
            case "choice":
                found = build_choices(sources, count, out, rest=rest, **common)  # type: ignore[arg-type]
            case "open":
                found = build_sheet(sources, count, out, **common)  # type: ignore[arg-type]
    return Answer(found, pages.sampled, json)


def _require_fitting(as_: str, random: bool, question: list[str] | None, rest: str | None) -> None:
    """Options that mean nothing beside the others are named, not passed over."""
    for given, name, kinds in (
        (random, "--random", ("rows",)),
        (question, "--question", ("probes",)),
        (rest, "--rest", ("rows", "choice")),
    ):
        if given and as_ not in kinds:
            raise UserError.at(
                name, f"means nothing with --as {as_}", f"it goes with --as {' or '.join(kinds)}"
            )


def data_augment(
    file: Files,
    /,
    *,
    out: Out,
    per_row: Annotated[Whole, Parameter(name="--per-row", help="New rows from each row.")] = 1,
    operation: Annotated[
        list[str] | None,
        Parameter(name="--operation", help="Only these: synonyms, insert, delete, swap, sentences."),
    ] = None,
    rate: Annotated[
        float, Parameter(name="--rate", help="Share of the words that change; one at least.")
    ] = 0.1,
    synonyms: Annotated[
        str | None,
        Parameter(name="--synonyms", help="Your table: YAML groups, or a .txt with a group a line."),
    ] = None,
    turns: Annotated[
        Literal["questions", "answers", "all"],
        Parameter(name="--turns", help="What is changed. Changed answers are learnt: read them first."),
    ] = "questions",
    seed: Seed = 0,
    from_: From = None,
    column: Columns = None,
    drop_bad: DropBad = False,
    json: Json = False,
) -> Answer:
    """New rows whose questions are said a little differently.

    Code, numbers, addresses, placeholders, special tokens, quoted text and words of the answer stay. The new rows are
    marked with the row they come from: they are counted in the ledger, and never validate or test.
    """
    from tunesmith.app.render import reshape as pages
    from tunesmith.data.doctor.rules import require
    from tunesmith.data.reshape.augment import Recast, augment
    from tunesmith.data.reshape.edits import EDITS

    ways = names(operation) or list(EDITS)
    require(list(EDITS), ways, "--operation")
    if not 0 < rate <= 0.5:
        raise UserError.at("--rate", f"is {rate:g}, a share up to 0.5 is needed", "try --rate 0.1")
    if not 1 <= per_row <= 100:
        raise UserError.at("--per-row", f"is {per_row}, a number from 1 to 100 is needed", "try --per-row 2")
    roles = {"questions": {"user"}, "answers": {"assistant"}, "all": {"user", "assistant"}}[turns]
    how = Recast(per_row, tuple(dict.fromkeys(ways)), rate, frozenset(roles), synonyms, seed)
    with reporting() as reporter:
        found = augment(sources_of((file,), from_, column)[0], how, out, drop_bad=drop_bad, reporter=reporter)
    return Answer(found, pages.augmented, json)
