"""Advice before a run: rules as plain functions of a case, each with its reason, its source and the change.

Case(recipe, facts, data summary, device, ...) -> rule -> Advice | None
A rule stays silent where it lacks what it needs to know; none speaks to a recipe that is good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tunesmith.plan import data_advice as data_rules
from tunesmith.plan import words_advice as word_rules
from tunesmith.plan.case import SMALL_MODEL, Advice, Case
from tunesmith.plan.registry import ladder
from tunesmith.recipe import Freeze, LowRank, steps_of
from tunesmith.tuning.table import default_lr
from tunesmith.tuning.targets import targets_of

FEWEST_STEPS, GOOD_STEPS = 20, 50
MOST_EPOCHS = 5
MOST_REPEATS = 10
MOST_ADAPTER_SHARE = 0.5
MOST_LR_FULL, MOST_LR_PRETRAIN = 2e-5, 1e-4
LEAST_SHARE_OF_USUAL = 30
MOST_TIMES_USUAL = 5  # of what a method that leaves the weights alone usually takes

Rule = Callable[[Case], Advice | None]


def advise(case: Case) -> tuple[Advice, ...]:
    """What every rule has to say, the weightiest first."""
    return tuple(advice for rule in RULES if (advice := rule(case)) is not None)


# ---- what the model is ----


def own_forward(case: Case) -> Advice | None:
    """A family without fused paths."""
    if case.facts.own_forward is None:
        return None
    known = (
        "what a layer keeps was traced on one layer"
        if case.facts.traced
        else "what a layer keeps is estimated from its linear layers: it could not be traced"
    )
    return Advice(
        "own_forward",
        f"the model runs through its own forward: {case.facts.own_forward}. Documents of equal length go "
        f"together, unpadded, so none sees another; it is slower, and all logits are made at once. "
        f"Of its memory, {known}",
        "docs/models.md",
    )


def text_part(case: Case) -> Advice | None:
    """A model that also takes pictures or sound."""
    if not case.facts.text_only:
        return None
    return Advice(
        "text_part",
        f"only the text part of the model is trained and saved ({case.facts.family}); pictures and sound are left out",
        "docs/models.md",
    )


# ---- does it fit, and is it seen whether it works ----


def does_not_fit(case: Case) -> Advice | None:
    """More memory than there is."""
    if case.fits:
        return None
    way = (
        ""
        if case.nearest
        else "; nothing that was tried fits: a smaller model, or a larger device (--memory SIZE)"
    )
    return Advice(
        "does_not_fit",
        f"the run needs more memory than {case.device.name} has{way}",
        "the forecast of this plan",
        case.nearest,
    )


def no_validation(case: Case) -> Advice | None:
    """Nothing held out."""
    if case.recipe.data.validation is not None:
        return None
    return Advice(
        "no_validation",
        "without held-out rows nobody sees when the model begins to learn by heart",
        "note 002, tip 6",
        {"data.validation": 0.05},
    )


def no_general_task(case: Case) -> Advice | None:
    """Forgetting would go unseen."""
    if case.new_model or not case.sft or any(t.group == "general" for t in case.recipe.evaluation.tasks):
        return None
    return Advice(
        "no_general_task",
        "no task of group general is scored, so what the model forgets stays unseen "
        "(one answered 失眠怎么办 before tuning and not after)",
        "note 001, points 5 and 17",
    )


# ---- how long and how fast ----


def too_few_steps(case: Case) -> Advice | None:
    """The optimiser hardly begins."""
    if case.steps is None or case.data is None or case.steps >= FEWEST_STEPS:
        return None
    tokens = case.recipe.optim.batch_tokens * case.steps // GOOD_STEPS
    smaller = -(-max(case.data.longest, tokens) // 64) * 64
    change = {"optim.batch_tokens": smaller} if smaller < case.recipe.optim.batch_tokens else {}
    return Advice(
        "too_few_steps",
        f"{case.steps} {'step is' if case.steps == 1 else 'steps are'} too few for a warm-up and a decay; smaller "
        "steps or more epochs give more",
        "AdamW's second moment remembers about 1000 steps, arXiv:1412.6980; note 001, point 24",
        change,
    )


def warmup_too_long(case: Case) -> Advice | None:
    """The rate hardly reaches its peak."""
    if case.steps is None or not case.recipe.optim.warmup:
        return None
    warmup = steps_of(case.recipe.optim.warmup, case.steps)
    if warmup <= max(1, 0.3 * case.steps):
        return None
    return Advice(
        "warmup_too_long",
        f"{warmup} of {case.steps} steps are warm-up: the rate would hardly be at its peak",
        "note 001, point 24",
        {"optim.warmup": 0.03},
    )


def too_many_epochs(case: Case) -> Advice | None:
    """The same rows over and over."""
    data, recipe = case.data, case.recipe
    if data is None or case.new_model or data.epochs <= MOST_EPOCHS:
        return None
    small = not case.weights_train and case.facts.parameters < SMALL_MODEL
    if recipe.evaluation.early_stop or small:
        return None
    return Advice(
        "too_many_epochs",
        f"each row is seen {data.epochs:.1f} times; beyond a few epochs a model learns rows by heart",
        "note 001, point 3, and note 000, point 2",
        {"budget.epochs": 3},
    )


def source_repeated(case: Case) -> Advice | None:
    """A weight that repeats a small source many times."""
    if case.data is None or case.data.most_repeats <= MOST_REPEATS or case.data.epochs > MOST_EPOCHS:
        return None
    return Advice(
        "source_repeated",
        f"its weight makes one source come {case.data.most_repeats:.0f} times while the rest comes "
        f"{case.data.epochs:.1f} times: it will be learnt by heart",
        "note 001, point 3",
    )


def rate_too_high(case: Case) -> Advice | None:
    """Above what keeps earlier knowledge."""
    if case.new_model or case.facts.parameters < SMALL_MODEL:
        return None
    usual = default_lr(case.recipe)
    most = MOST_TIMES_USUAL * usual
    if case.weights_train:
        most = max(usual, MOST_LR_FULL if case.sft else MOST_LR_PRETRAIN)
    if case.lr <= most:
        return None
    return Advice(
        "rate_too_high",
        f"a rate of {case.lr:g} makes this model forget: stay at or below {most:g} for this method",
        "note 001, points 17 and 24",
        {"optim.lr": "auto"},
    )


def rate_too_low(case: Case) -> Advice | None:
    """So low that next to nothing is learnt."""
    usual = default_lr(case.recipe)
    if case.lr >= usual / LEAST_SHARE_OF_USUAL:
        return None
    return Advice(
        "rate_too_low",
        f"a rate of {case.lr:g} is less than a {LEAST_SHARE_OF_USUAL}th of what this method takes ({usual:g}): next to "
        "nothing would be learnt",
        "note 001, point 24; measure it: tunesmith lr-find",
        {"optim.lr": "auto"},
    )


def safety_off(case: Case) -> Advice | None:
    """No clipping, no decay."""
    optim = case.recipe.optim
    change: dict[str, Any] = {}
    if optim.grad_clip is None:
        change["optim.grad_clip"] = 1.0
    if optim.weight_decay == 0 and case.weights_train:
        change["optim.weight_decay"] = 0.1
    if not change:
        return None
    return Advice(
        "safety_off",
        f"{' and '.join(key.rpartition('.')[2] for key in change)} off: one bad batch can spoil the weights",
        "note 001, point 24",
        change,
    )


# ---- the method ----


def full_on_few_rows(case: Case) -> Advice | None:
    """Every weight moves for a handful of rows."""
    if case.data is None or case.new_model or not case.sft or not case.weights_train:
        return None
    if isinstance(case.recipe.tuning, Freeze) or case.data.rows >= 1000:
        return None
    return Advice(
        "full_on_few_rows",
        f"full tuning on {case.data.rows} rows forgets more than it learns; low-rank updates keep the base",
        "note 001, point 8, and arXiv:2405.09673 (LoRA learns less and forgets less)",
        {"tuning.method": "lora"},
    )


def rank_against_data(case: Case) -> Advice | None:
    """A rank far too large or too small for the rows."""
    tuning = case.recipe.tuning
    if case.data is None or not isinstance(tuning, LowRank) or not case.sft:
        return None
    if tuning.rank >= 64 and case.data.rows < 1000:
        return Advice(
            "rank_against_data",
            f"rank {tuning.rank} has room for far more than {case.data.rows} rows",
            "arXiv:2106.09685, section 7.2: small ranks suffice for one task",
            {"tuning.rank": 16},
        )
    if tuning.rank <= 4 and case.data.rows >= 50_000:
        return Advice(
            "rank_against_data",
            f"rank {tuning.rank} may be too small to hold {case.data.rows:,} rows",
            "'LoRA Without Regret' (2025): LoRA equals full tuning until its capacity is reached",
            {"tuning.rank": 32},
        )
    return None


def quantised_without_need(case: Case) -> Advice | None:
    """4 bits where 16 would fit."""
    if case.recipe.tuning.base == "none" or case.facts.stored is not None or not case.wide_fits:
        return None
    return Advice(
        "quantised_without_need",
        f"the base is held in 4 bits, but {case.device.name} has the memory for it as it is: unpacking it at every "
        "step costs time, and rounding a little of what the model knows",
        "arXiv:2305.14314: QLoRA is for what does not fit otherwise; note 003, QLoRA",
        {"tuning.base": "none"},
    )


def rank_without_gain(case: Case) -> Advice | None:
    """An update nearly as large as the weights it updates; where the rows ask for less, they say so."""
    tuning = case.recipe.tuning
    if not isinstance(tuning, LowRank) or rank_against_data(case):
        return None
    targets = targets_of(tuning.targets, case.facts, 0)
    weights = sum(linear.inputs * linear.outputs for linear in targets)
    share = tuning.rank * sum(linear.inputs + linear.outputs for linear in targets) / max(1, weights)
    if share <= MOST_ADAPTER_SHARE:
        return None
    return Advice(
        "rank_without_gain",
        f"rank {tuning.rank} trains {share:.0%} as many numbers as the layers have: it saves next to nothing",
        "arXiv:2106.09685",
        {"tuning.rank": 1 << max(0, int(math.log2(tuning.rank * MOST_ADAPTER_SHARE / share)))},
    )


def freeze_is_full(case: Case) -> Advice | None:
    """Frozen tuning that freezes nothing worth it."""
    tuning = case.recipe.tuning
    if not isinstance(tuning, Freeze) or tuning.last <= 0.75 * case.facts.layers:
        return None
    return Advice(
        "freeze_is_full",
        f"{tuning.last} of {case.facts.layers} layers train: nearly full tuning, without its freedom",
        "note 003, freeze tuning",
        {"tuning.last_layers": max(1, case.facts.layers // 4)},
    )


def slow_precision(case: Case) -> Advice | None:
    """fp32 where bf16 is quicker, bf16 where fp32 is."""
    asked, device = case.recipe.compute.precision, case.device
    if asked in ("auto", device.precision(case.facts.hidden_size)):
        return None
    fast = "has no bf16 matrix units: bf16 is slower there"
    if device.bf16:
        fast = (
            "has fast bf16 matrix units" if asked == "fp32" else "is quicker in fp32 with so narrow a model"
        )
    return Advice(
        "slow_precision", f"{asked} was asked for, but {device.name} {fast}", "note 001, point 24",
        {"compute.precision": "auto"},
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    own_forward,
    text_part,
    does_not_fit,
    data_rules.task_in_training,
    word_rules.vocabulary_mismatch,
    rate_too_high,
    rate_too_low,
    full_on_few_rows,
    data_rules.domain_alone,
    no_validation,
    too_few_steps,
    warmup_too_long,
    too_many_epochs,
    source_repeated,
    ladder,
    data_rules.task_imbalance,
    data_rules.no_answers_in_pretraining,
    data_rules.small_method_for_knowledge,
    word_rules.far_domain,
    data_rules.few_rows,
    data_rules.many_rows,
    data_rules.base_or_chat,
    data_rules.untrained_template,
    data_rules.not_its_own_template,
    data_rules.length_cuts,
    data_rules.length_beyond_positions,
    data_rules.length_wastes_memory,
    data_rules.packing_off,
    quantised_without_need,
    rank_against_data,
    rank_without_gain,
    freeze_is_full,
    safety_off,
    slow_precision,
    no_general_task,
    word_rules.vocabulary_extension,
    word_rules.pad_is_stop,
)
