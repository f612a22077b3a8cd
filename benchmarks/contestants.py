"""One contestant of cpu_peers.py in its own process: train over the job's rows and print one JSON line.

All: fp32, AdamW fused, lr 1e-4 constant, no checkpointing, about as many real tokens a step, LoRA rank 8 on all
linear layers, the same weights from the same folder. `--check`: the first eight rows as one step, twice, adapters
beginning at the same numbers, whose losses and gradient norms must be everybody's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import zlib
from pathlib import Path
from typing import Any

WARM_STEPS = 2
ROWS_AT_ONCE = 8  # of peers; where a step has more, they accumulate
CHECK_ROWS = 8


class Clock:
    """Wall and CPU time after each step, with what it learnt, its loss and its gradient's norm.

    ahead: wall and CPU time of work that steps build on; all of it is counted, whatever the warm-up leaves out.
    """

    def __init__(self) -> None:
        self.ahead = (0.0, 0.0)
        self.times: list[tuple[float, float]] = []
        self.targets: list[int] = []
        self.losses: list[float] = []
        self.norms: list[float] = []

    def tick(self) -> None:
        """A step is done, or the first one begins."""
        self.times.append((time.perf_counter(), time.process_time()))

    def result(self) -> dict[str, Any]:
        """Rates over the steps after the warm-up."""
        warm = min(WARM_STEPS, len(self.times) - 2)
        (wall0, cpu0), (wall1, cpu1) = self.times[warm], self.times[-1]
        learnt = sum(self.targets[warm:])
        wall, cpu = wall1 - wall0 + self.ahead[0], cpu1 - cpu0 + self.ahead[1]
        return {
            "targets": learnt, "steps": len(self.targets) - warm, "wall": wall, "cpu": cpu,
            "targets_per_second": learnt / wall, "targets_per_cpu_second": learnt / cpu, "ahead": self.ahead,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "losses": self.losses[:3], "norms": self.norms[:3],
        }  # fmt: skip


def same_start(named: Any) -> None:
    """Adapters at the same numbers for everybody, whatever a library calls them: both factors at random."""
    import torch

    for name, weight in named:
        if "lora_" in name:
            plain = name[name.index("layers.") :].replace(".default", "")
            drawn = torch.Generator().manual_seed(zlib.crc32(plain.encode()))
            weight.data.copy_(torch.randn(weight.shape, generator=drawn) * 0.02)


# ---- ours ----


def tunesmith(job: dict[str, Any], check: bool, *own: str, sharing: bool = True) -> Clock:
    """`tunesmith train` itself, listened to through its events. What frozen layers give is made anew, and counted."""
    import shutil

    folder = Path(job["folder"])
    os.environ["TUNESMITH_CACHE"] = str(folder / "cache")
    os.environ.setdefault("GOMP_SPINCOUNT", "700")  # as the command sets it, for more than one thread
    shutil.rmtree(folder / "cache" / "trunks", ignore_errors=True)
    from tunesmith import load_recipe, run, trunk
    from tunesmith.engine import step

    if not sharing:
        assert callable(step.shared_batches), "what lays rows as trees has another name"
        step.shared_batches = lambda *_: None

    clock = Clock()
    keep = trunk.keep_trunk

    def counted(*given: Any) -> Any:
        began = time.perf_counter(), time.process_time()
        kept = keep(*given)
        clock.ahead = time.perf_counter() - began[0], time.process_time() - began[1]
        return kept

    trunk.keep_trunk = counted

    class Listening:
        def event(self, event: Any) -> None:
            if event.kind == "started":
                clock.tick()
            elif event.kind == "stepped":
                clock.tick()
                clock.targets.append(event.targets)
                clock.losses.append(event.loss_nats)
                clock.norms.append(event.grad_norm)

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    shutil.rmtree(folder / "run", ignore_errors=True)
    step_tokens = job["tokens"] * job["rows_a_step"] // job["count"]
    overrides = [f"optim.batch_tokens={step_tokens}", *own]
    if check:
        overrides = [
            f"data.limit={CHECK_ROWS}",
            f"optim.batch_tokens={job['check_tokens']}",
            "budget.epochs=2",
            *own,
        ]
        tuning = run.tune

        def tuned_alike(*given: Any) -> Any:
            tuned = tuning(*given)
            same_start(tuned[0].trainable.items())
            return tuned

        run.tune = tuned_alike  # type: ignore[assignment]
    run.train(load_recipe(folder / "recipe.yaml", overrides), reporter=Listening())
    return clock


# ---- peers ----


def peer_model(job: dict[str, Any], adapt: bool = True) -> Any:
    """The folder's model, tuned as the job says, by means that peers have."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    match job["tuning"]["method"]:
        case "freeze":
            model.requires_grad_(False)
            model.model.layers[-job["tuning"]["last_layers"] :].requires_grad_(True)
        case "lora" if adapt:
            from peft import get_peft_model

            model = get_peft_model(model, lora_config())
    return model


def lora_config() -> Any:
    """The same adapter for everybody."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def rows_of(job: dict[str, Any], check: bool) -> Any:
    """The job's rows as a data set."""
    from datasets import Dataset

    rows = json.loads((Path(job["folder"]) / "rows.json").read_text())
    return Dataset.from_dict({key: value[:CHECK_ROWS] if check else value for key, value in rows.items()})


def common(job: dict[str, Any], check: bool) -> dict[str, Any]:
    """Settings that every peer shares."""
    return {
        "output_dir": str(Path(job["folder"]) / "peer"), "per_device_train_batch_size": ROWS_AT_ONCE,
        "gradient_accumulation_steps": 1 if check else job["rows_a_step"] // ROWS_AT_ONCE,
        "num_train_epochs": 2 if check else job["epochs"], "learning_rate": 1e-4, "weight_decay": 0.0,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "bf16": False, "fp16": False, "gradient_checkpointing": False, "use_cpu": True, "disable_tqdm": True,
        "optim": "adamw_torch_fused", "max_grad_norm": 1.0, "seed": 0, "dataloader_num_workers": 0,
    }  # fmt: skip


