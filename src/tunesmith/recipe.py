"""The recipe: the one input of a run. YAML in, a frozen and checked object out, all problems at once.

load("recipe.yaml", ["optim.lr=2e-4"])  ->  Recipe  ->  dump(recipe) == what the run folder keeps
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tunesmith.errors import Problem, RecipeError
from tunesmith.plain_yaml import parse_yaml
from tunesmith.recipe_problems import problems

# A float in (0, 1) is a share of the run or of the rows; an integer >= 1 is steps or rows.
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
ShareOrCount = Annotated[Count | Share, Field(union_mode="left_to_right")]

DataFormat = Literal[
    "messages", "sharegpt", "alpaca", "prompt_response", "history", "text", "preference", "kto", "choice"
]


class Section(BaseModel):
    """Part of a recipe: data only, frozen, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class Model(Section):
    """What is trained."""

    path: str | None = None
    """Hub id, local folder or run folder. Null with from_config and a tokenizer: a new model."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """How frozen weights are stored; trainable weights are always fp32. auto follows compute.precision."""
    attention: Literal["auto"] = "auto"
    """Attention kernel; auto attends each packed document by itself."""
    tokenizer: str | None = None
    """Folder or hub id of another tokenizer; null takes the model's own."""
    from_config: dict[str, Any] | None = None
    """Train a new model from these transformers config values (model_type: llama by default)."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for code you have read."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Model:
        if self.path is None and (self.from_config is None or self.tokenizer is None):
            raise ValueError("needs a path, or from_config together with tokenizer")
        if self.path is not None and self.from_config is not None:
            raise ValueError("has both path and from_config; keep one")
        return self


class Source(Section):
    """One data file, or several read as one."""

    path: str
    """A file (jsonl, json, txt, csv, tsv, parquet, arrow; .gz, .zst), a pattern, a folder, or org/name on the hub."""
    format: DataFormat | None = None
    """Shape of the rows; null recognises it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Maps the format's column names to the file's: {prompt: question, response: answer}."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of tokens against the others (1 where unset). Where no source has one, each is read whole."""
    split: Literal["auto", "file", "line"] = "auto"
    """How a .txt becomes documents: auto at <|endoftext|> lines, else at blank lines."""


Part = Annotated[Count | Share | str | None, Field(union_mode="left_to_right")]


class Data(Section):
    """What is learnt from."""

    train: tuple[Source, ...] = Field(min_length=1)
    """A path, or a list of sources."""
    validation: Part = 0.05
    """Share of rows, number of rows, path, or null."""
    test: Part = None
    """Likewise; touched once, at the end."""
    template: Literal["auto", "plain"] = "auto"
    """auto: the tokenizer's own chat template, else plain, which adds no special token."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Longest sample, in tokens."""
    overlength: Literal["keep_last_turns", "split", "drop", "error"] = "keep_last_turns"
    """What becomes of longer rows; documents are always split, without losing a token."""
    on_bad_row: Literal["error", "drop"] = "error"
    """Stop and list all bad rows, or leave them out and count them."""
    limit: Count | None = None
    """Only the first N rows of all, for a small first run."""
    packing: bool = True
    """Fill rows with several documents; none sees another."""
    mix: None = None
    """Not available yet; only null."""
    tags: None = None
    """Not available yet; only null."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple({"path": item} if isinstance(item, str) else item for item in items)


class Full(Section):
    """Every weight trains."""

    method: Literal["full"]


class Freeze(Section):
    """Only the last layers, or named modules, train; the rest is frozen."""

    method: Literal["freeze"]
    last_layers: Annotated[int, Field(ge=0)] = 2
    """Number of decoder layers that train, counted from the output."""
    modules: tuple[str, ...] = ()
    """Further modules by name, such as lm_head or model.norm."""

    @model_validator(mode="after")
    def _trains_something(self) -> Freeze:
        if self.last_layers == 0 and not self.modules:
            raise ValueError("trains nothing: set last_layers >= 1 or name modules")
        return self


class Lora(Section):
    """Low-rank updates beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    method: Literal["lora"]
    rank: Annotated[int, Field(ge=1)] = 16
    """Inner size r of the update B A."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The update is scaled by alpha/rank; null means 2 x rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of A; 0 saves memory and time."""
    targets: Literal["all_linear"] | tuple[str, ...] = "all_linear"
    """Names of linear layers, such as [q_proj, v_proj]; all_linear is every one but the head."""
    scaling: Literal["standard", "rslora"] = "standard"
    """alpha/rank, or alpha/sqrt(rank) (rsLoRA, arXiv:2312.03732)."""


