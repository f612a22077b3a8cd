"""What all these tools take from transformers' TrainingArguments: batch, rate, length, saving, tracking.

rows a step: per_device_train_batch_size 2 x gradient_accumulation_steps 8 -> at most 16 x cutoff 2048 tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.foreign.draft import Draft, listed, number, truthy

# The rule of each schedule's name: ours, and what differs.
_SCHEDULES: Mapping[str, tuple[str, str]] = {
    "cosine": ("cosine", "ends at 10% of the peak here, at 0 there"),
    "linear": ("linear", "ends at 10% of the peak here, at 0 there"),
    "constant": ("constant", ""),
    "constant_with_warmup": ("constant", "warm-up is optim.warmup"),
    "cosine_with_min_lr": ("cosine", "ends at 10% of the peak"),
    "cosine_with_restarts": ("cosine", "without restarts"),
    "polynomial": ("linear", "a straight line, ends at 10% of the peak"),
    "warmup_stable_decay": ("wsd", "decays over the last fifth"),
}
_ADAMW = ("adamw", "adamw_hf", "adamw_torch", "adamw_torch_fused", "adamw_apex_fused", "adamw_anyprecision")
_SMALL_ADAMW = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "paged_adamw")


def training(draft: Draft, length_key: str) -> None:
    """All of it; `length_key` names the longest sample in tokens."""
    batch(draft, length_key)
    rate(draft)
    budget(draft)
    schedule_of_saves(draft)
    precision(draft)
    trackers(draft)
    if draft.has("seed"):
        draft.put(
            "seed", draft.value("seed"), "seed", "another order of rows: both shuffle by their own rules"
        )


def batch(draft: Draft, length_key: str) -> None:
    """Rows a step, as tokens a step."""
    keys = ["per_device_train_batch_size", "gradient_accumulation_steps", length_key]
    rows, repeats, length = (int(number(draft.value(key)) or 1) for key in keys)
    tokens = rows * repeats * length
    how = (
        f"{rows} rows x {repeats} accumulated x {length} tokens ({_last(draft.name(length_key))}) = {tokens}, were "
        f"every row full; a step takes as many rows as fit. For the same {rows * repeats} rows a step set "
        f"{rows * repeats} x your mean length (tunesmith data stats). Times the devices, if you had more than one"
    )
    draft.put("optim.batch_tokens", tokens, keys[:2], how)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def rate(draft: Draft) -> None:
    """Peak, course and clipping of the learning rate; decay; optimiser."""
    if lr := number(draft.value("learning_rate")):
        draft.put("optim.lr", lr, "learning_rate")
    name = str(draft.value("lr_scheduler_type") or "linear")
    kind, how = _SCHEDULES.get(name, ("", ""))
    if kind:
        draft.put("optim.schedule", kind, "lr_scheduler_type", how if draft.has("lr_scheduler_type") else "")
    else:
        draft.leave("lr_scheduler_type", "course of the learning rate; here cosine, linear, constant or wsd")
    _warmup(draft)
    clip = number(draft.value("max_grad_norm"))
    draft.put("optim.grad_clip", clip if clip else None, "max_grad_norm", "" if clip else "0 is: do not clip")
    how = "norms, biases and embeddings do not decay here"
    decay = number(draft.value("weight_decay")) or 0.0
    draft.put("optim.weight_decay", decay, "weight_decay", how if draft.has("weight_decay") and decay else "")
    _optimiser(draft)


def _warmup(draft: Draft) -> None:
    share, steps = number(draft.value("warmup_ratio")), number(draft.value("warmup_steps"))
    if steps and 0 < steps < 1:  # newer transformers: a share under the same name
        draft.put("optim.warmup", float(steps), "warmup_steps", "a share of the run")
    elif steps:
        how = "steps, as there; see whether they are still a small share of the run (tunesmith plan)"
        draft.put("optim.warmup", int(steps), ["warmup_steps"], how)
        draft.leave("warmup_ratio", "share of the run with a rising rate; warmup_steps goes before it")
    elif share:
        draft.put("optim.warmup", float(share), "warmup_ratio")
        draft.account("warmup_steps", "0, so warmup_ratio counts")
    else:
        keys = [key for key in ("warmup_ratio", "warmup_steps") if draft.has(key)]
        draft.put("optim.warmup", 0, keys or ["warmup_steps"])


def _optimiser(draft: Draft) -> None:
    name = str(draft.value("optim") or "adamw_torch")
    if name in _ADAMW:
        if draft.has("optim"):
            draft.put("optim.optimizer", "adamw", "optim", "the same rule")
    elif draft.offers(optim={"optimizer": name}):
        draft.put("optim.optimizer", name, "optim")
    elif name in _SMALL_ADAMW:
        how = "AdamW with 32-bit states: the same rule, more memory (8 bytes a trained parameter)"
        draft.put("optim.optimizer", "adamw", "optim", how)
    else:
        draft.leave("optim", "the optimiser; here AdamW, whose best rate is often lower: check optim.lr")
    if (number(draft.value("adam_beta1")) or 0.9) == 0.9 and (
        number(draft.value("adam_beta2")) or 0.999
    ) == 0.999:
        draft.account(["adam_beta1", "adam_beta2"], "the same here, for objective sft")
    for key in ("adam_beta1", "adam_beta2"):
        draft.leave(key, "memory of the gradient's mean and square; here 0.9 and 0.999 (0.95 for pretrain)")


def budget(draft: Draft) -> None:
    """How long."""
    steps = number(draft.value("max_steps"))
    if steps and steps > 0:
        how = "steps; one step may hold more rows here, see optim.batch_tokens"
        draft.put("budget.steps", int(steps), "max_steps", how)
        draft.account("num_train_epochs", f"{draft.name('max_steps')} goes before it, there too")
        return
    draft.account("max_steps", "not above 0: epochs count")
    draft.put("budget.epochs", number(draft.value("num_train_epochs")) or 1, "num_train_epochs")


def schedule_of_saves(draft: Draft) -> None:
    """When it is evaluated and saved; early stop."""
    epochs = float(number(draft.value("num_train_epochs")) or 1)
    for what, to in (("eval", "evaluation.every"), ("save", "checkpoint.every")):
        strategy, steps = draft.value(f"{what}_strategy"), number(draft.value(f"{what}_steps"))
        if strategy == "epoch":
            share = round(1 / epochs, 4)
            found: Any = share if share < 1 else 0.5
            how = f"once an epoch of {epochs:g}, as a share of the run" + (
                "" if share < 1 else " (at most half)"
            )
            draft.put(to, found, f"{what}_strategy", how)
            draft.leave(f"{what}_steps", f"steps between; {what}_strategy epoch goes before it")
        elif strategy in ("no", False) and draft.has(f"{what}_strategy"):
            always = "checkpoints are what --resume goes on from" if what == "save" else "the report needs it"
            draft.leave(f"{what}_strategy", f"no {what} while training; here it is always done: {always}")
            draft.leave(f"{what}_steps", "steps between")
        elif draft.has(f"{what}_steps") and steps:
            how = "steps; there may be fewer of them here, see optim.batch_tokens" if steps >= 1 else ""
            draft.put(to, int(steps) if steps >= 1 else steps, f"{what}_steps", how)
            draft.account(f"{what}_strategy", f"by {what}_steps")
    if draft.has("save_total_limit"):
        draft.put("checkpoint.keep", draft.value("save_total_limit"), "save_total_limit")
    patience = number(draft.value("early_stopping_patience"))
    if patience and patience >= 1:
        how = "held-out losses without a new best; the best is kept"
        draft.put("evaluation.early_stop", int(patience), "early_stopping_patience", how)
        draft.account(
            ["load_best_model_at_end", "metric_for_best_model", "greater_is_better"], "part of early_stop"
        )


def precision(draft: Draft) -> None:
    """In which numbers, and whether activations are recomputed."""
    if truthy(draft.value("bf16")):
        how = "the trained weights themselves stay fp32"
        draft.put("compute.precision", "bf16", "bf16", how if draft.has("bf16") else "")
        draft.account("fp16", "off")
    elif truthy(draft.value("fp16")):
        how = "fp16 is not done: bf16 where the device has it, else fp32; no loss scale is needed"
        draft.put("compute.precision", "auto", "fp16", how)
        draft.account("bf16", "off")
    else:
        draft.account(
            ["bf16", "fp16"], "off or auto there; here compute.precision auto: bf16 where it is fast"
        )
    if draft.has("gradient_checkpointing"):
        on = draft.value("gradient_checkpointing") not in (False, "false", "off", "False")
        how = (
            "also with unsloth's or offloaded variants"
            if on and draft.value("gradient_checkpointing") is not True
            else ""
        )
        draft.put("compute.checkpointing", "full" if on else "off", "gradient_checkpointing", how)


def trackers(draft: Draft) -> None:
    """Who else is told."""
    if not draft.has("report_to"):
        return
    wanted = [name for name in listed(draft.value("report_to")) if name not in ("none", "all")]
    known = [name for name in wanted if draft.offers(track=[name])]
    if known or not wanted:
        rest = [name for name in wanted if name not in known]
        how = f"without {', '.join(rest)}: not known here" if rest else ""
        draft.put(
            "track", known, "report_to", how or ("" if known else "no tracker; events.jsonl holds it all")
        )
    else:
        draft.leave("report_to", "where metrics are sent; here events.jsonl, and track: for others")


def adapter(draft: Draft, defaults: Mapping[str, Any]) -> None:
    """LoRA and its relatives. `defaults`: rank, alpha, dropout and targets of the other tool."""
    rank = int(number(draft.value("lora_rank")) or defaults["rank"])
    alpha = number(draft.value("lora_alpha")) or defaults["alpha"](rank)
    dropout = number(draft.value("lora_dropout"))
    draft.put("tuning.rank", rank, "lora_rank", "" if draft.has("lora_rank") else f"{draft.tool}'s default")
    draft.put(
        "tuning.alpha", alpha, "lora_alpha", "" if draft.has("lora_alpha") else f"{draft.tool}'s default"
    )
    dropout = defaults["dropout"] if dropout is None else dropout
    draft.put(
        "tuning.dropout",
        dropout,
        "lora_dropout",
        "" if draft.has("lora_dropout") else f"{draft.tool}'s default",
    )
    targets = listed(draft.value("lora_target")) or listed(defaults["targets"])
    everything = {"all", "all-linear", "all_linear"} & set(targets)
    kept = [name for name in targets if name not in ("lm_head", "embed_tokens")]
    how = "every linear layer but the head" if everything else ""
    if kept != targets:
        how = "without the head and the embedding, which take no low-rank update here"
    how = how if draft.has("lora_target") else f"{draft.tool}'s default"
    draft.put("tuning.targets", "all_linear" if everything else kept, "lora_target", how)
    if truthy(draft.value("use_rslora")):
        draft.put("tuning.scaling", "rslora", "use_rslora", "alpha / sqrt(rank)")
    draft.account("use_rslora", "off")
