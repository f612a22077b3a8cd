"""The parts of a recipe but its tuning: model, data, optimiser, budget, evaluation and the rest."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tunesmith.recipe.probes import read_probes
from tunesmith.recipe.section import Count, Section, Share, ShareOrCount
from tunesmith.recipe.stream import Stream, stream_fault

DataFormat = Literal[
    "messages", "sharegpt", "alpaca", "prompt_response", "history", "text", "preference", "kto", "choice"
]

# Values of data.template beside FILE.jinja; those after plain are files of data/templates.
TEMPLATES = ("auto", "plain", "chatml", "gemma", "glm4", "internlm2", "llama3", "mistral", "qwen", "qwen3")


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
            raise ValueError("says no model; give its path, or from_config together with tokenizer")
        if self.path is not None and self.from_config is not None:
            raise ValueError("has both path and from_config; keep one")
        return self


class Tags(Section):
    """Columns that say who speaks (age, sex, region, ..), put before the first question or the system turn."""

    columns: dict[str, str] = Field(min_length=1)
    """Which columns, and what each is called in the prompt: {age: Age}; a list takes their own names."""
    item: str = "{name}: {value}"
    """One tag."""
    between: str = ", "
    """What stands between tags; a row's empty and missing ones are left out."""
    template: str = "[{tags}]\n{prompt}"
    """All tags and the text they are put to."""
    place: Literal["question", "system"] = "question"
    """The first question, or the system turn (made where there is none)."""

    @model_validator(mode="before")
    @classmethod
    def _columns_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            value = {"columns": value}
        if isinstance(value, dict) and isinstance(value.get("columns"), str | list | tuple):
            names = [value["columns"]] if isinstance(value["columns"], str) else value["columns"]
            if all(isinstance(name, str) for name in names):  # anything else is told as what it is
                value = {**value, "columns": {name: name for name in names}}
        return value

    @field_validator("item", "template")
    @classmethod
    def _has_its_fields(cls, value: str, info: ValidationInfo) -> str:
        needed = ("{name}", "{value}") if info.field_name == "item" else ("{tags}", "{prompt}")
        missing = [
            name for name in (needed[1:] if info.field_name == "item" else needed) if name not in value
        ]
        if missing:
            raise ValueError(f"lacks {' and '.join(missing)}; put it where the text is to stand")
        return value


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
    tags: Tags | None = None
    """Columns that say who speaks; null takes data.tags."""
    quality: Literal["standard", "book", "paper", "manual", "news", "web", "forum"] | None = None
    """What the text is: a token of a book or standard counts as several of a web page, where no weight is given."""
    group: Literal["domain", "general"] = "domain"
    """What it is for: your own task, or general data against forgetting (data.mix.general_ratio)."""
    stream: Stream | None = None
    """true, or {at_end, window}: rows are learnt as they come, without an end being known; needs budget.steps.
    `path` may then also be a named pipe, - (standard input), or FILE.py:FUNCTION, which gives rows from a number on."""

    @field_validator("stream", mode="before")
    @classmethod
    def _yes_streams(cls, value: Any) -> Any:
        return {True: Stream(), False: None}[value] if isinstance(value, bool) else value


class Mix(Section):
    """How many tokens each source gives, beside its own weight."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    """Shares by tokens^(1/temperature): 1 by size, 2 by its square root, very large all alike. Instead of weights."""
    max_repeats: Annotated[float, Field(ge=1)] | None = None
    """Most passes over a source in the whole run; what it cannot give comes from the others, or the run ends."""
    general_ratio: Annotated[float, Field(gt=0)] | None = None
    """Tokens of the general group for each token of the domain group: 5 means 1:5."""


Part = Annotated[Count | Share | str | None, Field(union_mode="left_to_right")]


class Data(Section):
    """What is learnt from."""

    train: tuple[Source, ...] = Field(min_length=1)
    """A path, or a list of sources."""
    validation: Part = 0.05
    """Share of rows, number of rows, path, or null."""
    test: Part = None
    """Likewise; touched once, at the end."""
    template: str = "auto"
    """auto: the tokenizer's own chat template, else plain, which adds no special token. Or a NAME, or FILE.jinja."""
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
    mix: Mix = Mix()
    """How sources are mixed: by temperature, in a ratio of groups, and how often one may be repeated."""
    tags: Tags | None = None
    """Columns put into the prompt: [age, region], or {columns, item, between, template, place}."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The train sources, each with the tags that hold for it."""
        return tuple(
            source if source.tags or not self.tags else source.model_copy(update={"tags": self.tags})
            for source in self.train
        )

    @field_validator("train")
    @classmethod
    def _one_way_to_weigh(cls, train: tuple[Source, ...]) -> tuple[Source, ...]:
        if any(source.quality for source in train) and any(source.weight is not None for source in train):
            raise ValueError(
                "has both weight and quality, and a weight is a share by itself; keep one of them"
            )
        return train

    @field_validator("template")
    @classmethod
    def _template_exists(cls, value: str) -> str:
        if value in TEMPLATES or value.endswith(".jinja"):
            return value
        near = difflib.get_close_matches(value.lower(), TEMPLATES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"is no template: {value!r:.60}; {hint}there are {', '.join(TEMPLATES)}, and files named *.jinja"
        )

    @field_validator("mix", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any) -> Any:
        return Mix() if value is None else value

    @model_validator(mode="after")
    def _mix_suits_the_sources(self) -> Data:
        if self.mix.temperature is not None and any(source.weight is not None for source in self.train):
            raise ValueError("has both mix.temperature and weights of sources; keep one")
        groups = {source.group for source in self.train}
        if self.mix.general_ratio is not None and groups != {"domain", "general"}:
            lacking = ({"domain", "general"} - groups).pop()
            raise ValueError(
                f"has mix.general_ratio, but no source of the {lacking} group; write group: {lacking} at one"
            )
        held = (("validation", self.validation), ("test", self.test))
        if fault := stream_fault(self.train, held, self.limit, self.mix.temperature):
            raise ValueError(fault)
        return self

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple({"path": item} if isinstance(item, str) else item for item in items)


