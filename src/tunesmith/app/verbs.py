"""The verbs: each calls one function of run.py and says how its answer looks. No logic lives here."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from tunesmith.app.answer import Answer, Document, document_of
from tunesmith.app.progress import reporting
from tunesmith.errors import RecipeError, UserError


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """1.5 is no number of steps: cyclopts alone would round it."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r:.40} is no whole number") from None


def names(words: Sequence[str] | None) -> list[str]:
    """a,b c  ->  [a, b, c]: an option given several times, or once with commas."""
    return [name.strip() for word in words or () for name in word.split(",") if name.strip()]


Whole = Annotated[int, Parameter(converter=_whole)]
OUT = ("--output", "--out")
"""Where a verb writes to: both words, everywhere."""

Json = Annotated[
    bool,
    Parameter(
        name="--json", help="Print one JSON object; progress goes to standard error.", show_default=False
    ),
]
RecipeFile = Annotated[str, Parameter(name="RECIPE", help="Recipe file (YAML).")]
Overrides = Annotated[
    str, Parameter(name="KEY=VALUE", help="Recipe keys to change: optim.lr=2e-4 budget.steps=100 ...")
]
Target = Annotated[str, Parameter(name="RUN|MODEL", help="A run folder, a model folder or a hub id.")]
Run = Annotated[str, Parameter(name="RUN", help="A run folder.")]
Png = Annotated[str | None, Parameter(name="--png", help="Draw the courses into this file.")]
RecipeOrData = Annotated[
    str, Parameter(name="RECIPE|FILE", help="A recipe (RECIPE#NAME: a stage of it), run or data.")
]
ModelName = Annotated[
    str | None,
    Parameter(name="--model", help="Model whose tokenizer and template count; needed with a data FILE."),
]
Adapters = Annotated[
    list[str] | None,
    Parameter(
        name="--adapter",
        help="A LoRA run or adapter folder trained on MODEL, weighed as PATH=0.5; may be given several times.",
    ),
]
OptionalModel = Annotated[
    str | None,
    Parameter(name="--model", help="Model whose tokenizer and template count, for lengths and labels."),
]


def demo(*, json: Json = False) -> Answer:
    """The whole way, offline, on any CPU, in under three minutes.

    On the bundled model and data: checks, plans, trains, evaluates, merges, chats, and says what passed.
    Replaces runs/demo and leaves its recipe beside it, to be changed and run again.
    """
    from tunesmith.app.demo import run_demo
    from tunesmith.app.render import demo as pages

    document = run_demo(silent=json)
    return Answer(document, pages.card, json, code=0 if document["passed"] else 1)


def import_recipe(
    file: Annotated[str, Parameter(name="FILE", help="YAML or JSON of the other tool.")],
    /,
    *,
    dataset_info: Annotated[
        str | None, Parameter(name="--dataset-info", help="LLaMA-Factory's dataset_info.json, if elsewhere.")
    ] = None,
    out: Annotated[str | None, Parameter(name=OUT, help="Write the recipe to this new file.")] = None,
    tool: Annotated[
        Literal["llama-factory", "axolotl", "trl"] | None,
        Parameter(name="--tool", help="Whose file it is; recognised by itself. trl is Unsloth's, too."),
    ] = None,
    json: Json = False,
) -> Answer:
    """A recipe from a file of LLaMA-Factory, Axolotl, TRL or Unsloth.

    Says what became of every key: taken over, translated with its arithmetic, or left out and what it meant.
    """
    from tunesmith.app.importing import import_file
    from tunesmith.app.render import imported

    return Answer(import_file(file, dataset_info, out, tool), imported.page, json)


def data_show(
    target: RecipeOrData,
    /,
    *overrides: Overrides,
    model: ModelName = None,
    rows: Annotated[Whole, Parameter(name="--rows", help="How many rows, from the first.")] = 3,
    json: Json = False,
) -> Answer:
    """The label X-ray: each token learnt, given or cut."""
    from tunesmith import run
    from tunesmith.app.render import xray
    from tunesmith.app.targets import recipe_of

    if rows < 1:
        raise UserError.at("--rows", f"must be at least 1, got {rows}", "try --rows 3")
    recipe = recipe_of(target, model, overrides, model_needed=True)
    with reporting() as reporter:
        found = run.show(recipe, rows=rows, reporter=reporter)
    return Answer(document_of(found), lambda document: xray.page(document, target), json)


