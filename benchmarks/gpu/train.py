"""One contestant on one cell, in its own process: train.py WHO JOB [--device cuda] [--tiny]; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from shapes import PEAK_FLOPS, config_values, flops_a_token, rows

TIMED = 5
RATE = 1e-4


def warm(job: dict[str, Any]) -> int:
    """Steps before those that are timed."""
    return int(job.get("warm", 3))


def tunesmith(job: dict[str, Any], values: dict[str, Any], device: str) -> dict[str, Any]:
    """Our own step, through the engine that `tunesmith train` runs."""
    from dataclasses import replace

    from engine import samples, stepper
    from tunesmith import __version__
    from tunesmith.plan.device import find_device

    recipe, values = recipe_of(job, values)
    card = device != "cpu"
    plan = planned(recipe, values, job, find_device())
    micro = min(plan.micro_tokens, job["step_tokens"])
    taking = stepper(recipe, device, torch.bfloat16 if card else torch.float32, card, plan.recomputed)
    randomise(taking.tuned.trainable.items())
    cap(job, device)
    clock = Clock(device)
    kept = keep_trunk(taking.tuned.model, values) if job.get("kept") else None

    steps = rows(job, warm(job) + TIMED, values["vocab_size"])
    coming: dict[int, list[Any]] = {}

    def samples_of(number: int) -> list[Any]:
        made = samples(steps[(number - 1) % len(steps)], lambda targets: targets >= 0)
        return made if kept is None else [replace(one, states=kept[: len(one.input_ids)]) for one in made]

    def lay(number: int) -> None:  # as the loop does, while the card computes
        coming[number] = samples_of(number)
        taking.lay(coming[number], micro)

    def take(number: int) -> None:
        made = coming.pop(number, None) or samples_of(number)
        targets = sum(len(one.input_ids) for one in made)
        done = taking.take(number, made, float(targets), micro, meanwhile=lambda: lay(number + 1))
        clock.tick(targets, done.loss_nats, done.grad_norm)

    for number in range(1, len(steps) + 1):
        take(number)
    if job.get("profile"):
        measured, clock = clock, Clock(device)
        profile(lambda: take(len(steps) + 1), job["profile"], device)
        clock = measured
    return {
        "version": __version__,
        "forecast_bytes": plan.peak_bytes,
        "forecast_allocated_bytes": plan.memory.allocated_bytes,
        "micro_tokens": micro,
        "recomputed_layers": len(plan.recomputed),
        **clock.result(job, values),
    }


def keep_trunk(model: Any, values: dict[str, Any]) -> Any:
    """States that rows bring from the disk in later epochs, as random numbers in memory; the trunk is let go of."""
    from tunesmith.model.forward import causal_lm
    from tunesmith.model.trunk import DEPTH, STORED, find_trunk, let_go

    lm = causal_lm(model)
    depth = find_trunk(model, lm).layers
    setattr(lm, DEPTH, depth)
    let_go(lm, depth)
    made = torch.randn(4096, values["hidden_size"]).to(lm.dtype)
    return made.view(torch.int16).numpy() if STORED[made.dtype] == "int16" else np.asarray(made)


def profile(step: Any, path: str, device: str) -> None:
    """Where a step's time goes, kernel by kernel, written to `path`."""
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device != "cpu" else [])]
    began = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as found:
        step()
    by = "self_device_time_total" if device != "cpu" else "self_cpu_time_total"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"wall {time.perf_counter() - began:.3f} s, profiler's own included\n")
        file.write(found.key_averages().table(sort_by=by, row_limit=45, max_name_column_width=90))


def cap(job: dict[str, Any], device: str) -> None:
    """From here on no more than the cell's memory, where it has a limit: models are made before they are quantised."""
    if job.get("cap_gib") and device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total, most = torch.cuda.get_device_properties(0).total_memory, int(job["cap_gib"] * 2**30)
        torch.cuda.set_per_process_memory_fraction(most / total)
        if heads := sys.modules.get("tunesmith.kernels.head"):  # which takes its share of the card it finds
            heads._card_bytes = lambda device: most  # type: ignore[attr-defined]


