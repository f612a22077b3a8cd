"""A recipe's data, looked at and washed, with no training in sight: stats, show, check, clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError, UserError
from tunesmith.events import Reporter
from tunesmith.model.words import tokenizer_of, words_for_plan
from tunesmith.readable import require_model, require_readable, require_sources
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.doctor.leakage import HeldText
    from tunesmith.data.template import ChatTemplate


def stats(recipe: Recipe, reporter: Reporter | None = None) -> dict[str, Any]:
    """Lengths and ledger of a recipe's data; of a stream, of its first window."""
    from tunesmith.data.prepare import prepare as prepare_data
    from tunesmith.data.spoken import describe_rows
    from tunesmith.data.stats import stats as describe

    require_readable(recipe, rows="counted")
    tokenizer, template = words_of(recipe, known=True)
    data = prepare_data(
        recipe.data, recipe.objective, tokenizer, template, recipe.seed, reporter, training=False
    )
    if data.streams is not None:
        from tunesmith.data.streaming.plan import StreamPlan

        heads = StreamPlan(data.streams, data.train, recipe.data, 1, 1, None, recipe.seed, None)
        data = replace(data, train=heads.train_sets(data.train), ledger=heads.with_head(data.ledger))
    return {**describe(data, recipe.data), "rows": describe_rows(recipe.data)}


def show(recipe: Recipe, rows: int = 3, reporter: Reporter | None = None) -> dict[str, Any]:
    """The label X-ray of the first rows: the contracted JSON of `data show`."""
    from tunesmith.data.show import show as xray

    require_readable(recipe, rows="shown")
    tokenizer, template = words_of(recipe)
    return xray(recipe.data, recipe.objective, tokenizer, template, rows)


def check(
    recipe: Recipe,
    reporter: Reporter | None = None,
    *,
    rules: Sequence[str] = (),
    examples: int = 5,
    model_score: bool = False,
) -> dict[str, Any]:
    """What is wrong or suspicious in a recipe's data; exact tokens where its tokenizer is at hand.

    `rules` are files of rules, YAML or Python. With `model_score` the base model weighs suspected typos.
    """
    from tunesmith.data.doctor import check as examine
    from tunesmith.data.doctor.rules import load_all

    by_yaml, own = load_all(rules)
    template = words_of(recipe)[1] if model_score or _has_words(recipe) else None
    return examine(
        recipe.data,
        objective=recipe.objective,
        template=template,
        reporter=reporter,
        rules=by_yaml,
        own=own,
        tasks=_questions(recipe),
        score=_scorer(recipe) if model_score else None,
        examples=examples,
    ).to_json()


def _has_words(recipe: Recipe) -> bool:
    """Whether a tokenizer is at hand, and a file to read with it: loading one takes seconds."""
    with suppress(UserError):
        require_model(recipe.model)
        problems = []
        for source in recipe.data.train:
            try:
                require_sources([source])
            except UserError as error:
                problems.append(error)
        return len(problems) < len(recipe.data.train)
    return False


def clean(
    recipe: Recipe,
    out: Path,
    reporter: Reporter | None = None,
    *,
    rules: Sequence[str] = (),
    also: Sequence[str] = (),
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Cleaned copies of a recipe's train files in the folder `out`, each with a report that undoes it.

    The steps are those of the rules, or the usual ones; `also` adds to them, `without` takes away.
    """
    from tunesmith.data.clean import clean as wash
    from tunesmith.data.clean.steps import NAMES, UNASKED
    from tunesmith.data.doctor.rules import load_all, require

    by_yaml, own = load_all(rules)
    require(NAMES, [*also, *without], "--with or --without")
    chosen = by_yaml.steps if by_yaml.steps is not None else UNASKED
    chosen = (*chosen, *(["tags"] if by_yaml.tags is not None else []), *also)
    steps = tuple(dict.fromkeys(step for step in chosen if step not in without))
    asked = _questions(recipe) if "leaks" in steps else ()
    done = wash(recipe.data, out, rules=by_yaml, own=own, steps=steps, tasks=asked, reporter=reporter)
    return done.to_json()


def _questions(recipe: Recipe) -> Iterator[HeldText]:
    """What the evaluation tasks ask, to be looked for in training; a task that cannot be read is told by plan."""
    from tunesmith.data.doctor.leakage import HeldText, question_of
    from tunesmith.evaluation.tasks import read_items

    for task in recipe.tasks:
        with suppress(DataError):
            for item in read_items(task):
                yield HeldText(task.name, item.address, question_of(item.record))


def _scorer(recipe: Recipe) -> Callable[[Sequence[str]], list[float]]:
    """The base model's nats of texts."""
    from tunesmith.evaluation.likelihood import scorer
    from tunesmith.opened import MICRO_TOKENS, base_model, precision_for
    from tunesmith.plan.device import find_device

    tokenizer, template = words_of(recipe)
    device = find_device()
    lm = base_model(recipe.model, device, precision_for(recipe.model, device), recipe.seed)
    return scorer(lm.eval(), tokenizer, template, MICRO_TOKENS)


def words_of(recipe: Recipe, known: bool = False) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
    """The tokenizer and the template of a recipe. known: what an earlier process kept of them will do."""
    from tunesmith.data.template import ChatTemplate

    tokenizer = (words_for_plan if known else tokenizer_of)(recipe.model)
    return tokenizer, ChatTemplate.of(tokenizer, recipe.data.template)
