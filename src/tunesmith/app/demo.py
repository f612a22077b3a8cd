"""The demo: the way a user's own run takes, on the bundled model and data, each step with its check.

1 data check  2 label X-ray  3 plan  4 before  5 training  6 after  7 merge  8 chat  ->  a card
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from tunesmith import recipe as recipes
from tunesmith import run
from tunesmith.app.answer import document_of
from tunesmith.app.progress import reporting
from tunesmith.app.render import base, check, export, plan, scores, xray
from tunesmith.app.render import demo as pages
from tunesmith.app.render.problems import problems
from tunesmith.app.runs import read_report
from tunesmith.app.stage import CheckFailed, Curtain, Stage, clear, write_recipe
from tunesmith.data.records import Message
from tunesmith.errors import Interrupted, Problem, TunesmithError
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe

RUN = Path("runs/demo")
RECIPE = Path("runs/demo.yaml")
STEPS = (
    ("data check", "is every row readable, and is anything odd about them?"),
    ("label X-ray", "what is learnt of a row, token by token?"),
    ("plan", "what will it cost?"),
    ("before", "what can the base model do?"),
    ("training", "LoRA, with a look at held-out rows on the way"),
    ("after", "what was gained, and what forgotten?"),
    ("merge", "does the merged model answer like the trained one?"),
    ("chat", "the same questions to both"),
)
KEPT = 0.9
"""Share of a general score that must be left: some forgetting is shown, much of it is a failed demo."""

NEXT = [
    "tunesmith chat runs/demo",
    "tunesmith data show runs/demo.yaml --rows 5",
    "tunesmith train runs/demo.yaml output=runs/mine tuning.rank=4",
    "tunesmith runs compare runs/demo runs/mine",
]


def run_demo(*, silent: bool) -> dict[str, Any]:
    """Carry out the demo; returns the card. Raises what a step raises, after showing the card."""
    stage = Stage(STEPS, silent)
    clear(RUN)
    write_recipe(RECIPE)
    recipe = recipes.load(RECIPE)
    stage.say(pages.opening(str(RECIPE)))
    stage.open()
    try:
        for step in (check_data, show_labels, forecast, train, merge, chat):
            step(stage, recipe)
    except CheckFailed:
        return card_of(stage)
    except Interrupted:
        raise
    except TunesmithError as error:
        stage.say(Group(problems(error.problems, error.code), pages.card(card_of(stage))))
        raise
    return card_of(stage)


def card_of(stage: Stage) -> dict[str, Any]:
    """What passed; a demo that failed also tells it in the contracted shape of an error."""
    found = stage.document() | {"recipe": str(RECIPE), "run": str(RUN)}
    if found["passed"]:
        return found | {"next": NEXT}
    failed = next(
        (step for step in found["steps"] if step["passed"] is False), found["steps"][len(stage.done) - 1]
    )
    problem = {
        "where": f"demo: {failed['name']}",
        "what": failed["note"],
        "fix": f"this is our fault; please report it with {RUN}",
    }
    return found | {"next": ["tunesmith doctor"], "error": {"code": "demo", "problems": [problem]}}


def check_data(stage: Stage, recipe: Recipe) -> None:
    """1: every row can be read."""
    with reporting() as reporter:
        found = document_of(run.check(recipe, reporter=reporter))
    stage.say(base.page(check.files(found["files"]), check.findings(found["findings"], examples=1)))
    formats = f"{base.count(found['rows'])} rows in {len(found['formats'])} formats"
    stage.close(f"{formats}, {'all readable' if found['ok'] else 'not all usable'}", passed=found["ok"])


def show_labels(stage: Stage, recipe: Recipe) -> None:
    """2: in each sample something is given, and what is learnt ends with the stop token."""
    with reporting() as reporter:
        found = document_of(run.show(recipe, rows=2, reporter=reporter))
    samples = found["samples"]
    stage.say(Group(*(xray.Xray(sample) for sample in samples)))
    stop, learnt = found["template"]["stop"], sum(sum(sample["learnt"]) for sample in samples)
    holds = all(ends_with_stop(sample, stop) for sample in samples)
    stage.close(f"{learnt} tokens learnt: answers and their stops", passed=bool(samples) and holds)


def ends_with_stop(sample: dict[str, Any], stop: str) -> bool:
    """The question is given, something is learnt, and the last learnt token says that the answer ends."""
    learnt = [piece for piece, is_learnt in zip(sample["pieces"], sample["learnt"]) if is_learnt]
    return not sample["learnt"][0] and len(learnt) > 1 and learnt[-1] == stop


def forecast(stage: Stage, recipe: Recipe) -> None:
    """3: it fits this machine."""
    with reporting() as reporter:
        found = document_of(run.plan(recipe, reporter=reporter))
    stage.say(base.page(plan.overview(found), plan.memory(found), plan.advice(found)))
    note = f"fits: about {base.size(found['memory']['peak_bytes'])}, {base.duration(found['run']['seconds'])}"
    stage.close(note, passed=found["fits"])


def train(stage: Stage, recipe: Recipe) -> None:
    """4, 5, 6: scores before, training, scores after."""
    folder = RunFolder(RUN)
    with reporting() as screen:
        done = run.train(recipe, reporter=Curtain(screen, stage, folder))
    if done.status == "interrupted":
        how = f"go on: tunesmith train {RECIPE} --resume"
        raise Interrupted([Problem(str(folder.path), f"the demo was stopped at step {done.steps}", how)])
    report = read_report(folder)
    assert report is not None, "a finished run has a report"
    stage.say(
        base.page(
            scores.heldout(report["before"], report["after"]),
            scores.forgetting(report["forgetting"]),
            scores.spent(report),
        )
    )
    stage.close(*said_after(report["forgetting"], report["after"]["tasks"]))


def said_after(found: dict[str, Any], tasks: dict[str, Any]) -> tuple[str, bool]:
    """Every domain task must gain beyond doubt, every general one keep most of what it was."""
    words, holds = [], True
    for name, item in found.items():
        words.append(f"{name} {base.number(item['before'])} → {base.number(item['after'])}")
        if tasks[name]["group"] == "domain":
            holds = holds and item["verdict"] == "gain"
        else:
            holds = holds and item["after"] >= KEPT * item["before"]
    return ", ".join(words), holds and bool(found)


def merge(stage: Stage, recipe: Recipe) -> None:
    """7: the certificate of the merged model."""
    with reporting() as reporter:
        found = document_of(run.export(RUN, "merged", reporter=reporter))
    certificate = found.get("certificate", found)
    stage.say(export.proof(certificate))
    kl, alike = certificate["kl_nats"], 100 * certificate["top1_agreement"]
    note = f"KL {kl:.0e} nats, same best token {alike:.4g}%"
    stage.close(note, passed=certificate["passed"])


def chat(stage: Stage, recipe: Recipe) -> None:
    """8: the merged model answers as the trained one was seen to; the base model differs."""
    questions = recipe.evaluation.probes[:3]
    answers = []
    for target in (str(recipe.model.path), str(RunFolder(RUN).export("merged"))):
        opened = run.open_model(target)
        answers.append([run.answer(opened, [Message("user", question)]) for question in questions])
    for question, before, after in zip(questions, *answers):
        stage.say(Group(*scores.exchange(question, before, after)))
    report = read_report(RunFolder(RUN)) or {}
    trained = [probe["answer"] for probe in report["after"]["probes"]][: len(questions)]
    same = [a.strip() for a in answers[1]] == [t.strip() for t in trained]
    note = "says what the trained model said" if same else "does not say what the trained model said"
    stage.close(note, passed=same and answers[0] != answers[1])
