"""Proof that an exported model answers like the trained one: its logits, read from disk, on 32 probes.

trained model --logits--> reference --compare--> certificate.json {difference, KL, top-1 agreement, passed}
export folder --load, logits-----------^
fp32 passes at max |difference| <= 1e-4 max |logit|; bf16 at KL(trained || merged) <= 2 KL(fp32 || bf16).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tunesmith.data.records import Message
from tunesmith.errors import CertificateError, Problem
from tunesmith.export.staging import CERTIFICATE
from tunesmith.folder import RunFolder, is_run, write_json
from tunesmith.model.generate import context_length, last_logits, ready_to_answer

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.data.template import ChatTemplate

Dtype = Literal["fp32", "bf16"]

FILE = CERTIFICATE
LARGEST_SHARE = 1e-4
LARGEST_KL_RATIO = 2.0
POSITIONS = 16  # the last ones of each probe: what follows them is what a user would see

# Plain questions of many kinds; the user's own probes go before them.
PROBES = (
    "Hello!",
    "Who are you?",
    "What is the capital of France?",
    "Explain photosynthesis to a child in two sentences.",
    "What is 17 + 25?",
    "A train leaves at 9:40 and arrives at 11:05. How long is the ride?",
    "Write a short poem about the sea.",
    "Translate into Chinese: good morning, my friend.",
    "List three primary colours, separated by commas.",
    "def fibonacci(n):\n    ",
    "Turn this into JSON: name Ada, age 36.",
    "Summarise: The meeting was moved from Monday to Thursday because the room was taken.",
    "Is the following true or false? Water boils at 100 degrees Celsius at sea level.",
    "Correct the spelling: I recieved teh leter yesturday.",
    "What comes next: 2, 4, 8, 16, ...?",
    "Once upon a time",
    "Give me a recipe with eggs, flour and milk.",
    "Why is the sky blue?",
    "Sort these words: pear, apple, orange, fig.",
    "What should I do when I have a headache?",
    "你好！",
    "你是谁？",
    "中国的首都是哪里？",
    "请用一句话解释什么是机器学习。",
    "三加五等于几？",
    "把这句话翻译成英文：今天天气很好。",
    "写一首关于春天的短诗。",
    "水在多少度会沸腾？",
    "小明有十二个苹果，给了小红五个，还剩几个？",
    "请列出三种水果。",
    "头痛发烧应该怎么办？",
    "从前有一座山，山里有一座庙。",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two models are apart over all positions of all probes; the mean KL(first || second) in nats."""

    max_abs_logit_difference: float
    max_abs_logit: float
    kl_nats: float
    top1_agreement: float


