"""A first recipe from a model and data: both are looked at, every choice names its reason, the advice is taken.

config.json + rows -> goal, length, method, batch, epochs -> commented text -> advised.py -> recipe.yaml
What only the user can give (general data, the Chat variant, questions of their own) stands in the text as a to-do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.events import Reporter
from tunesmith.plan.data_advice import variant_for
from tunesmith.recipe import Model, parse
from tunesmith.search.advised import Advised, take_advice
from tunesmith.search.grid import spell

if TYPE_CHECKING:
    from tunesmith.data.prepare import Prepared
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.device import Device

Goal = Literal["dialogue", "domain", "task"]
MOST_LENGTH, STEP_OF_LENGTH, FEW_CUT = 4096, 64, 0.005
GOOD_STEPS, MOST_BATCH, LEAST_BATCH = 60, 16384, 256
GENERAL_ITEMS = 60
TALKS = ("messages", "sharegpt", "history")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found: the model, and the data in its tokens. `formats` and `rows` are of each file."""

    facts: ModelFacts
    data: Prepared
    formats: tuple[str, ...]
    rows: tuple[int, ...]

    @property
    def all_rows(self) -> int:
        """Rows of all files."""
        return sum(self.rows)

    @property
    def texts(self) -> bool:
        """Whether all of it is documents."""
        return set(self.formats) == {"text"}


def begin(
    model: str,
    data: Sequence[str],
    goal: Goal | None,
    device: Device,
    general: str | None,
    reporter: Reporter | None = None,
) -> Advised:
    """A commented recipe for this model, data and goal on this device, with the advice on it taken.

    general: a file of general questions for the forgetting report. Raises what planning raises.
    """
    goal = goal or _goal_of(data)
    seen = _look(model, data, goal, reporter)
    text = _write(model, data, goal, seen, general)
    found = take_advice(
        text, "init", None, reporter, device, title="# Then changed by the rules of advice, and why:"
    )
    return replace(found, text=_with_left(found))


def _goal_of(data: Sequence[str]) -> Goal:
    """Documents teach a domain, turns a dialogue, single answers a task."""
    formats = {_format_of(path) for path in data}
    if formats == {"text"}:
        return "domain"
    return "dialogue" if formats & set(TALKS) else "task"


def _format_of(path: str) -> str:
    from tunesmith.data.gather import open_source
    from tunesmith.recipe import Source

    return str(open_source(Source(path=path)).format)


def _look(model: str, data: Sequence[str], goal: Goal, reporter: Reporter | None) -> Seen:
    """Facts of the model, and the rows as its tokens, as long as it can read them."""
    from tunesmith.data.prepare import prepare
    from tunesmith.data.template import ChatTemplate
    from tunesmith.model.facts import read_facts
    from tunesmith.opened import tokenizer_of

    facts = read_facts(Model(path=model))
    longest = min(facts.max_positions or MOST_LENGTH, MOST_LENGTH)
    recipe = parse(
        {"model": model, "data": {"train": list(data), "validation": None, "max_length": longest, "on_bad_row": "drop"},
         "objective": _objective(data)}
    )  # fmt: skip
    tokenizer = tokenizer_of(recipe.model)
    template = ChatTemplate.of(tokenizer, _template(facts, goal))
    found = prepare(recipe.data, recipe.objective, tokenizer, template, 0, reporter)
    sources = [source for source in found.ledger.sources if source.use == "train"]
    return Seen(facts, found, tuple(str(s.format) for s in sources), tuple(s.rows_in for s in sources))


def _objective(data: Sequence[str]) -> str:
    return "pretrain" if {_format_of(path) for path in data} == {"text"} else "sft"


def _template(facts: ModelFacts, goal: Goal) -> str:
    return "plain" if facts.kind == "base" and goal != "domain" else "auto"


# --- the choices --------------------------------------------------------------------------------------------


def _length(seen: Seen) -> tuple[int, str]:
    """As long as all but half a row in a hundred, where that is much shorter than the longest."""
    lengths = sorted(int(n) for source in seen.data.train for n in source.lengths)
    longest, usual = lengths[-1] + 1, lengths[min(len(lengths) - 1, int(0.995 * len(lengths)))] + 1
    most = min(seen.facts.max_positions or MOST_LENGTH, MOST_LENGTH)
    cut = sum(s.shortened + s.split + s.reasons.get("turn_too_long", 0) for s in seen.data.ledger.sources)
    if cut > FEW_CUT * seen.all_rows:
        whose = "the model can read" if most == seen.facts.max_positions else "a first run should read"
        what = "are split" if seen.texts else "are longer: they lose their oldest turns, or are left out"
        return most, f"as much as {whose} at once; {cut:,} of {seen.all_rows:,} rows {what}"
    if longest <= 2 * usual and not cut:
        return min(_up(longest), most), f"the longest row has {longest:,} tokens: nothing is cut"
    more = f"{longest:,}" if not cut else f"more than {most:,}"
    return min(_up(usual), most), f"99.5% of the rows have at most {usual:,} tokens, the longest {more}"


def _up(tokens: int) -> int:
    return max(STEP_OF_LENGTH, math.ceil(tokens / STEP_OF_LENGTH) * STEP_OF_LENGTH)


def _epochs(seen: Seen) -> tuple[int, str]:
    if seen.texts:
        return 1, "texts are read once"
    if seen.all_rows < 2000:
        return 3, "few rows, a few times; beyond five a model learns them by heart (note 001, point 3)"
    return (
        (2, "enough rows to read them twice") if seen.all_rows < 20_000 else (1, "so many rows are read once")
    )


