"""Axolotl: one YAML with base_model, datasets and an adapter.

adapter: lora, micro_batch_size 2, sequence_len 4096  ->  tuning {method: lora}, optim.batch_tokens, data.max_length
Facts: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.foreign.draft import Draft, Imported, number, truthy
from tunesmith.foreign.meanings import meanings
from tunesmith.foreign.training import adapter, training
from tunesmith.foreign.variants import objective, quantised, variants

NAME = "Axolotl"
DEFAULTS: Mapping[str, Any] = {
    "sequence_len": 512, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine", "weight_decay": 0.0, "max_grad_norm": 1.0, "val_set_size": 0.0, "warmup_steps": 0,
}  # fmt: skip
# Its own names for what transformers calls otherwise.
ALIASES: Mapping[str, str] = {
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "lora_r": "lora_rank",
    "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora",
}
_ADAPTER = {"rank": 8, "alpha": lambda rank: 2 * rank, "dropout": 0.0, "targets": "all"}
_TRACKERS = {"wandb_project": "wandb", "mlflow_tracking_uri": "mlflow", "mlflow_experiment_name": "mlflow",
             "use_tensorboard": "tensorboard", "use_wandb": "wandb", "use_mlflow": "mlflow", "use_trackio": "trackio",
             "trackio_project_name": "trackio", "swanlab_project": "swanlab", "use_swanlab": "swanlab"}  # fmt: skip


def convert(given: Mapping[str, Any], why: str, folder: Path, dataset_info: Path | None) -> Imported:
    """A recipe of Axolotl's settings."""
    names = {ours: theirs for theirs, ours in ALIASES.items() if theirs in given}
    draft = Draft(NAME, {ALIASES.get(key, key): value for key, value in given.items()}, DEFAULTS, names)
    if not draft.has("base_model"):
        raise RecipeError.at("base_model", "is missing", "add the model this run starts from")
    if draft.has("lora_model_dir"):
        how = "a PEFT adapter with its base: it is merged into the base, and the new adapter goes on top"
        draft.put("model.path", draft.value("lora_model_dir"), "lora_model_dir", how)
        draft.leave("base_model", "the base; here it is the one that adapter_config.json names")
    else:
        draft.put("model.path", draft.value("base_model"), "base_model")
    for key, to in (("tokenizer_config", "model.tokenizer"), ("revision_of_model", "model.revision")):
        if draft.has(key):
            draft.put(to, draft.value(key), key)
    if truthy(draft.value("trust_remote_code")):
        how = (
            "runs Python that comes with the model; the families Tunesmith knows do not need it, so it is off"
        )
        draft.put("model.trust_remote_code", False, "trust_remote_code", how)
    _data(draft)
    _tuning(draft)
    _evaluations(draft)
    training(draft, "sequence_len")
    _trackers(draft)
    if draft.has("output_dir"):
        draft.put("output", str(draft.value("output_dir")), "output_dir")
    draft.rest(meanings("axolotl"))
    return draft.done(why)


def _tuning(draft: Draft) -> None:
    kind = draft.value("adapter")
    if kind in ("lora", "qlora"):
        draft.put("tuning.method", "lora", "adapter", "on a base in few bits" if kind == "qlora" else "")
        if not draft.has("lora_target") and draft.has("lora_target_modules"):
            draft.put("tuning.targets", _targets(draft), ["lora_target_modules", "lora_target_linear"])
            targets = draft.values["tuning"]["targets"]
            adapter(draft, {**_ADAPTER, "targets": targets})
            draft.assumed = [note for note in draft.assumed if note.to != "tuning.targets"]
        else:
            draft.account("lora_target_linear", "every linear layer but the head", "tuning.targets")
            adapter(draft, _ADAPTER)
        variants(draft)
        for key, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):
            if truthy(draft.value(key)):
                quantised(draft, key, bits)
    elif kind:
        draft.put("tuning.method", "lora", "adapter", f"{kind!r} is not in this version: LoRA instead")
    else:
        draft.put("tuning.method", "full", "adapter", "no adapter: every weight trains")
    draft.account(["load_in_4bit", "load_in_8bit"], "off")


def _targets(draft: Draft) -> Any:
    """Names of layers; a pattern or lora_target_linear means all of them."""
    named = draft.value("lora_target_modules")
    if truthy(draft.value("lora_target_linear")) or not isinstance(named, list):
        return "all_linear"
    kept = [str(name) for name in named if name not in ("lm_head", "embed_tokens")]
    return kept or "all_linear"


