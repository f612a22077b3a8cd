"""One plain model out of base and adapter: folded in fp32, rounded once, saved, read back and certified.

open(fp32) --logits--> reference          W' = round(W + delta)
           --merge---> save --load with plain transformers--> logits --> certificate.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.errors import CertificateError
from tunesmith.events import Reporter, Silent
from tunesmith.export.certificate import (
    FILE,
    PROBES,
    Dtype,
    certificate,
    compare_logits,
    longest_probe,
    probe_ids,
    probe_logits,
    weight_hashes,
    write_certificate,
)
from tunesmith.export.rendering import prove_rendering
from tunesmith.export.staging import staged
from tunesmith.model.load import DTYPES, save_model
from tunesmith.model.quantised import has_quantised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run trained, and how to open it; `base` and `trained` are the folders of its weights.

    Of a base held in 4 bits, `onto` tells what is merged into: "dequantised", where `fold` opens the twin of `open`
    in plain layers (a 4-bit layer is never merged into); or "original", where `open` has the weights from before
    and `as_trained` opens what was trained. So it does where embedding and head were held in `tables` bits: what is
    handed over has them as they were before.
    """

    open: Callable[[torch.dtype], nn.Module]
    merge: Callable[[nn.Module], nn.Module]
    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    base: Path | None
    trained: Path
    fold: Callable[[], nn.Module] | None = None
    as_trained: Callable[[torch.dtype], nn.Module] | None = None
    onto: str | None = None
    tables: int = 16
    parts: Mapping[str, Path] = field(default_factory=dict)  # of a sum of adapters, each by name

    def hashes(self) -> dict[str, dict[str, str]]:
        """sha256 of the weight files of base and adapter."""
        each = {name: weight_hashes(folder) for name, folder in self.parts.items()}
        adapter = {f"{name}/{file}": digest for name, files in each.items() for file, digest in files.items()}
        return {"base": weight_hashes(self.base), "adapter": adapter or weight_hashes(self.trained)}


def export_merged(
    trained: Trained,
    destination: Path,
    dtype: Dtype,
    probes: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write a folder that plain transformers loads, and return its certificate.

    Raises CertificateError, and leaves nothing behind, when the folder read back answers otherwise.
    One model is in memory at a time.
    """
    reporter = reporter or Silent()
    with staged(destination, FILE) as stage:
        reporter.progress("merging", 0, 3)
        model = trained.open(torch.float32)
        prompts = probe_ids(trained.template, probes, longest_probe(model))
        exact, device = probe_logits(model, prompts), next(model.parameters()).device
        # rounded here, once: transformers writes the parameters' own dtype into config.json
        if trained.fold is not None:
            del model
            model = trained.fold()
        assert not has_quantised(model), "merging into 4 bits would round the update away"
        lm: Any = trained.merge(model).to(DTYPES[dtype])
        save_model(lm, trained.tokenizer, trained.template, stage, DTYPES[dtype])
        del model, lm
        reporter.progress("merging", 1, 3)
        served = exact if dtype == "fp32" else probe_logits(trained.open(DTYPES[dtype]), prompts)
        reporter.progress("merging", 2, 3)
        merged = _read_back(stage, DTYPES[dtype], device, prompts)
        value = certificate(
            "merged",
            dtype,
            compare_logits(served, merged),
            len(prompts),
            trained.hashes(),
            compare_logits(exact, served).kl_nats,
            text_checks(trained, stage),
            prove_rendering(trained.template, stage).to_json(),
        )
        if trained.onto:
            value["onto"] = trained.onto
        if trained.tables != 16:
            value["tables"] = {"bits_in_training": trained.tables, "merged": "original"}
        if trained.as_trained is not None and (trained.onto == "original" or trained.tables != 16):
            told = probe_logits(trained.as_trained(DTYPES[dtype]), prompts)
            value["against_as_trained"] = asdict(compare_logits(told, merged))
        write_certificate(stage, value)
        reporter.progress("merging", 3, 3)
    return value


def _read_back(
    folder: Path, dtype: torch.dtype, device: torch.device, prompts: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Logits of the folder as anyone would load it."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    model, info = loaded
    if info["missing_keys"] or info["unexpected_keys"]:
        names = sorted([*info["missing_keys"], *info["unexpected_keys"]])[:5]
        raise CertificateError.at(
            "merged", f"tensors are missing or too many: {', '.join(names)}", "nothing was exported"
        )
    return probe_logits(model.to(device).eval(), prompts)


def text_checks(trained: Trained, folder: Path) -> dict[str, bool]:
    """Whether the saved tokenizer, template and stop token are those of training."""
    from transformers import AutoTokenizer, GenerationConfig

    again = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": PROBES[2]}, {"role": "assistant", "content": "Paris."}]
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    before = trained.tokenizer.apply_chat_template(
        turns, tokenize=False, chat_template=trained.template.source
    )
    return {
        "same token ids": all(again(t)["input_ids"] == trained.tokenizer(t)["input_ids"] for t in PROBES),
        "same chat template": again.apply_chat_template(turns, tokenize=False) == before,
        "stop token ends generation": trained.template.stop_id
        in (stops if isinstance(stops, list) else [stops]),
    }