def data_stats(
    target: RecipeOrData, /, *overrides: Overrides, model: ModelName = None, json: Json = False
) -> Answer:
    """Lengths in tokens, and what becomes of each row."""
    from tunesmith import run
    from tunesmith.app.render import data
    from tunesmith.app.targets import recipe_of

    recipe = recipe_of(target, model, overrides, model_needed=True)
    with reporting() as reporter:
        found = run.stats(recipe, reporter=reporter)
    return Answer(document_of(found), lambda document: data.stats_page(document, target), json)


def train(
    recipe: RecipeFile,
    /,
    *overrides: Overrides,
    resume: Annotated[
        bool, Parameter(name="--resume", help="Go on from the newest whole checkpoint.", show_default=False)
    ] = False,
    resume_anyway: Annotated[
        bool,
        Parameter(
            name="--resume-anyway",
            help="Go on though recipe, data, model or libraries are others than when the run began.",
            show_default=False,
        ),
    ] = False,
    stop_after: Annotated[
        Whole | None, Parameter(name="--stop-after", help="Save after N steps and exit 130, resumable.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Carry out a recipe; one run folder holds all that came of it.

    Evaluates, trains, evaluates again and reports. Ctrl-C leaves a run that --resume goes on with, exactly.
    """
    from tunesmith import run
    from tunesmith.app.planning import remember
    from tunesmith.app.render import scores
    from tunesmith.app.runs import read_report
    from tunesmith.folder import RunFolder
    from tunesmith.recipe import load

    if stop_after is not None and stop_after < 1:
        raise UserError.at("--stop-after", f"must be at least 1, got {stop_after}", "try --stop-after 10")
    chosen = load(recipe, overrides)
    with reporting() as reporter:
        done = run.train(
            chosen, resume=resume, anyway=resume_anyway, stop_after=stop_after, reporter=reporter
        )
    report = read_report(RunFolder(Path(done.run)))
    remember(RunFolder(Path(done.run)), report)

    def page(document: Document) -> object:
        return scores.trained(document, report)

    return Answer(document_of(done), page, json, code=130 if done.status == "interrupted" else 0)


def evaluate(
    target: Target,
    /,
    *,
    tasks: Annotated[
        list[str] | None,
        Parameter(name="--tasks", help="Names of the run's tasks or files of items, with commas between."),
    ] = None,
    probes: Annotated[
        str | None,
        Parameter(name="--probes", help="A YAML file of questions to answer, in place of the run's own."),
    ] = None,
    baseline: Annotated[
        str | None, Parameter(name="--baseline", help="Compare with this run or model, pair by pair.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Score a run or a model; say what was gained and forgotten."""
    from tunesmith import run
    from tunesmith.app.render import scores
    from tunesmith.app.targets import probes_of, tasks_of

    chosen, asked = tasks_of(tasks or [], target), probes_of(probes)
    with reporting() as reporter:
        found = run.evaluate(target, tasks=chosen, probes=asked, baseline=baseline, reporter=reporter)
    return Answer(found, scores.page, json)


def chat(
    target: Target,
    /,
    *,
    prompt: Annotated[
        str | None,
        Parameter(name="--prompt", help="Answer this one question and end.", allow_leading_hyphen=True),
    ] = None,
    system: Annotated[
        str | None,
        Parameter(name="--system", help="Who the model is told to be.", allow_leading_hyphen=True),
    ] = None,
    tools: Annotated[
        str | None, Parameter(name="--tools", help="A JSON file: a list of OpenAI's tool schemas.")
    ] = None,
    max_new_tokens: Annotated[Whole, Parameter(name="--max-new-tokens", help="Longest answer.")] = 256,
    adapter: Adapters = None,
    json: Json = False,
) -> Answer | int:
    """Talk to a run or a model, or to a sum of adapters on it.

    It reads your words through the template it was trained with. /reset begins again, /system TEXT says who it is,
    /quit or Ctrl-D ends; /adapter NAME NAME=0.5 weighs several adapters anew, /tool TEXT gives what a tool found.
    """
    import sys

    from tunesmith.app.chat import Terms, ask, ask_aloud, page, tools_in
    from tunesmith.app.talk import talk

    if json and prompt is None:
        raise UserError.at("--json", "needs a question", "add --prompt TEXT")
    if prompt is not None and not prompt.strip():
        raise UserError.at("--prompt", "is empty", "ask something, or leave --prompt out to talk")
    terms = Terms(target, max_new_tokens, adapter or (), system, tools_in(tools) if tools else ())
    if prompt is None:
        return talk(terms)
    if sys.stdout.isatty() and not json:
        return ask_aloud(terms, prompt)
    return Answer(ask(terms, prompt), page, json)


def export(
    target: Run,
    /,
    *,
    to: Annotated[
        Literal["merged", "adapter"], Parameter(name="--to", help="A whole model, or the adapter alone.")
    ],
    onto: Annotated[
        Literal["dequantised", "original"] | None,
        Parameter(
            name="--onto", help="Of a base held in 4 bits: merge into its numbers, or those from before."
        ),
    ] = None,
    adapter: Adapters = None,
    out: Annotated[str | None, Parameter(name=OUT, help="Where a sum of adapters is put.")] = None,
    json: Json = False,
) -> Answer:
    """Hand over the trained model, with a certificate.

    Into RUN/exports/FORM/; the certificate shows that it answers like the model that was trained.
    With --adapter, the weighted sum of several adapters on MODEL, into the folder --out.
    """
    from tunesmith import run
    from tunesmith.app.render import export as pages
    from tunesmith.combined import export_combined

    if bool(adapter) != bool(out):
        what, fix = (
            "--adapter and --out belong together",
            "such as: --adapter RUN_A --adapter RUN_B=0.5 --out FOLDER",
        )
        raise UserError.at("--out" if adapter else "--adapter", what, fix)
    if adapter and onto:
        raise UserError.at("--onto", "is for a single run whose base was held in 4 bits", "leave it out")
    if adapter and out:
        with reporting() as reporter:
            found = export_combined(target, adapter, to, out, reporter)
        return Answer(document_of(found), pages.page, json)
    with reporting() as reporter:
        found = run.export(target, to, reporter=reporter, onto=onto)
    return Answer(document_of(found), pages.page, json)


def methods(
    name: Annotated[str | None, Parameter(name="NAME", help="Only this one, with all its options.")] = None,
    /,
    *,
    model: Annotated[
        str | None, Parameter(name="--model", help="Count what would train in this model (config only).")
    ] = None,
    json: Json = False,
) -> Answer:
    """Every tuning method: what it trains, when to take it."""
    from tunesmith.app.render import methods as pages
    from tunesmith.model.facts import read_facts
    from tunesmith.recipe import Model
    from tunesmith.tuning.methods import METHODS

    if name is not None and name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"one of: {', '.join(METHODS)}"
        raise RecipeError.at("methods", f"{name!r} is not a tuning method", fix)
    facts = read_facts(Model(path=model)) if model else None
    chosen = [METHODS[name]] if name else METHODS.values()
    found = {"methods": [method.to_json(facts) for method in chosen]}
    return Answer(found, lambda document: pages.page(document, model or ""), json)


def runs_list(
    folder: Annotated[str, Parameter(name="FOLDER", help="Where the runs lie.")] = "runs",
    /,
    *,
    json: Json = False,
) -> Answer:
    """All runs, newest first."""
    from tunesmith.app import runs
    from tunesmith.app.render import runs as pages

    return Answer(runs.list_runs(folder), pages.list_page, json)


def runs_show(target: Run, /, *, png: Png = None, json: Json = False) -> Answer:
    """One run: how far it came, what it gained, what can be done with it."""
    from tunesmith.app import runs
    from tunesmith.app.render import picture
    from tunesmith.app.render import runs as pages

    document = runs.show_run(target)
    if png is not None:
        picture.save([document], Path(png), (document["report"] or {}).get("forgetting") or {})
    return Answer(document | {"png": png}, pages.show_page, json)


def runs_compare(
    first: Annotated[str, Parameter(name="A", help="A run folder.")],
    second: Annotated[str, Parameter(name="B", help="Another run folder.")],
    /,
    *,
    png: Png = None,
    json: Json = False,
) -> Answer:
    """Two runs side by side: recipe keys that differ, and scores with the interval of their difference."""
    from tunesmith.app import runs
    from tunesmith.app.render import picture
    from tunesmith.app.render import runs as pages

    document = runs.compare_runs(first, second)
    if png is not None:
        paired = {row["name"]: row["paired"] for row in document["scores"] if row["paired"]}
        picture.save([runs.show_run(first), runs.show_run(second)], Path(png), paired)
    return Answer(document | {"png": png}, pages.compare_page, json)


def doctor(
    *,
    quick: Annotated[
        bool, Parameter(name="--quick", help="Without the test of the matrix units (ten seconds).")
    ] = False,
    json: Json = False,
) -> Answer:
    """What this machine can do, and what is missing."""
    from tunesmith.app.doctor import diagnose
    from tunesmith.app.render import doctor as pages

    document = diagnose(quick)
    return Answer(document, pages.page, json, code=0 if document["ok"] else 2)
