"""LLaMA-Factory: one YAML of arguments, and dataset_info.json that says what its dataset names mean.

stage sft + finetuning_type lora + dataset: a,b  ->  objective sft, tuning {method: lora}, data.train [a.json, b.json]
Facts: hiyouga/LLaMA-Factory, src/llamafactory/hparams and src/llamafactory/data/parser.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.errors import Problem, RecipeError
from tunesmith.foreign.draft import Draft, Imported, listed, number, truthy
from tunesmith.foreign.meanings import meanings
from tunesmith.foreign.training import adapter, training
from tunesmith.foreign.variants import objective, quantised, variants

NAME = "LLaMA-Factory"
DEFAULTS: Mapping[str, Any] = {
    "stage": "sft", "finetuning_type": "lora", "cutoff_len": 2048, "val_size": 0.0, "dataset_dir": "data",
    "mix_strategy": "concat", "freeze_trainable_layers": 2, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "learning_rate": 5e-5, "num_train_epochs": 3.0, "max_grad_norm": 1.0,
    "weight_decay": 0.0, "warmup_steps": 0, "lr_scheduler_type": "linear",
}  # fmt: skip
_ADAPTER = {"rank": 8, "alpha": lambda rank: 2 * rank, "dropout": 0.0, "targets": "all"}
_OBJECTIVES = {"sft": "sft", "pt": "pretrain", "rm": "reward", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}


def convert(given: Mapping[str, Any], why: str, folder: Path, dataset_info: Path | None) -> Imported:
    """A recipe of LLaMA-Factory's arguments. `folder` holds their file."""
    draft = Draft(NAME, given, DEFAULTS)
    _model(draft)
    stage = str(draft.value("stage"))
    wanted = (
        {"orpo": "orpo", "simpo": "simpo"}.get(str(draft.value("pref_loss")), "dpo")
        if stage == "dpo"
        else _OBJECTIVES.get(stage, stage)
    )
    objective(draft, "stage", wanted)
    _tuning(draft)
    _data(draft, folder, dataset_info, wanted == "pretrain")
    training(draft, "cutoff_len")
    if draft.has("disable_gradient_checkpointing"):
        off = truthy(draft.value("disable_gradient_checkpointing"))
        how = "auto recomputes only where memory asks for it" if not off else ""
        draft.put("compute.checkpointing", "off" if off else "auto", "disable_gradient_checkpointing", how)
    if truthy(draft.value("pure_bf16")):
        draft.put(
            "compute.precision",
            "bf16",
            "pure_bf16",
            "trained weights stay fp32: pure bf16 moves them by rounding",
        )
    if truthy(draft.value("use_swanlab")):
        draft.put("track", [*draft.values.get("track", []), "swanlab"], "use_swanlab")
    if draft.has("output_dir"):
        draft.put("output", str(draft.value("output_dir")), "output_dir")
    if early := number(draft.value("early_stopping_steps")):
        draft.put(
            "evaluation.early_stop", int(early), "early_stopping_steps", "held-out losses without a new best"
        )
    draft.rest(meanings("llama-factory"))
    return draft.done(why)


def _model(draft: Draft) -> None:
    path, adapters = draft.value("model_name_or_path"), listed(draft.value("adapter_name_or_path"))
    if not path and not adapters:
        raise RecipeError.at("model_name_or_path", "is missing", "add the model this run starts from")
    if adapters:
        how = "a PEFT adapter with its base: it is merged into the base, and the new adapter goes on top"
        draft.put("model.path", adapters[-1], ["adapter_name_or_path"], how)
        draft.leave("model_name_or_path", "the base; here it is the one that adapter_config.json names")
    else:
        draft.put("model.path", str(path), "model_name_or_path")
    if draft.value("model_revision") not in (None, "main"):
        draft.put("model.revision", draft.value("model_revision"), "model_revision")
    draft.account("model_revision", "the default")
    if truthy(draft.value("trust_remote_code")):
        how = (
            "runs Python that comes with the model; the families Tunesmith knows do not need it, so it is off"
        )
        draft.put("model.trust_remote_code", False, "trust_remote_code", how)
    draft.account("trust_remote_code", "off")