def recipe_of(
    job: dict[str, Any], values: dict[str, Any] | None = None, **compute: Any
) -> tuple[Any, dict[str, Any]]:
    """The recipe of a job, and the config of its model."""
    from tunesmith.recipe import parse

    values = config_values(job, tiny=False) if values is None else values
    tuning = {
        "lora": {"method": "lora", "rank": 16}, "qlora": {"method": "qlora", "rank": 16, "tables": 8},
        "freeze": {"method": "freeze", "last_layers": 2}, "full": {"method": "full"},
    }[job["method"]]  # fmt: skip
    optimizer = job.get("optimizer", "adamw_8bit" if job["method"] == "full" else "adamw")
    return parse({
        "model": {"from_config": values, "tokenizer": "none"}, "data": {"train": "none.jsonl"}, "tuning": tuning,
        "optim": {"lr": RATE, "optimizer": optimizer},
        "compute": {**job.get("compute", {}), **compute},
    }), values  # fmt: skip


def planned(recipe: Any, values: dict[str, Any], job: dict[str, Any], here: Any) -> Any:
    """What `tunesmith plan` says of this cell: its micro-batch, recomputed layers and memory are the run's."""
    from dataclasses import replace

    from tunesmith.model.facts import facts_from_config
    from tunesmith.plan.forecast import RunShape, make_plan
    from tunesmith.plan.summary import DataSummary

    lengths = np.array(
        [len(ids) for step in rows(job, warm(job) + TIMED, values["vocab_size"]) for ids in step]
    )
    tokens, longest = int(lengths.sum()), int(lengths.max())
    shape = RunShape(
        steps=warm(job) + TIMED, tokens=tokens, targets=tokens, step_tokens=job["step_tokens"], longest=longest,
        rows=len(lengths),
    )  # fmt: skip
    summary = DataSummary(
        rows=len(lengths), targets=tokens, epochs=1.0, longest=longest, cut_share=0.0, sources=1, most_repeats=1.0,
        attended=float((lengths**2).sum() / tokens), formats=frozenset({"text"}), validation_rows=0, template="none",
        usual_longest=longest,
    )  # fmt: skip
    if job.get("cap_gib"):
        here = replace(here, memory_bytes=int(job["cap_gib"] * 2**30))
    return make_plan(recipe, facts_from_config(values), shape, here, summary)


def randomise(named: Any) -> None:
    """B of a LoRA is 0 at first, and zeros run faster than numbers do."""
    for name, weight in named:
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)


class Clock:
    """Seconds, losses and norms of each step; a peer's loss costs its own synchronisation, as ours does."""

    def __init__(self, device: str) -> None:
        self.device, self.times, self.targets = device, [], []
        self.losses: list[float] = []
        self.norms: list[float] = []

    def tick(self, targets: int, loss: float, norm: float) -> None:
        """A step is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.targets.append(targets)
        self.losses.append(loss)
        self.norms.append(norm)

    def result(self, job: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Rates after the warm-up. MFU = arithmetic of the method (shapes.flops_a_token) x rate / 989 TFLOP/s.

        step_seconds: of each step but the first, where what a contestant compiles on the way would show.
        """
        seconds = self.times[-1] - self.times[warm(job) - 1]
        rate = sum(self.targets[warm(job) :]) / seconds
        cuda = self.device != "cpu"
        return {
            "tokens_per_second": rate,
            "mfu": rate * flops_a_token(job, values, job["length"] or 230) / PEAK_FLOPS,
            "peak_bytes": torch.cuda.max_memory_reserved() if cuda else 0,
            "allocated_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
            "step_seconds": [round(b - a, 3) for a, b in zip(self.times, self.times[1:])],
            "losses": self.losses, "norms": self.norms,
        }  # fmt: skip