def hf(job: dict[str, Any], check: bool, sampling: str) -> Clock:
    """transformers' Trainer with its padding collator."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    clock = Clock()
    trainer = Trainer(
        model=peer_model(job),
        args=TrainingArguments(train_sampling_strategy=sampling, **common(job, check)),
        train_dataset=rows_of(job, check),
        data_collator=DataCollatorForSeq2Seq(
            AutoTokenizer.from_pretrained(job["model"]), label_pad_token_id=-100
        ),
        callbacks=[ticking(clock)],
    )
    return timed(trainer, clock, job, check)


def trl(job: dict[str, Any], check: bool, sampling: str = "random", packing: bool = False) -> Clock:
    """TRL's SFTTrainer on tokenised rows: padded, or packed by best fit with documents kept apart."""
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    options: dict[str, Any] = {"max_length": 4096, "train_sampling_strategy": sampling}
    if packing:
        longest = max(map(len, json.loads((Path(job["folder"]) / "rows.json").read_text())["input_ids"]))
        width = 1024 if longest <= 1024 else 2048
        a_step = max(1, round(job["tokens"] * ROWS_AT_ONCE / job["count"] / width))
        options = {
            "packing": True, "packing_strategy": "bfd", "max_length": width,
            "per_device_train_batch_size": ROWS_AT_ONCE if check else a_step,
        }  # fmt: skip
    clock = Clock()
    adapted = job["tuning"]["method"] == "lora"
    trainer = SFTTrainer(
        model=peer_model(job, adapt=False),
        args=SFTConfig(**{**common(job, check), **options}),
        train_dataset=rows_of(job, check),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=lora_config() if adapted else None,
        callbacks=[ticking(clock)],
    )
    return timed(trainer, clock, job, check)


def llama_factory(job: dict[str, Any], check: bool) -> Clock:
    """LLaMA-Factory's own workflow on the same tokenised rows, padded as it does by default."""
    from datasets import DatasetDict
    from llamafactory.train.tuner import run_exp

    rows = rows_of(job, check)
    rows = rows.add_column("attention_mask", [[1] * len(ids) for ids in rows["input_ids"]])
    stored = Path(job["folder"]) / "llama-factory-rows"
    DatasetDict({"train": rows}).save_to_disk(str(stored))
    settings = {
        **common(job, check), "model_name_or_path": job["model"], "stage": "sft", "do_train": True,
        "finetuning_type": job["tuning"]["method"], "template": "qwen", "dataset": "rows", "cutoff_len": 2048,
        "tokenized_path": str(stored), "lora_rank": 8, "lora_alpha": 16, "lora_target": "all", "flash_attn": "sdpa",
        "disable_gradient_checkpointing": True, "overwrite_output_dir": True, "report_to": "none",
    }  # fmt: skip
    for name in ("gradient_checkpointing", "use_cpu", "disable_tqdm"):
        settings.pop(name)
    clock = Clock()
    learnt = [sum(label >= 0 for label in labels[1:]) for labels in rows["labels"]]
    run_exp(settings, callbacks=[ticking(clock, check)])
    # its loader draws the rows itself: what each step learnt is known on the average alone
    clock.targets = [sum(learnt) * settings["num_train_epochs"] // (len(clock.times) - 1)] * (
        len(clock.times) - 1
    )
    return clock


def ticking(clock: Clock, same: bool = False) -> Any:
    """A callback that ticks at each step and keeps losses and norms."""
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):
        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            if same:
                same_start(model.named_parameters())
            clock.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                clock.losses.append(float(logs["loss"]))
                clock.norms.append(float(logs.get("grad_norm", float("nan"))))

    return Ticking()


def timed(trainer: Any, clock: Clock, job: dict[str, Any], check: bool) -> Clock:
    """Train; count what each step learns as the trainer's own loader delivers it."""
    if check:
        same_start(trainer.model.named_parameters())
    loader = trainer.get_train_dataloader()
    for epoch in range(2 if check else job["epochs"]):
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        clock.targets += [int((batch["labels"][:, 1:] >= 0).sum()) for batch in loader]
    trainer.train()
    return clock


CONTESTANTS = {
    "tunesmith": tunesmith,
    "tunesmith_unshared": lambda job, check: tunesmith(job, check, sharing=False),
    "tunesmith_uncached": lambda job, check: tunesmith(job, check, "compute.trunk_cache=off"),
    "tunesmith_recomputed": lambda job, check: tunesmith(job, check, "compute.checkpointing=full"),
    "hf_default": lambda job, check: hf(job, check, "random"),
    "hf_grouped": lambda job, check: hf(job, check, "group_by_length"),
    "trl_default": trl,
    "trl_grouped": lambda job, check: trl(job, check, "group_by_length"),
    "llama_factory": llama_factory,
    "trl_packing": lambda job, check: trl(job, check, packing=True),
}
PACKAGES = {"tunesmith": "tunesmith", "hf": "transformers", "trl": "trl", "llama": "llamafactory"}


def main() -> None:
    """contestants.py NAME JOB.json [--check]"""
    name, path, *rest = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    from importlib.metadata import version

    import torch

    torch.set_num_threads(job["threads"])
    clock = CONTESTANTS[name](job, "--check" in rest)
    package = PACKAGES[name.split("_")[0]]
    print(json.dumps({"name": name, "version": f"{package} {version(package)}", **clock.result()}))


if __name__ == "__main__":
    main()
