"""Keys as other tools spell them, and where a recipe keeps the same thing: learning_rate -> optim.lr."""

from __future__ import annotations

from collections.abc import Mapping

HABITS: Mapping[str, str] = {
    "model_name_or_path": "model", "base_model": "model", "model_name": "model", "output_dir": "output",
    "dataset": "data.train", "datasets": "data.train", "train_file": "data.train", "train_data": "data.train",
    "stream": "data.train.0.stream", "streaming": "data.train.0.stream",
    "val_size": "data.validation", "eval_dataset": "data.validation",
    "cutoff_len": "data.max_length", "max_seq_length": "data.max_length", "sequence_len": "data.max_length",
    "learning_rate": "optim.lr", "warmup_ratio": "optim.warmup", "warmup_steps": "optim.warmup",
    "lr_scheduler_type": "optim.schedule", "max_grad_norm": "optim.grad_clip",
    "batch_size": "optim.batch_tokens", "per_device_train_batch_size": "optim.batch_tokens",
    "gradient_accumulation_steps": "optim.batch_tokens",
    "num_train_epochs": "budget.epochs", "num_epochs": "budget.epochs", "max_steps": "budget.steps",
    "r": "tuning.rank", "lora_r": "tuning.rank", "lora_rank": "tuning.rank", "lora_alpha": "tuning.alpha",
    "lora_dropout": "tuning.dropout", "target_modules": "tuning.targets", "lora_target": "tuning.targets",
    "finetuning_type": "tuning.method", "load_in_4bit": "tuning.base", "quantization_bit": "tuning.base",
    "gradient_checkpointing": "compute.checkpointing", "bf16": "compute.precision", "fp16": "compute.precision",
    "eval_steps": "evaluation.every", "save_steps": "checkpoint.every", "save_total_limit": "checkpoint.keep",
    "report_to": "track",
}  # fmt: skip