def trl(job: dict[str, Any], values: dict[str, Any], device: str, liger: bool) -> dict[str, Any]:
    """TRL at its best: packed, bf16, fused AdamW, checkpointing only under a cap; Liger's kernels if asked."""
    import trl as library
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    half = torch.bfloat16 if device != "cpu" else torch.float32
    options: dict[str, Any] = {}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values), dtype=half, attn_implementation="sdpa"
        )
    if job["method"] == "qlora":
        quantise_as_peers_do(model)
    peft = None
    if job["method"] in ("lora", "qlora"):
        from peft import LoraConfig

        peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    elif job["method"] == "freeze":
        model.requires_grad_(False)
        model.model.layers[-2:].requires_grad_(True)
    clock = Clock(device)
    made = rows(job, warm(job) + TIMED, values["vocab_size"])
    flat = [ids.tolist() for step in made for ids in step]
    longest = max(map(len, flat))
    if job["length"] is None:
        options |= {"packing": True, "packing_strategy": "bfd", "max_length": 4096}
        longest = 4096
    batch = max(1, job["step_tokens"] // longest)
    arguments = SFTConfig(
        output_dir="/tmp/tunesmith-gpu-peer", per_device_train_batch_size=batch, max_steps=warm(job) + TIMED,
        learning_rate=RATE, lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[],
        bf16=device != "cpu", gradient_checkpointing=bool(job.get("cap_gib")), use_cpu=device == "cpu",
        disable_tqdm=True, use_liger_kernel=liger, max_grad_norm=1.0,
        optim="adamw_8bit" if job["method"] == "full" and device != "cpu" else "adamw_torch_fused",
        **{"max_length": longest, **options},
    )  # fmt: skip

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                clock.tick(job["step_tokens"], float(logs["loss"]), float(logs.get("grad_norm", math.nan)))

    trainer = SFTTrainer(
        model=model, args=arguments, processing_class=tokenizer(), peft_config=peft, callbacks=[Ticking()],
        train_dataset=Dataset.from_dict({"input_ids": flat, "labels": flat}),
    )  # fmt: skip
    randomise(trainer.model.named_parameters())
    cap(job, device)
    trainer.train()
    return {"version": library.__version__, **clock.result(job, values)}


def quantise_as_peers_do(model: Any) -> None:
    """bitsandbytes' own layers."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            layer = Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )
            layer.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4").to(
                module.weight.device
            )
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer)


def unsloth(job: dict[str, Any], values: dict[str, Any], device: str) -> dict[str, Any]:
    """Unsloth's patched model with its own checkpointing setting, trained by TRL as its guides do."""
    import tempfile

    from transformers import AutoConfig, AutoModelForCausalLM
    from unsloth import FastLanguageModel, __version__

    if job["method"] not in ("lora", "qlora"):
        raise SystemExit("unsloth: LoRA and QLoRA only in this comparison")
    with tempfile.TemporaryDirectory() as folder:  # it loads from a folder only
        with torch.device(device):
            made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.bfloat16)
        made.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        del made
        torch.cuda.empty_cache()
        model, words = FastLanguageModel.from_pretrained(
            folder, max_seq_length=4096, load_in_4bit=job["method"] == "qlora", dtype=torch.bfloat16
        )
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, use_gradient_checkpointing="unsloth" if job.get("cap_gib") else False,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock = Clock(device)

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                clock.tick(job["step_tokens"], float(logs["loss"]), float(logs.get("grad_norm", math.nan)))

    flat = [ids.tolist() for step in rows(job, warm(job) + TIMED, values["vocab_size"]) for ids in step]
    cap(job, device)
    SFTTrainer(
        model=model, processing_class=words, callbacks=[Ticking()],
        train_dataset=Dataset.from_dict({"input_ids": flat, "labels": flat}),
        args=SFTConfig(
            output_dir="/tmp/tunesmith-gpu-peer", max_steps=warm(job) + TIMED, learning_rate=RATE, logging_steps=1,
            per_device_train_batch_size=max(1, job["step_tokens"] // (job["length"] or 4096)), bf16=True,
            lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True, max_length=4096,
            packing=job["length"] is None, optim="adamw_torch_fused",
        ),
    ).train()  # fmt: skip
    return {"version": __version__, **clock.result(job, values)}


def tokenizer() -> Any:
    """One that only pads."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


CONTESTANTS = {
    "tunesmith": tunesmith,
    "trl": lambda job, values, device: trl(job, values, device, liger=False),
    "trl_liger": lambda job, values, device: trl(job, values, device, liger=True),
    "unsloth": unsloth,
}


def main() -> None:
    """Train and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=CONTESTANTS)
    parser.add_argument("job")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    job = json.loads(asked.job)
    if asked.tiny:
        job |= {"length": job["length"] and 64, "step_tokens": 256, "cap_gib": None}
    torch.manual_seed(0)
    print(json.dumps(CONTESTANTS[asked.who](job, config_values(job, asked.tiny), asked.device)))


if __name__ == "__main__":
    main()