ObjectiveKind = Literal["sft", "pretrain"]


class BatchGrowth(Section):
    """Begin with small steps and grow (note 001, point 24)."""

    start_tokens: Annotated[int, Field(ge=1)]
    """batch_tokens of the first step."""
    over: Share = 0.5
    """Share of the run over which the batch grows, linearly, to optim.batch_tokens."""


OptimizerKind = Literal["adamw", "adamw_bf16", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]


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
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Times logsumexp(logits) squared, added to each learnt token's loss (arXiv:2204.02311; 1e-4 there): holds logits
    near 0 in long full training. The training loss shown contains it; evaluation's never does."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decay of matrices; norms, biases and embeddings do not decay."""
    optimizer: OptimizerKind = "adamw"
    """AdamW (arXiv:1711.05101), betas 0.9 and 0.95 for pretrain, 0.9 and 0.999 else; bf16 holds its moments in
    half of the memory, 8 bits in a quarter, paged ones leave the card when it is full (CUDA only)."""


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
    checkpointing: Annotated[
        Literal["auto", "off", "full"] | Count | Share, Field(union_mode="left_to_right")
    ] = "auto"
    """Recompute activations in the backward pass: off, full, or so many layers (a number or a share), the first that
    gradients reach; auto as few as memory asks for."""
    offload: Literal["none", "checkpoints"] = "none"
    """checkpoints: keep the inputs of recomputed layers in the main memory, copied beside the computing (CUDA only)."""
    trunk_cache: Literal["auto", "on", "off"] = "auto"
    """Compute the layers below the first that trains once, keep what they give on disk, and read it in each epoch;
    auto where that saves a tenth of the time."""
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
    tags: Tags | None = None
    """Columns that say who speaks; null takes data.tags."""


class Evaluation(Section):
    """What is measured, and when."""

    every: ShareOrCount = 0.1
    """Steps, or share of the run, between held-out losses."""
    tasks: tuple[Task, ...] = ()
    """Scored before and after."""
    probes: tuple[str, ...] = ()
    """Questions whose answers are kept, before and after: a list, or a YAML file that holds one."""
    early_stop: Count | None = None
    """Stop after so many held-out losses without a new best, and keep the best."""

    @field_validator("probes", mode="before")
    @classmethod
    def _read_from_a_file(cls, value: Any) -> Any:
        return read_probes(value) if isinstance(value, str) else value

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"has two tasks of one name: {', '.join(twice)}; give each a name of its own")
        return tasks


class Checkpoint(Section):
    """When the run is saved, for resuming."""

    every: ShareOrCount = 0.1
    """Steps, or share of the run, between checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept, beside the best one where early_stop needs it."""


class Rescue(Section):
    """What happens when a step goes wrong: skip it; then go back to a good checkpoint; then stop."""

    max_bad_steps: Count = 5
    """So many bad steps in a row, and the run goes back and leaves their rows out; fewer are skipped one by one."""
    rewinds: Annotated[int, Field(ge=0)] = 3
    """How often it goes back (with half the rate, where the loss has crept up) before it stops."""
    sigmas: Annotated[float, Field(gt=0)] | None = 6.0
    """A loss or gradient norm so many spreads above the median of the last steps is bad; null: only NaN is."""
    loss: Annotated[float, Field(gt=0)] | None = None
    """A loss above this many nats is bad."""
    grad_norm: Annotated[float, Field(gt=0)] | None = None
    """A gradient norm above this is bad."""
    stall_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """So long without a sign of life, and what hangs is named."""


class Sharding(Section):
    """Over which devices."""

    devices: Literal["auto", 1] = "auto"
    """One device for now."""
