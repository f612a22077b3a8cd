"""`tunesmith vocab`: a model whose tokenizer takes fewer tokens for your text, as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import ValidationError

from tunesmith.app.answer import Answer, document_of
from tunesmith.app.progress import reporting
from tunesmith.app.verbs import OUT, Json, Whole
from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe import Vocabulary

SHOWN = 200  # new tokens in the JSON object; vocabulary.json has them all


def vocab(
    *,
    model: Annotated[str, Parameter(name="--model", help="A model folder, a run folder or a hub id.")],
    data: Annotated[
        list[str],
        Parameter(name="--data", help="Text to learn tokens from: any data file; may be given again."),
    ],
    output: Annotated[str, Parameter(name=OUT, help="The folder of the new model.")],
    tokens: Annotated[
        str, Parameter(name="--tokens", help="How many new tokens; auto stops where more would save little.")
    ] = "auto",
    most: Annotated[Whole, Parameter(name="--most", help="auto never adds more.")] = 8192,
    min_gain: Annotated[
        float, Parameter(name="--min-gain", help="Share of tokens a thousand more new ones must save.")
    ] = 0.01,
    min_count: Annotated[
        Whole, Parameter(name="--min-count", help="How often a token must stand in the text.")
    ] = 20,
    init: Annotated[
        Literal["mean", "random"],
        Parameter(name="--init", help="New rows: mean of the tokens they replace, or random."),
    ] = "mean",
    seed: Annotated[Whole, Parameter(name="--seed", help="Of random rows.")] = 0,
    json: Json = False,
) -> Answer:
    """Add tokens to a model: fewer tokens for the same text, so faster answers.

    Learns them from your text, merges them into the tokenizer (byte-level BPE), gives them rows, and measures tokens a
    character and speed. For efficiency only: train on the text next, or the new rows stay as they began.
    """
    from tunesmith.app.render import vocabulary as pages
    from tunesmith.extended import extend
    from tunesmith.recipe import Model

    options = {
        "data": data, "tokens": _number(tokens), "most": most, "min_gain": min_gain, "min_count": min_count,
        "init": init,
    }  # fmt: skip
    with reporting() as reporter:
        found = extend(_section(options), Model(path=model), Path(output), seed=seed, reporter=reporter)
    document: dict[str, Any] = {**found, "output": output, "new": found["new"][:SHOWN]}
    return Answer(document_of(document), pages.page, json)


def _number(words: str) -> int | str:
    return int(words) if words.isdigit() else words


def _section(options: dict[str, Any]) -> Vocabulary:
    """The options as a recipe's section. Raises RecipeError naming every option that cannot be."""
    try:
        return Vocabulary.model_validate(options)
    except ValidationError as error:
        raise RecipeError(_problems(error)) from error


def _problems(error: ValidationError) -> list[Problem]:
    found: dict[str, Problem] = {}
    for detail in error.errors():
        name = str(detail["loc"][0])
        help_text = Vocabulary.model_fields[name].description or ""
        what = f"{detail['msg']} (got {detail['input']!r:.80})"
        found.setdefault(name, Problem(f"--{name.replace('_', '-')}", what, help_text))
    return list(found.values())