Tuning = Annotated[Full | Freeze | Lora, Field(discriminator="method")]
TUNING_ALIASES: Mapping[str, Mapping[str, Any]] = {"rslora": {"method": "lora", "scaling": "rslora"}}

ObjectiveKind = Literal["sft", "pretrain"]


class BatchGrowth(Section):
    """Begin with small steps and grow (note 001, point 24)."""

    start_tokens: Annotated[int, Field(ge=1)]
    """batch_tokens of the first step."""
    over: Share = 0.5
    """Share of the run over which the batch grows, linearly, to optim.batch_tokens."""


class Optim(Section):
    """How weights move."""

    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak learning rate; auto takes the method's own."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After warm-up: cosine or linear to 10%, constant, or stable with a decay over the last fifth."""
    warmup: Annotated[Annotated[int, Field(ge=0)] | Share, Field(union_mode="left_to_right")] = 0.03
    """Steps, or share of the run, with a linearly rising rate."""
    batch_tokens: Annotated[int, Field(ge=1)] = 16384
    """Real, unpadded tokens a step; at least one row."""
    batch_growth: BatchGrowth | None = None
    """Smaller steps at the beginning."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null does not clip."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decay of matrices; norms, biases and embeddings do not decay."""
    optimizer: Literal["adamw"] = "adamw"
    """AdamW (arXiv:1711.05101), betas 0.9 and 0.95 for pretrain, 0.9 and 0.999 else."""


class Epochs(Section):
    """As many tokens as all sources hold, times `epochs`."""

    epochs: Annotated[float, Field(gt=0)]


class Steps(Section):
    """A number of optimiser steps."""

    steps: Annotated[int, Field(ge=1)]


class Tokens(Section):
    """A number of real tokens."""

    tokens: Annotated[int, Field(ge=1)]


Budget = Epochs | Steps | Tokens


class Compute(Section):
    """Where and how it is computed."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device has fast bf16 matrix units, else fp32."""
    checkpointing: Literal["auto", "off", "full"] = "auto"
    """Recompute activations in the backward pass; auto only if memory asks for it."""
    micro_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Tokens computed at once; changes memory and speed, never the result."""
    deterministic: bool = True
    """Same recipe, seed and machine give bit-identical weights."""


class Task(Section):
    """A scored task, done before and after training."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Its name in reports."""
    kind: Literal["choice", "generate", "loss"]
    """Multiple choice by log-likelihood, generation, or held-out loss."""
    path: str
    """File with the items."""
    metric: Literal["auto", "accuracy", "exact_match", "bleu", "chrf", "loss"] = "auto"
    """auto: accuracy, exact_match or loss by kind."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Solved examples before the question, the first of `path`, not scored."""
    group: Literal["domain", "general"] = "domain"
    """general tasks tell what was forgotten."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer of a generation."""
    limit: Count | None = None
    """Only the first N items."""


class Evaluation(Section):
    """What is measured, and when."""

    every: ShareOrCount = 0.1
    """Steps, or share of the run, between held-out losses."""
    tasks: tuple[Task, ...] = ()
    """Scored before and after."""
    probes: tuple[str, ...] = ()
    """Questions whose answers are kept, before and after."""
    early_stop: Count | None = None
    """Stop after so many held-out losses without a new best, and keep the best."""

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"task names must differ, got {names}")
        return tasks


class Checkpoint(Section):
    """When the run is saved, for resuming."""

    every: ShareOrCount = 0.1
    """Steps, or share of the run, between checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept, beside the best one where early_stop needs it."""


class Rescue(Section):
    """What happens when a step goes wrong."""

    max_bad_steps: Count = 5
    """Stop after so many steps in a row without a finite loss and gradient; each is skipped."""


class Sharding(Section):
    """Over which devices."""

    devices: Literal["auto", 1] = "auto"
    """One device for now."""


