"""Advice on the data: how many rows, for which variant of the model, how long, mixed with what."""

from __future__ import annotations

from typing import Literal

from tunesmith.model.rows import read_tables
from tunesmith.plan.case import SMALL_MODEL, Advice, Case
from tunesmith.recipe import LowRank

FEW_ROWS, SOME_ROWS, MANY_ROWS = 100, 10_000, 100_000
CUT_SHARE = 0.01
LEAKED = 0.01  # fewer move a score by less than its own error
FEWEST_SOURCES, MOST_TIMES_THE_REST = 3, 10.0
MUCH_TEXT, SMALL_RANK = 1_000_000, 8
LONG, TIMES_USUAL, TIGHT = 1024, 4, 0.5  # tokens; times the usual longest; share of the memory


def few_rows(case: Case) -> Advice | None:
    """Enough to try, not to learn from."""
    if case.data is None or not case.sft or case.data.rows >= FEW_ROWS or case.recipe.data.limit is not None:
        return None
    return Advice(
        "few_rows",
        f"{case.data.rows} rows are enough to try the way, not to learn a task: a few hundred a task are",
        "note 001, point 3, and note 002, tip 5",
    )


def many_rows(case: Case) -> Advice | None:
    """More than a first run needs."""
    if case.data is None or not case.sft or case.data.rows < MANY_ROWS or case.recipe.data.limit is not None:
        return None
    if case.facts.kind == "base" or case.weights_train:
        return None
    return Advice(
        "many_rows",
        f"{case.data.rows:,} rows for a low-capacity method: thousands to tens of thousands usually do; "
        "begin with a part and see whether more helps",
        "note 001, point 3, and note 002, tips 5 and 8",
        {"data.limit": 20_000},
    )


def base_or_chat(case: Case) -> Advice | None:
    """The other variant of the model would serve better."""
    data, looks = case.data, case.facts.kind
    if data is None or not case.sft or case.new_model or looks == "unknown":
        return None
    better, reason = variant_for(data.rows, data.dialogue)
    if better in (looks, "either"):
        return None
    return Advice(
        "base_or_chat",
        f"this looks like a {looks.capitalize()} model; {reason}",
        "note 001, point 7, and note 000, point 4",
    )


def variant_for(rows: int, dialogue: bool) -> tuple[Literal["chat", "base", "either"], str]:
    """Which variant of a model suits so many rows, and why; between the notes' two numbers either does."""
    if dialogue:
        return "chat", "for dialogues start from the Chat variant, which has learnt to hold one"
    if rows < SOME_ROWS:
        return "chat", f"for {rows:,} rows (below {SOME_ROWS:,}) start from the Chat variant"
    if rows >= MANY_ROWS:
        return "base", f"{rows:,} rows that are no dialogues: the Base variant fits them more freely"
    return "either", (
        f"with {SOME_ROWS:,} to {MANY_ROWS:,} rows that are no dialogues either variant does: Chat where it shall "
        "go on answering other questions, Base where this task is all (note 001, point 7)"
    )


def untrained_template(case: Case) -> Advice | None:
    """Special tokens whose embeddings nobody trained."""
    if case.data is None or case.facts.kind != "base" or case.weights_train:
        return None
    if case.recipe.tuning.also_train or not case.sft or case.data.template == "plain":
        return None
    if read_tables(case.recipe.model) is not None:
        return None  # where the rows can be read, a run with untrained ones is refused
    return Advice(
        "untrained_template",
        "the embedding stays as it is; a Base model has not trained the template's special tokens",
        "note 003, choosing a template",
        {"data.template": "plain"},
    )


def not_its_own_template(case: Case) -> Advice | None:
    """A Chat model made to speak in another way than it was taught."""
    chosen = case.recipe.data.template
    if not case.sft or case.facts.kind != "chat" or chosen == "auto":
        return None
    return Advice(
        "not_its_own_template",
        f"a Chat model answers best in its own template; {chosen} throws away part of what it has learnt",
        "note 003, choosing a template",
        {"data.template": "auto"},
    )


def domain_alone(case: Case) -> Advice | None:
    """Nothing general among the data."""
    data = case.data
    if data is None or case.new_model or data.sources > 1:
        return None
    strong = case.weights_train or not case.sft or data.epochs > 3
    if not strong or data.rows < FEW_ROWS:
        return None
    return Advice(
        "domain_alone",
        "all data is of one source; trained this strongly the model forgets the rest. Add general data as a "
        "second source, with a weight of 5 to 10 against the domain's 1",
        "note 001, point 5",
    )


def length_cuts(case: Case) -> Advice | None:
    """max_length takes away what should be learnt."""
    data, length = case.data, case.recipe.data.max_length
    if data is None or data.cut_share <= CUT_SHARE:
        return None
    longer = min(2 * length, case.facts.max_positions or 2 * length)
    change = {"data.max_length": longer} if longer > length else {}
    way = (
        "longer histories do better"
        if change
        else "and the model reads no more at once: take one that does, or learn long dialogues in pieces "
        "(data.overlength=split)"
    )
    return Advice(
        "length_cuts",
        f"{data.cut_share:.0%} of the rows are cut or dropped at {length} tokens; {way}",
        "note 001, points 22 and 23",
        change,
    )