def probe_ids(template: ChatTemplate, own: Sequence[str], limit: int) -> list[list[int]]:
    """32 prompts of the template; the user's own probes stand first, built-in ones fill up."""
    texts = [*own[: len(PROBES) // 2], *PROBES][: len(PROBES)]
    prompts = [list(template.prompt_ids((Message("user", text),))) for text in texts]
    return [prompt[-limit:] for prompt in prompts]


def probe_logits(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits at the last positions of each prompt, alone and without padding: Float[Tensor, "P V"] each."""
    with ready_to_answer(model):
        return [
            last_logits(model, [prompt], min(POSITIONS, len(prompt)), pad_id=0)[0].float().cpu()
            for prompt in prompts
        ]


def compare_logits(reference: Sequence[Tensor], other: Sequence[Tensor]) -> Difference:
    """How far `other` is from `reference`, in float64."""
    largest, scale, divergence, same, positions = 0.0, 0.0, 0.0, 0, 0
    for first, second in zip(reference, other, strict=True):
        if first.shape != second.shape:
            return Difference(float("inf"), float(first.abs().max()), float("inf"), 0.0)
        largest = max(largest, float((first - second).abs().max()))
        scale = max(scale, float(first.abs().max()))
        log_p, log_q = (torch.log_softmax(x.double(), dim=-1) for x in (first, second))
        divergence += float((log_p.exp() * (log_p - log_q)).sum())
        same += int((first.argmax(-1) == second.argmax(-1)).sum())
        positions += len(first)
    return Difference(largest, scale, max(0.0, divergence / positions), same / positions)


def threshold(dtype: Dtype, difference: Difference, rounding_kl_nats: float | None) -> dict[str, Any]:
    """The rule of a dtype: which measured number must stay within which limit."""
    if dtype == "fp32":
        limit = LARGEST_SHARE * difference.max_abs_logit
        return {
            "rule": "max |difference| <= 1e-4 max |logit|",
            "of": "max_abs_logit_difference",
            "limit": limit,
        }
    assert rounding_kl_nats is not None
    return {
        "rule": "KL(trained || merged) <= 2 KL(fp32 || bf16)",
        "of": "kl_nats",
        "limit": LARGEST_KL_RATIO * rounding_kl_nats,
        "rounding_kl_nats": rounding_kl_nats,
    }


def certificate(
    form: str,
    dtype: Dtype,
    difference: Difference,
    probes: int,
    hashes: Mapping[str, Mapping[str, str]],
    rounding_kl_nats: float | None = None,
    checks: Mapping[str, bool] | None = None,
    rendering: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contracted certificate. `hashes` are those of base and adapter, `checks` and `rendering` further promises."""
    value = {
        "schema": 1,
        "form": form,
        **{part: dict(files) for part, files in hashes.items()},
        "dtype": dtype,
        "probes": probes,
        "positions": POSITIONS,
        **asdict(difference),
        "threshold": threshold(dtype, difference, rounding_kl_nats),
        "checks": dict(checks or {}),
        **({} if rendering is None else {"rendering": dict(rendering)}),
    }
    return value | {"passed": not breaches(value)}


def breaches(value: Mapping[str, Any]) -> list[Problem]:
    """Every promise of a certificate that its own numbers do not keep; what is not a number keeps none."""
    rule, form = value["threshold"], value["form"]
    problems = []
    measured = value[rule["of"]]
    if not measured <= rule["limit"]:
        what = f"does not answer like the trained model: {measured:.3g}, the limit is {rule['limit']:.3g}"
        fix = "nothing was exported; please report this with your recipe"
        problems.append(Problem(form, f"{what} ({rule['rule']})", fix))
    failed = [name for name, held in value["checks"].items() if not held]
    problems += [Problem(form, f"a check failed: {name}", "nothing was exported") for name in failed]
    if not value.get("rendering", {"passed": True})["passed"]:
        told = "; ".join(value["rendering"]["differing"][:3]) or "nothing could be rendered"
        what = f"the saved tokenizer does not write what was trained on: {told}"
        problems.append(Problem(form, what, "nothing was exported; please report this with the template"))
    return problems


def write_certificate(folder: Path, value: dict[str, Any]) -> None:
    """Write certificate.json. Raises CertificateError with every promise that is broken."""
    if problems := breaches(value):
        raise CertificateError(problems)
    write_json(folder / FILE, value)


def weight_hashes(model: Path | None) -> dict[str, str]:
    """sha256 of each weight file of a model folder, run folder or cached hub id, by name; or none."""
    folder = _weights_of(model) if model is not None else None
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    return {file.name: file_sha256(file) for file in files}


def _weights_of(model: Path) -> Path | None:
    if is_run(model):
        run = RunFolder(model)
        return run.model if run.model.is_dir() else run.adapter
    if model.is_dir():
        return model
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.as_posix(), "config.json")
    return Path(found).parent if isinstance(found, str) else None


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_dtype(folder: Path) -> Dtype:
    """bf16 where a model's config says so, else fp32, which loses nothing."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "bf16" if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else "fp32"


def longest_probe(model: nn.Module) -> int:
    """Most tokens of a probe that the model can read."""
    return min(256, context_length(model))