class Recipe(Section):
    """Everything a run needs to know; the one input."""

    model: Model
    """What is trained."""
    data: Data
    """What is learnt from."""
    tuning: Tuning = Lora(method="lora")
    """How it is changed."""
    objective: ObjectiveKind = "sft"
    """sft learns answers; pretrain learns every token."""
    optim: Optim = Optim()
    """How weights move."""
    budget: Budget = Epochs(epochs=1)
    """How long: {epochs: N}, {steps: N} or {tokens: N}."""
    compute: Compute = Compute()
    """Where and how it is computed."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    checkpoint: Checkpoint = Checkpoint()
    """When the run is saved."""
    rescue: Rescue = Rescue()
    """What happens when a step goes wrong."""
    sharding: Sharding = Sharding()
    """Over which devices."""
    track: tuple[Literal["tensorboard", "wandb", "trackio", "swanlab", "mlflow"], ...] = ()
    """Who else is told of the run; pip install 'tunesmith[track]' has them all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of every random choice."""
    output: str = "runs/my-first-run"
    """The run folder."""

    @field_validator("track", mode="before")
    @classmethod
    def _one_or_many_trackers(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("model", mode="before")
    @classmethod
    def _model_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("tuning", mode="before")
    @classmethod
    def _expand_alias(cls, value: Any) -> Any:
        value = {"method": value} if isinstance(value, str) else value
        if isinstance(value, dict) and value.get("method") in TUNING_ALIASES:
            return {**value, **TUNING_ALIASES[value["method"]]}
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _one_budget(cls, value: Any) -> Any:
        kinds: dict[str, type[Epochs | Steps | Tokens]] = {"epochs": Epochs, "steps": Steps, "tokens": Tokens}
        if not isinstance(value, dict):
            return value
        if len(value) != 1 or next(iter(value)) not in kinds:
            raise ValueError(
                f"needs exactly one of {', '.join(kinds)}, got {', '.join(map(str, value)) or 'nothing'}"
            )
        name = next(iter(value))
        return kinds[name].model_validate(value)

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_kind(cls, value: Any) -> Any:
        return value["kind"] if isinstance(value, dict) and set(value) == {"kind"} else value


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply key=value overrides, such as optim.lr=2e-4 (values are YAML).

    Raises RecipeError with every problem found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError.at(
            str(path), f"cannot be read: {error.strerror}", "give the path of a recipe file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError.at(str(path), "is not UTF-8 text", "save the recipe as UTF-8") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RecipeError.at(
            str(path), "is not a recipe: a mapping of keys is needed", "see the README for one"
        )
    return parse(values, where=str(path), overrides=overrides)


def _apply(values: dict[str, Any], override: str) -> Problem | None:
    """Set one dotted key in place. Returns what is wrong with the override, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return Problem(override, "is not an override", "write key=value, such as optim.lr=2e-4")
    *parents, last = key.split(".")
    here: dict[str, Any] = values
    for name in parents:
        inner = here.get(name)
        if isinstance(inner, str) and name in ("model", "tuning", "objective"):
            inner = {{"model": "path", "tuning": "method", "objective": "kind"}[name]: inner}
        here[name] = inner = inner if isinstance(inner, dict) else {}
        here = inner
    value = parse_yaml(text, key)
    if key == "tuning.method" and here.get("method") != value:
        here.clear()  # only the chosen method's fields exist
    if parents == ["budget"]:
        here.clear()
    here[last] = value
    return None


def parse(values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check plain values, after key=value overrides. Raises RecipeError with all problems at once."""
    chosen = copy.deepcopy(dict(values))
    misfits = [problem for override in overrides if (problem := _apply(chosen, override))]
    if misfits:
        raise RecipeError(misfits)
    try:
        return Recipe.model_validate(chosen)
    except ValidationError as error:
        raise RecipeError(problems(error, Recipe, where)) from error


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelt out, aliases expanded; load(dump(r)) == r."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def diff(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ: (dotted key, old, new)."""
    flat_old, flat_new = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    keys = list(dict.fromkeys([*flat_old, *flat_new]))
    return [(k, flat_old.get(k), flat_new.get(k)) for k in keys if flat_old.get(k) != flat_new.get(k)]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def steps_of(value: int | float, total: int) -> int:
    """A share or a count, as steps of a run of `total` steps; at least 1 unless it is 0."""
    return value if isinstance(value, int) else max(1, round(value * total))