def _tuning(draft: Draft) -> None:
    kind = str(draft.value("finetuning_type"))
    if kind not in ("lora", "full", "freeze", "oft"):
        raise RecipeError.at(
            "finetuning_type", f"{kind!r} is not a kind of LLaMA-Factory's", "lora, freeze, full or oft"
        )
    method = "lora" if kind == "oft" and not draft.offers(tuning={"method": "oft"}) else kind
    draft.put(
        "tuning.method",
        method,
        "finetuning_type",
        "OFT is not in this version: LoRA instead" if method != kind else "",
    )
    if kind == "lora":
        adapter(draft, _ADAPTER)
        variants(draft)
        if draft.has("loraplus_lr_ratio"):
            _lora_plus(draft)
    elif kind == "freeze":
        layers = int(number(draft.value("freeze_trainable_layers")) or 2)
        how = (
            "counted from the output"
            if layers > 0
            else "there the first layers (a negative number); here the last"
        )
        draft.put("tuning.last_layers", abs(layers), "freeze_trainable_layers", how)
        if draft.has("freeze_extra_modules"):
            draft.put("tuning.modules", listed(draft.value("freeze_extra_modules")), "freeze_extra_modules")
    elif kind == "full":
        variants(draft)
    bits = number(draft.value("quantization_bit"))
    if bits:
        quantised(draft, "quantization_bit", int(bits))


def _lora_plus(draft: Draft) -> None:
    ratio, own = number(draft.value("loraplus_lr_ratio")), draft.values["tuning"]
    for name in ("lr_ratio", "plus_ratio", "loraplus_ratio"):
        if draft.offers(tuning={**own, name: ratio}):
            draft.put(f"tuning.{name}", ratio, "loraplus_lr_ratio")
            return
    draft.leave(
        "loraplus_lr_ratio", "LoRA+: a higher rate for B than for A; not in this version, one rate for both"
    )


def _data(draft: Draft, folder: Path, dataset_info: Path | None, pretrain: bool) -> None:
    names = listed(draft.value("dataset"))
    if not names:
        raise RecipeError.at("dataset", "is missing", "name the data: dataset: a,b")
    root, known = _datasets(draft, folder, dataset_info)
    shares = [number(share) for share in listed(draft.value("interleave_probs"))]
    mixed = str(draft.value("mix_strategy")).startswith("interleave") and len(shares) == len(names)
    sources = []
    for index, name in enumerate(names):
        source = _source(name, root, known, pretrain, draft)
        sources.append({**source, **({"weight": shares[index]} if mixed else {})})
    how = (
        "names looked up in dataset_info.json" if known else "taken as paths: no dataset_info.json was found"
    )
    draft.put("data.train", sources, ["dataset", "dataset_dir"], how)
    if mixed:
        how = "shares of tokens here, of rows there"
        draft.account(["mix_strategy", "interleave_probs"], how, "data.train.weight")
    draft.account("mix_strategy", "concat: each source is read whole")
    _held_out(draft, root, known, pretrain)
    draft.put("data.max_length", max(8, int(number(draft.value("cutoff_len")) or 2048)), "cutoff_len",
              "" if draft.has("cutoff_len") else f"{NAME}'s default")  # fmt: skip
    _rendering(draft, len(names), pretrain)


def _rendering(draft: Draft, files: int, pretrain: bool) -> None:
    """Template, packing and number of rows."""
    template = draft.value("template")
    if template in ("empty", "default") and draft.offers(data={"train": "r.jsonl", "template": "plain"}):
        draft.put("data.template", "plain", "template", "no template text of its own")
    elif draft.has("template"):
        how = f"the tokenizer's own chat template in place of {NAME}'s text of {template!r}; look: tunesmith data show"
        draft.put("data.template", "auto", "template", how)
    if draft.has("packing") or draft.has("neat_packing"):
        on = truthy(draft.value("packing")) or truthy(draft.value("neat_packing"))
        how = (
            "documents in a row never see each other, as with neat_packing"
            if on
            else "off there; here it changes nothing but speed"
        )
        draft.put("data.packing", on, ["packing", "neat_packing"], how)
    rows = number(draft.value("max_samples"))
    if rows and files == 1:
        draft.put("data.limit", int(rows), "max_samples")
    draft.leave("max_samples", "rows of each dataset; here data.limit counts the first rows of all")