def _batch(seen: Seen, epochs: int) -> tuple[int, str]:
    """Large, as long as the run has some sixty steps."""
    tokens = sum(int(source.lengths.sum()) for source in seen.data.train)
    wanted = tokens * epochs / GOOD_STEPS
    size = max(LEAST_BATCH, min(MOST_BATCH, 2 ** int(math.log2(max(1.0, wanted)))))
    return (
        size,
        f"{tokens:,} tokens a pass: about {round(tokens * epochs / size):,} steps (note 001, point 24)",
    )


def _method(seen: Seen) -> tuple[str, str]:
    if seen.texts:
        return (
            "{method: rslora, rank: 64}",
            "new knowledge needs more room than a new form; rslora keeps large ranks lively",
        )
    return (
        "{method: lora, rank: 16}",
        "keeps most of what the model knows, in a fraction of the memory (note 001, points 8, 11)",
    )


def _validation(seen: Seen) -> tuple[float, str]:
    return (0.1, "few rows") if seen.all_rows < 500 else (0.05, "always hold some out (note 002, tip 6)")


def _write(model: str, data: Sequence[str], goal: Goal, seen: Seen, general: str | None) -> str:
    """The recipe as text, a reason behind each choice."""
    validation, why_validation = _validation(seen)
    length, why_length = _length(seen)
    epochs, why_epochs = _epochs(seen)
    batch, why_batch = _batch(seen, epochs)
    method, why_method = _method(seen)
    kind = {"chat": "a Chat model", "base": "a Base model", "unknown": "Chat or Base is not told"}[
        seen.facts.kind
    ]
    if seen.facts.kind != "unknown" and not seen.texts:
        which, why_variant = variant_for(seen.all_rows, goal == "dialogue")
        kind += f": {why_variant}" if which == "either" else ""
    objective = "pretrain" if seen.texts else "sft"
    why_objective = (
        "every token is learnt (note 001, point 14)" if seen.texts else "answers are learnt, questions given"
    )
    lines = [
        f"# Made by tunesmith init, for the goal: {goal}. Look at the labels first: tunesmith data show RECIPE",
        f"model: {spell(model)} # {seen.facts.parameters:,} parameters; {kind}",
        "data:",
        "  train:",
        *(
            f"    - {{path: {spell(path)}}} # {rows:,} rows, {format}"
            for path, rows, format in zip(data, seen.rows, seen.formats)
        ),
        f"  validation: {validation} # {why_validation}",
        f"  max_length: {length} # {why_length}",
        *_template_line(seen, goal),
        *_bad_rows_line(seen),
        f"objective: {objective} # {why_objective}",
        f"tuning: {method} # {why_method}",
        "optim:",
        "  lr: auto # the method's own; tunesmith lr-find RECIPE measures what suits this data",
        f"  batch_tokens: {batch} # {why_batch}",
        f"budget: {{epochs: {epochs}}} # {why_epochs}",
        *_evaluation_lines(seen, general),
        f"output: {spell(f'runs/{_name(data)}')}",
    ]
    return "\n".join(lines) + "\n"


def _template_line(seen: Seen, goal: Goal) -> list[str]:
    if seen.texts or _template(seen.facts, goal) == "auto":
        return []
    return [
        "  template: plain # the special tokens of a chat template are untrained in a Base model (note 003)"
    ]


def _bad_rows_line(seen: Seen) -> list[str]:
    bad = sum(
        count
        for s in seen.data.ledger.sources
        for r, count in s.reasons.items()
        if s.dropped and r != "turn_too_long"
    )
    dropped = sum(source.dropped for source in seen.data.ledger.sources)
    if not dropped or not bad:
        return []
    return ["  on_bad_row: drop # some rows mean nothing; tunesmith data check RECIPE names them"]


def _evaluation_lines(seen: Seen, general: str | None) -> list[str]:
    if seen.texts or general is None:
        return []
    return [
        "evaluation:",
        "  tasks: # general questions tell what is forgotten (note 001, points 5 and 17); add a task of your own",
        f"    - {{name: general, kind: loss, path: {spell(general)}, group: general, limit: {GENERAL_ITEMS}}}",
        "  probes: # ten questions of your own, answered before and after (note 002, tip 3)",
        *(f"    - {spell(question)}" for question in _questions(seen)),
    ]


def _questions(seen: Seen) -> list[str]:
    """The questions of the first rows, to begin with; one that two rows begin with stands once."""
    from tunesmith.data.faults import Fault
    from tunesmith.data.gather import open_source
    from tunesmith.data.records import Chat
    from tunesmith.recipe import Source

    path = next(source.path for source in seen.data.ledger.sources if source.use == "train")
    opened, found = open_source(Source(path=path)), []
    for raw in opened.rows:
        record = opened.record(raw)
        if not isinstance(record, Fault) and isinstance(record, Chat):
            asked = next((m.content for m in record.messages if m.role == "user"), "")
            asked = re.sub(r"\s+", " ", asked).strip()
            if asked and len(asked) <= 200 and asked not in found:
                found.append(asked)
        if len(found) == 3:
            break
    return found or ["Hello!"]


def _name(data: Sequence[str]) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(data[0]).name.partition(".")[0]).strip("-") or "first"


def _with_left(found: Advised) -> str:
    """The text with what only the user can do about it."""
    left = [advice for advice in found.plan["advice"] if not advice["change"]]
    if not left:
        return found.text
    lines = [
        "# What is left to you:",
        *(f"#   {advice['rule']}: {advice['reason']} ({advice['source']})" for advice in left),
    ]
    return "\n".join([*lines, "", found.text])


def to_json(found: Advised, **more: Any) -> dict[str, Any]:
    """The document of `init`."""
    return {"recipe": found.recipe.model_dump(mode="json"), "text": found.text, **found.to_json(), **more}
