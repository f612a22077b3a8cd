"""Files of other tools become recipes, and every key of theirs is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith import recipe
from tunesmith.app.importing import import_file
from tunesmith.app.render import imported as pages
from tunesmith.errors import FolderError, RecipeError
from tunesmith.foreign.draft import Imported
from tunesmith.foreign.read import read
from tunesmith.foreign.text import text

from ..app.render.test_base import printed

LLAMA = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "stage": "sft", "do_train": True, "finetuning_type": "lora",
    "lora_rank": 8, "lora_target": "all", "dataset": "mine,general", "template": "qwen", "cutoff_len": 1024,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "learning_rate": "1.0e-4",
    "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True, "val_size": 0.1,
    "eval_steps": 500, "save_steps": 250, "output_dir": "saves/qwen", "plot_loss": True, "neat_packing": True,
    "resume_from_checkpoint": None, "lora_rnak": 4,
}  # fmt: skip
INFO = {
    "mine": {"file_name": "mine.json", "columns": {"prompt": "q", "response": "a"}},
    "general": {
        "file_name": "general.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
    },
    "hub": {"hf_hub_url": "some/rows"},
}
AXOLOTL = {
    "base_model": "NousResearch/Llama-3.2-1B", "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
    "val_set_size": 0.05, "sequence_len": 2048, "sample_packing": True, "adapter": "lora", "lora_r": 32,
    "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_linear": True, "micro_batch_size": 2,
    "gradient_accumulation_steps": 4, "num_epochs": 2, "optimizer": "adamw_bnb_8bit", "lr_scheduler": "cosine",
    "learning_rate": 2e-4, "evals_per_epoch": 4, "saves_per_epoch": 1, "flash_attention": True, "warmup_steps": 10,
    "wandb_project": "mine", "special_tokens": {"pad_token": "<|end|>"}, "output_dir": "./out",
}  # fmt: skip
UNSLOTH = {
    "FastLanguageModel": {
        "from_pretrained": {"model_name": "Qwen/Qwen2.5-7B", "max_seq_length": 4096, "load_in_4bit": True},
        "get_peft_model": {"r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    },
    "SFTConfig": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 60,
                  "warmup_steps": 5, "learning_rate": 2e-4, "optim": "adamw_8bit", "seed": 7},
}  # fmt: skip


def write(folder: Path, values: dict[str, Any], name: str = "their.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(values) if name.endswith("json") else yaml.safe_dump(values), encoding="utf-8")
    return path


def llama(folder: Path, **changes: Any) -> Imported:
    (folder / "data").mkdir(exist_ok=True)
    write(folder / "data", INFO, "dataset_info.json")
    return read(write(folder, {**LLAMA, **changes}))


def leaf_keys(value: dict[str, Any]) -> list[str]:
    return [
        k
        for key, v in value.items()
        for k in (leaf_keys(v) if isinstance(v, dict) and key != "special_tokens" else [key])
    ]


# mutation tried: Draft.rest without its loop leaves do_train unspoken of
@pytest.mark.parametrize("values", [LLAMA, AXOLOTL, UNSLOTH], ids=["llama-factory", "axolotl", "unsloth"])
def test_every_key_is_translated_or_left(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", INFO, "dataset_info.json")
    found = read(write(tmp_path, values))
    spoken = [key.split(".")[-1] for note in found.translated for key in note.keys]
    spoken += [note.key.split(".")[-1] for note in found.left]
    assert sorted(spoken) == sorted(leaf_keys(values))


@pytest.mark.parametrize("values", [LLAMA, AXOLOTL, UNSLOTH], ids=["llama-factory", "axolotl", "unsloth"])
def test_the_text_is_the_recipe_with_comments(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", INFO, "dataset_info.json")
    found = read(write(tmp_path, values))
    path = tmp_path / "recipe.yaml"
    path.write_text(text(found, "their.yaml"), encoding="utf-8")
    assert recipe.load(path) == found.recipe
    for note in found.left:
        assert note.meaning == "unset" or f"# {note.key}:" in path.read_text()


def test_a_llama_factory_file_becomes_the_run_it_means(tmp_path: Path) -> None:
    found = llama(tmp_path)
    run = found.recipe
    assert (found.tool, run.model.path, run.objective) == (
        "LLaMA-Factory",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "sft",
    )
    assert run.tuning == recipe.Lora(method="lora", rank=8, alpha=16)
    assert (run.optim.lr, run.optim.schedule, run.optim.warmup) == (1e-4, "cosine", 0.1)
    assert (run.data.max_length, run.data.validation, run.output) == (1024, 0.1, "saves/qwen")
    assert (run.evaluation.every, run.checkpoint.every) == (500, 250)
    assert run.budget == recipe.Epochs(epochs=3)


def test_rows_times_accumulation_times_length_are_tokens_a_step_and_the_sum_is_said(tmp_path: Path) -> None:
    found = llama(tmp_path)
    assert found.recipe.optim.batch_tokens == 2 * 8 * 1024
    [note] = [note for note in found.translated if note.to == "optim.batch_tokens"]
    assert "2 rows x 8 accumulated x 1024 tokens" in note.how
    assert "= 16384" in note.how


def test_dataset_names_are_looked_up_with_their_columns(tmp_path: Path) -> None:
    mine, general = llama(tmp_path).recipe.data.train
    assert mine.path.endswith("data/mine.json")
    assert (mine.format, mine.columns) == ("alpaca", {"instruction": "q", "output": "a"})
    assert general.path.endswith("data/general.jsonl")


def test_a_data_set_of_the_hub_keeps_its_id(tmp_path: Path) -> None:
    assert llama(tmp_path, dataset="hub").recipe.data.train[0].path == "some/rows"


def test_interleaved_data_get_their_shares(tmp_path: Path) -> None:
    found = llama(tmp_path, mix_strategy="interleave_under", interleave_probs="0.2,0.8")
    assert [source.weight for source in found.recipe.data.train] == [0.2, 0.8]


def test_an_unknown_name_of_data_names_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="general"):
        llama(tmp_path, dataset="genral")


def test_what_llama_factory_leaves_unsaid_keeps_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    values = {"model_name_or_path": "m/m", "stage": "sft", "dataset": "rows.jsonl", "finetuning_type": "full"}
    run = read(write(tmp_path, values)).recipe
    assert (run.optim.lr, run.optim.weight_decay, run.optim.warmup, run.optim.schedule) == (
        5e-5,
        0,
        0,
        "linear",
    )
    assert (run.optim.batch_tokens, run.budget, run.data.validation) == (
        8 * 2048,
        recipe.Epochs(epochs=3),
        None,
    )


def test_pretraining_reads_the_prompt_column_as_text(tmp_path: Path) -> None:
    run = llama(tmp_path, stage="pt", dataset="mine").recipe
    assert run.objective == "pretrain"
    assert (run.data.train[0].format, run.data.train[0].columns) == ("text", {"text": "q"})


def test_freeze_tuning_counts_layers_from_the_output(tmp_path: Path) -> None:
    run = llama(tmp_path, finetuning_type="freeze", freeze_trainable_layers=3).recipe
    assert run.tuning == recipe.Freeze(method="freeze", last_layers=3)


def test_an_objective_that_is_not_there_stops_and_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stage.*ppo[\s\S]*sft"):
        llama(tmp_path, stage="ppo")


def test_a_misspelt_key_is_left_as_unknown(tmp_path: Path) -> None:
    [left] = [note for note in llama(tmp_path).left if note.key == "lora_rnak"]
    assert "spelling" in left.meaning


def test_an_adapter_goes_on_from_its_folder(tmp_path: Path) -> None:
    found = llama(tmp_path, adapter_name_or_path="saves/first")
    assert found.recipe.model.path == "saves/first"
    assert "model_name_or_path" in [note.key for note in found.left]


def test_remote_code_is_never_taken_over(tmp_path: Path) -> None:
    assert llama(tmp_path, trust_remote_code=True).recipe.model.trust_remote_code is False


# mutation tried: Left with the value as given writes the token into the recipe
def test_a_secret_is_not_copied_anywhere(tmp_path: Path) -> None:
    found = llama(tmp_path, hf_hub_token="hf_private", swanlab_api_key="sw_private")
    assert "private" not in text(found, "their.yaml")
    assert {"hf_hub_token", "swanlab_api_key"} <= {note.key for note in found.left}


def test_an_axolotl_file_becomes_the_run_it_means(tmp_path: Path) -> None:
    found = read(write(tmp_path, AXOLOTL))
    run = found.recipe
    assert (found.tool, run.model.path) == ("Axolotl", "NousResearch/Llama-3.2-1B")
    assert run.tuning == recipe.Lora(method="lora", rank=32, alpha=16, dropout=0.05)
    assert run.data.train == (recipe.Source(path="rows.jsonl", format="alpaca"),)
    assert (run.data.overlength, run.data.packing, run.optim.batch_tokens) == ("drop", True, 2 * 4 * 2048)
    assert (run.evaluation.every, run.checkpoint.every, run.optim.warmup) == (0.125, 0.5, 10)
    assert run.track == ("wandb",)


def test_axolotl_without_an_adapter_trains_every_weight(tmp_path: Path) -> None:
    values = {key: value for key, value in AXOLOTL.items() if "lora" not in key and key != "adapter"}
    assert read(write(tmp_path, values)).recipe.tuning == recipe.Full(method="full")


def test_documents_of_axolotl_are_pretraining(tmp_path: Path) -> None:
    run = read(
        write(tmp_path, {**AXOLOTL, "datasets": [{"path": "a.jsonl", "type": "completion", "field": "body"}]})
    ).recipe
    assert (run.objective, run.data.train[0].columns) == ("pretrain", {"text": "body"})


def test_unsloth_arguments_become_the_run_they_mean(tmp_path: Path) -> None:
    found = read(write(tmp_path, UNSLOTH, "args.json"))
    run = found.recipe
    assert found.tool == "Unsloth"
    assert isinstance(run.tuning, recipe.Lora)
    assert (run.tuning.rank, run.tuning.alpha, run.tuning.scaling) == (32, 64, "rslora")
    assert run.tuning.targets == ("q_proj", "v_proj")
    assert (run.budget, run.optim.warmup, run.seed) == (recipe.Steps(steps=60), 5, 7)
    assert run.optim.batch_tokens == 2 * 4 * 4096


def test_trl_arguments_without_lora_train_every_weight(tmp_path: Path) -> None:
    found = read(
        write(tmp_path, {"model_name_or_path": "m/m", "dataset_name": "rows.jsonl", "max_length": 512})
    )
    assert (found.tool, found.recipe.tuning, found.recipe.optim.lr) == (
        "TRL",
        recipe.Full(method="full"),
        2e-5,
    )


def test_a_file_of_nobody_and_a_recipe_of_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--tool"):
        read(write(tmp_path, {"colour": "red"}))
    with pytest.raises(RecipeError, match="already"):
        read(write(tmp_path, {"model": "m", "data": {"train": "rows.jsonl"}}))


@pytest.mark.parametrize("content", ["- 1\n", "a: [", "", "\xff"], ids=["list", "broken", "empty", "latin"])
def test_what_is_no_mapping_is_said_without_a_traceback(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecipeError):
        read(path)


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    source = str(write(tmp_path, AXOLOTL))
    document = import_file(source, None, str(out), None)
    assert recipe.load(out).model_dump(mode="json", exclude={"stages"}) == document["recipe"]
    with pytest.raises(FolderError, match="exists"):
        import_file(source, None, str(out), None)


def test_the_page_says_it_all(tmp_path: Path) -> None:
    document = import_file(str(write(tmp_path, AXOLOTL)), None, str(tmp_path / "r.yaml"), None)
    shown = printed(pages.page(document))
    for part in ("flash_attention", "2 rows x 4 accumulated", "optim.batch_tokens", "tunesmith plan"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