def _held_out(draft: Draft, root: Path, known: Mapping[str, Any], pretrain: bool) -> None:
    size, files = number(draft.value("val_size")) or 0, listed(draft.value("eval_dataset"))
    if len(files) == 1:
        draft.put("data.validation", _source(files[0], root, known, pretrain, draft)["path"], "eval_dataset")
        draft.account("val_size", "eval_dataset goes before it")
    elif size:
        value = int(size) if size >= 1 else float(size)
        draft.put("data.validation", value, "val_size")
    else:
        how = "none there; 0.05 would tell whether the run learns or memorises"
        draft.put("data.validation", None, "val_size", how)
    draft.leave("eval_dataset", "data held out; here one file, in data.validation")


def _datasets(draft: Draft, folder: Path, dataset_info: Path | None) -> tuple[Path, Mapping[str, Any]]:
    """The folder of the data, and dataset_info.json where there is one."""
    asked = Path(str(draft.value("dataset_dir")))
    places = [dataset_info] if dataset_info else [
        base / asked / "dataset_info.json" for base in (Path(), folder, *list(folder.resolve().parents)[:3])
    ]  # fmt: skip
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        if dataset_info:
            raise RecipeError.at(str(dataset_info), "is not there", "give dataset_info.json")
        return asked, {}
    try:
        known = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecipeError.at(str(file), f"cannot be read: {error}", "correct dataset_info.json") from error
    if not isinstance(known, dict):
        raise RecipeError.at(str(file), "does not hold a JSON object", "correct dataset_info.json")
    return file.parent, known


def _source(name: str, root: Path, known: Mapping[str, Any], pretrain: bool, draft: Draft) -> dict[str, Any]:
    """One dataset name as a source of the recipe."""
    entry = known.get(name)
    if entry is None and known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:8]
        raise RecipeError(
            [Problem("dataset", f"{name!r} is not in dataset_info.json", f"it has {', '.join(near)}")]
        )
    if not isinstance(entry, dict):
        return {"path": str(root / name) if (root / name).exists() else name}
    file = entry.get("file_name") or entry.get("script_url")
    path = str(root / file) if file else str(entry.get("hf_hub_url") or entry.get("ms_hub_url") or name)
    source: dict[str, Any] = {"path": path}
    shape, columns = _shape(entry, pretrain)
    if shape and draft.offers(data={"train": {"path": path, "format": shape}}):
        source["format"] = shape
        if columns:
            source["columns"] = columns
    return source


def _shape(entry: Mapping[str, Any], pretrain: bool) -> tuple[str, dict[str, str]]:
    """Format and columns of a dataset_info.json entry."""
    columns, tags = dict(entry.get("columns") or {}), dict(entry.get("tags") or {})
    if pretrain:
        column = columns.get("prompt", "instruction" if not columns else "text")
        return "text", {} if column == "text" else {"text": column}
    if entry.get("ranking"):
        return "", {}  # told from its rows
    if entry.get("formatting", "alpaca") == "alpaca":
        named = {"instruction": columns.get("prompt"), "input": columns.get("query"), "output": columns.get("response"),
                 "system": columns.get("system"), "history": columns.get("history")}  # fmt: skip
    else:
        given = {
            "messages": columns.get("messages"),
            "role": tags.get("role_tag"),
            "content": tags.get("content_tag"),
        }
        if entry.get("formatting") == "sharegpt":
            return "sharegpt", {}
        named = given
    ours = "alpaca" if entry.get("formatting", "alpaca") == "alpaca" else "messages"
    return ours, {name: column for name, column in named.items() if column and column != name}