def _data(draft: Draft) -> None:
    pretraining, datasets = draft.value("pretraining_dataset"), draft.value("datasets")
    key = "pretraining_dataset" if pretraining else "datasets"
    entries = pretraining or datasets
    entries = entries if isinstance(entries, list) else [entries] if entries else []
    if not entries:
        raise RecipeError.at(
            "datasets", "is missing", "name the data: datasets: [{path: rows.jsonl, type: alpaca}]"
        )
    documents = bool(pretraining) or all(_kind(entry) == "completion" for entry in entries)
    if draft.has("rl") or truthy(draft.value("reward_model")):
        objective(draft, "rl" if draft.has("rl") else "reward_model", str(draft.value("rl") or "reward"))
    else:
        draft.values["objective"] = "pretrain" if documents else "sft"
    sources = [_source(entry, documents, draft) for entry in entries]
    what = "every token is learnt" if documents else "answers are learnt"
    draft.put("data.train", sources, key, f"formats and columns by their types; {what}")
    tests = draft.value("test_datasets")
    size = number(draft.value("val_set_size")) or 0
    if isinstance(tests, list) and len(tests) == 1:
        draft.put("data.validation", _path(tests[0]), "test_datasets")
        draft.account("val_set_size", "test_datasets goes before it")
    elif size:
        draft.put("data.validation", int(size) if size >= 1 else float(size), "val_set_size")
    else:
        how = "none there; 0.05 would tell whether the run learns or memorises"
        draft.put("data.validation", None, "val_set_size", how)
    length = int(number(draft.value("sequence_len")) or 512)
    draft.put(
        "data.max_length",
        max(8, length),
        "sequence_len",
        "" if draft.has("sequence_len") else f"{NAME}'s default",
    )
    if draft.has("sample_packing"):
        on = truthy(draft.value("sample_packing"))
        draft.put(
            "data.packing", on, "sample_packing", "" if on else "off there; here it changes nothing but speed"
        )
    _overlength(draft, documents)
    if draft.has("chat_template"):
        how = "the tokenizer's own chat template; look at the result: tunesmith data show"
        draft.put("data.template", "auto", "chat_template", how)


def _overlength(draft: Draft, documents: bool) -> None:
    """What becomes of longer rows."""
    wanted = str(draft.value("excess_length_strategy") or "drop")
    ours = {"drop": "drop", "truncate": "keep_last_turns", "raise": "error"}.get(wanted, "drop")
    how = "cut at the end there; here the oldest turns go, whole" if wanted == "truncate" else ""
    if not draft.has("excess_length_strategy"):
        how = "Axolotl drops longer rows; keep_last_turns would keep their last turns"
    if not documents:
        draft.put("data.overlength", ours, "excess_length_strategy", how)
    draft.account("excess_length_strategy", "documents are split, no token is lost")


def _kind(entry: Any) -> str:
    kind = entry.get("type") if isinstance(entry, dict) else None
    return kind if isinstance(kind, str) else "custom" if isinstance(kind, dict) else ""


def _path(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    files = entry.get("data_files")
    return str(files[0] if isinstance(files, list) and files else files or entry.get("path"))


def _source(entry: Any, documents: bool, draft: Draft) -> dict[str, Any]:
    """One dataset as a source of the recipe."""
    source: dict[str, Any] = {"path": _path(entry)}
    if not isinstance(entry, dict):
        return source
    kind = _kind(entry).split(":")[0].split(".")[0]
    columns: dict[str, Any] = {}
    shape = ""
    if documents:
        shape, columns = "text", {"text": entry.get("field") or entry.get("text_column")}
    elif kind == "alpaca":
        shape = "alpaca"
    elif kind == "chat_template":
        own = entry.get("message_property_mappings") or {}
        columns = {
            "messages": entry.get("field_messages"),
            "role": own.get("role") or entry.get("message_field_role"),
            "content": own.get("content") or entry.get("message_field_content"),
        }
        shape = "messages" if columns["messages"] in (None, "messages") else ""
    elif kind == "custom":
        own = entry["type"]
        shape = "alpaca"
        columns = {"instruction": own.get("field_instruction"), "input": own.get("field_input"),
                   "output": own.get("field_output"), "system": own.get("field_system")}  # fmt: skip
    columns = {name: str(column) for name, column in columns.items() if column and column != name}
    if shape and draft.offers(data={"train": {**source, "format": shape, "columns": columns}}):
        source |= {"format": shape} | ({"columns": columns} if columns else {})
    return source


def _evaluations(draft: Draft) -> None:
    """So many times an epoch -> every such share of the run."""
    epochs = float(number(draft.value("num_train_epochs")) or 1)
    for key, to in (("evals_per_epoch", "evaluation.every"), ("saves_per_epoch", "checkpoint.every")):
        times = number(draft.value(key))
        if times and times * epochs > 1:
            share = round(1 / (times * epochs), 4)
            draft.put(to, share, key, f"1 / ({times:g} an epoch x {epochs:g} epochs), a share of the run")
        draft.leave(key, "how often in an epoch; here at the end anyway")


def _trackers(draft: Draft) -> None:
    for key, name in _TRACKERS.items():
        if draft.has(key) and draft.value(key) and draft.offers(track=[name]):
            track = list(dict.fromkeys([*draft.values.get("track", []), name]))
            draft.put("track", track, key, "projects and names are taken from the run folder")
        draft.account(key, "empty or off")
