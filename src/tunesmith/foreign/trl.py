"""TRL and Unsloth: keyword arguments of SFTConfig, TrainingArguments, LoraConfig and FastLanguageModel.

{"FastLanguageModel": {"model_name": ..}, "LoraConfig": {"r": 16}, "SFTConfig": {..}}, or all in one mapping
Facts: huggingface/trl trl/trainer/sft_config.py, transformers' TrainingArguments, peft's LoraConfig.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.foreign.draft import Draft, Imported, listed, number, truthy
from tunesmith.foreign.meanings import meanings
from tunesmith.foreign.training import adapter, training
from tunesmith.foreign.variants import quantised, variants

NAME = "TRL"
PLACE = "data/train.jsonl"
ALIASES: Mapping[str, str] = {
    "r": "lora_rank",
    "lora_r": "lora_rank",
    "target_modules": "lora_target",
    "lora_target_modules": "lora_target",
    "model_name": "model_name_or_path",
    "model": "model_name_or_path",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_ratio",
    "dataset_name": "dataset",
    "train_dataset": "dataset",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "random_state": "seed_of_adapter",
    "torch_dtype": "dtype",
}
DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "warmup_steps": 0, "lr_scheduler_type": "linear", "learning_rate": 2e-5, "max_length": 1024,
}  # fmt: skip
_SECTIONS = ("sftconfig", "trainingarguments", "loraconfig", "fastlanguagemodel", "sfttrainer", "modelconfig",
             "scriptarguments", "training_args", "training_arguments", "args", "peft_config", "lora_config",
             "from_pretrained", "get_peft_model", "peft", "lora", "sft", "trainer")  # fmt: skip
_ADAPTER_KEYS = (
    "lora_rank",
    "lora_alpha",
    "lora_target",
    "lora_dropout",
    "use_peft",
    "use_rslora",
    "use_dora",
)


def convert(given: Mapping[str, Any], why: str, folder: Path, dataset_info: Path | None) -> Imported:
    """A recipe of keyword arguments."""
    flat, names = _flatten(given)
    unsloth = _is_unsloth(given, flat)
    tool = "Unsloth" if unsloth else NAME
    defaults = {**DEFAULTS, "learning_rate": 5e-5, "max_length": 2048} if unsloth else DEFAULTS
    draft = Draft(tool, flat, defaults, names)
    if not draft.has("model_name_or_path"):
        raise RecipeError.at("model_name", "is missing", "add model_name: the model this run starts from")
    draft.put("model.path", str(draft.value("model_name_or_path")), "model_name_or_path", _hint(draft))
    if draft.has("revision"):
        draft.put("model.revision", draft.value("revision"), "revision")
    if truthy(draft.value("trust_remote_code")):
        how = (
            "runs Python that comes with the model; the families Tunesmith knows do not need it, so it is off"
        )
        draft.put("model.trust_remote_code", False, "trust_remote_code", how)
    draft.values["objective"] = "sft"
    _data(draft)
    _tuning(draft, unsloth)
    training(draft, "max_length")
    if draft.has("output_dir"):
        draft.put("output", str(draft.value("output_dir")), "output_dir")
    draft.rest(meanings("trl"))
    return draft.done(why)


def _flatten(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """All keyword arguments in one mapping by our names, and how the user spelt each."""
    flat: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value, spelt in _leaves(given, ""):
        ours = ALIASES.get(key, key)
        if flat.get(ours) is None:
            flat[ours], names[ours] = value, spelt
        elif flat[ours] != value:
            flat[spelt] = value  # said twice, differently: the first holds, the second is listed
    return flat, names


def _leaves(given: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any, str]]:
    for key, value in given.items():
        section = str(key).split(".")[-1].lower()
        if isinstance(value, Mapping) and section in _SECTIONS:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield str(key), value, f"{above}{key}"


def _is_unsloth(given: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    words = {str(key).lower() for key in given} | {
        str(flat.get("model_name_or_path", "")).split("/")[0].lower()
    }
    return bool(words & {"fastlanguagemodel", "unsloth"}) or flat.get("gradient_checkpointing") == "unsloth"


def _hint(draft: Draft) -> str:
    name = str(draft.value("model_name_or_path"))
    if name.lower().endswith(("-bnb-4bit", "-4bit")):
        return "holds weights in 4 bit already; training here starts from the original 16-bit repository: change it"
    return ""


def _data(draft: Draft) -> None:
    if draft.has("dataset"):
        path = draft.value("dataset")
        draft.put("data.train", [{"path": str(item)} for item in listed(path)], "dataset")
    else:
        draft.values["data"]["train"] = [{"path": PLACE}]
        why = "the arguments name no data (it is loaded in the script): put your file here"
        draft.put("data.train", [{"path": PLACE}], [], why)
    column = draft.value("dataset_text_field")
    if column and column != "text":
        how = "the column with whole texts, learnt token by token; here prefer rows with question and answer"
        draft.leave("dataset_text_field", how)
    draft.account("dataset_text_field", "the default")
    if draft.value("eval_dataset") and isinstance(draft.value("eval_dataset"), str):
        draft.put("data.validation", draft.value("eval_dataset"), "eval_dataset")
    else:
        how = "the arguments hold none; 0.05 would tell whether the run learns or memorises"
        draft.put("data.validation", None, [], how)
    length = int(number(draft.value("max_length")) or 1024)
    draft.put(
        "data.max_length",
        max(8, length),
        "max_length",
        "" if draft.has("max_length") else f"{draft.tool}'s default",
    )
    if draft.has("packing"):
        on = truthy(draft.value("packing"))
        draft.put("data.packing", on, "packing", "documents in a row never see each other" if on else "")
    if draft.has("assistant_only_loss") or draft.has("completion_only_loss"):
        how = "answers alone are learnt here, always"
        on = truthy(draft.value("assistant_only_loss")) or truthy(draft.value("completion_only_loss"))
        how += "" if on else "; there whole dialogues were (objective: pretrain does that)"
        draft.account(["assistant_only_loss", "completion_only_loss"], how, "objective")


def _tuning(draft: Draft, unsloth: bool) -> None:
    if not any(draft.has(key) for key in _ADAPTER_KEYS) and not unsloth:
        draft.put("tuning.method", "full", [], "no LoraConfig among the arguments: every weight trains")
        return
    draft.put("tuning.method", "lora", "use_peft", "" if draft.has("use_peft") else "a LoraConfig is there")
    rank = 16 if unsloth else 8
    alpha = 16 if unsloth else 8
    adapter(draft, {"rank": rank, "alpha": lambda _: alpha, "dropout": 0.0, "targets": "all"})
    variants(draft)
    bits4 = draft.value("load_in_4bit") if draft.has("load_in_4bit") else unsloth
    if truthy(bits4):
        quantised(draft, "load_in_4bit", 4)
    if truthy(draft.value("load_in_8bit")):
        quantised(draft, "load_in_8bit", 8)
    draft.account(["load_in_4bit", "load_in_8bit"], "off")
    bias = draft.value("bias")
    if bias in (None, "none"):
        draft.account("bias", "biases do not train")