def length_wastes_memory(case: Case) -> Advice | None:
    """A handful of rows, far longer than all others, that decide how much memory a step takes."""
    data = case.data
    if data is None or not data.usual_longest or case.room < TIGHT or data.longest < LONG:
        return None
    if data.longest < TIMES_USUAL * data.usual_longest:
        return None
    usual = -(-data.usual_longest // 64) * 64
    return Advice(
        "length_wastes_memory",
        f"the longest row has {data.longest:,} tokens, 99.5% have at most {data.usual_longest:,}: the memory of a step "
        "is set by a few rows. Shorter, they lose their oldest turns and all others nothing",
        "note 000, point 1: memory grows with the size of what is read at once",
        {"data.max_length": usual},
    )


def task_imbalance(case: Case) -> Advice | None:
    """One of several tasks that drowns the rest."""
    data = case.data
    if data is None or not case.sft or len(data.source_tokens) < FEWEST_SOURCES:
        return None
    largest = max(data.source_tokens)
    rest = sorted(data.source_tokens)[:-1]
    usual = rest[len(rest) // 2]
    if largest <= MOST_TIMES_THE_REST * usual:
        return None
    name = case.recipe.data.train[data.source_tokens.index(largest)].path
    return Advice(
        "task_imbalance",
        f"{name} brings {largest / max(1, usual):.0f} times as many tokens as the middle one of the others, and drowns "
        "them; weights that grow with the root of a source's size keep every task heard",
        "note 001, point 3",
        {"data.train": _balanced(case)},
    )


def _balanced(case: Case) -> list[dict[str, object]]:
    """The sources with weights by the root of what they bring now."""
    assert case.data is not None
    least = max(1, min(case.data.source_tokens))
    return [
        {**source.model_dump(mode="json", exclude_defaults=True), "weight": round((tokens / least) ** 0.5, 1)}
        for source, tokens in zip(case.recipe.data.train, case.data.source_tokens)
    ]


def no_answers_in_pretraining(case: Case) -> Advice | None:
    """Texts alone, though a dialogue or two among them would teach more (MIP)."""
    data = case.data
    if data is None or case.sft or case.new_model or data.formats != {"text"}:
        return None
    return Advice(
        "no_answers_in_pretraining",
        "continued pre-training on texts alone; with a share of the questions and answers of the later stage among "
        "them (Multi-Task Instruction PreTraining) the model learns more from the same texts. Add them as a source "
        "with a small weight",
        "note 001, points 6 and 11",
    )


def small_method_for_knowledge(case: Case) -> Advice | None:
    """Much text through a part too small to hold it. That text is new to the model is taken from the objective."""
    data, tuning = case.data, case.recipe.tuning
    if data is None or case.sft or case.new_model or case.weights_train or data.targets < MUCH_TEXT:
        return None
    if case.facts.parameters < SMALL_MODEL or (isinstance(tuning, LowRank) and tuning.rank > SMALL_RANK):
        return None
    what = f"rank {tuning.rank}" if isinstance(tuning, LowRank) else tuning.method
    return Advice(
        "small_method_for_knowledge",
        f"{what} is to hold {data.targets:,} tokens of text: enough for a new form, too small for new knowledge. How "
        "far the text is from what the model knows is not measured here; its loss before training tells (step 0 of "
        "the run). Far: more rank, or full tuning where it fits",
        "note 004, full fine-tuning where task and model differ much; arXiv:2405.09673 (LoRA learns less)",
        {"tuning.method": "lora", "tuning.rank": 64},
    )


def task_in_training(case: Case) -> Advice | None:
    """Items of an evaluation task that stand in what is learnt: their score would be memory."""
    leaks = [
        leak for leak in (case.data.leaks if case.data is not None else ()) if leak[1] > LEAKED * leak[2]
    ]
    if not leaks:
        return None
    told = ", ".join(f"{found} of {items} items of {task}" for task, found, items in leaks)
    return Advice(
        "task_in_training",
        f"{told} stand in the training data: the score would tell what was learnt by heart. Take those rows out of "
        "training (tunesmith data check names them), or the items out of the task",
        "note 001, point 9, and arXiv:2005.14165, appendix C",
    )


def length_beyond_positions(case: Case) -> Advice | None:
    """Positions the model has never seen."""
    most, length = case.facts.max_positions, case.recipe.data.max_length
    if most is None or length <= most or (case.data is not None and case.data.longest <= most):
        return None
    return Advice(
        "length_beyond_positions",
        f"max_length is {length}, the model was made for {most} positions",
        "max_position_embeddings in its config.json",
        {"data.max_length": most},
    )


def packing_off(case: Case) -> Advice | None:
    """Padding is computed for nothing."""
    if case.recipe.data.packing:
        return None
    return Advice(
        "packing_off",
        "without packing, padding is computed and thrown away; packed documents never see each other here",
        "arXiv:2107.02027 (packing without cross-contamination)",
        {"data.packing": True},
    )
