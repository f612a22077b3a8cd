"""Put an adapter folder on a plain transformers model, whichever method made it: `tunesmith.load_adapter`.

tunesmith_adapter.json -> by its kind (saved.py)      adapter_config.json -> PEFT, or our form of what PEFT's breaks
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import tunesmith.tuning.peft_alone  # noqa: F401 (first)
from tunesmith.errors import ModelError
from tunesmith.model.adapted import CONFIG
from tunesmith.model.forward import causal_lm
from tunesmith.recipe import BitFit, Prompt, PTuningV2, Tuned
from tunesmith.tuning import also, bottleneck, full, saved
from tunesmith.tuning.bitfit import put_biases
from tunesmith.tuning.bottleneck import attach_adapters
from tunesmith.tuning.build import build
from tunesmith.tuning.peft_methods import attach_adapter
from tunesmith.tuning.precision import narrow

Attach = Callable[[Any, Path], nn.Module]
_KINDS: Mapping[str, Attach] = {
    full.KIND: lambda lm, folder: put_biases(lm, folder, dict(saved.read(folder).tensors)),
    bottleneck.KIND: attach_adapters,
    also.KIND: lambda lm, folder: lm,
}
# PEFT's form of prompts drops positions and breaks left padding; its biases need a wrapper each.
_OURS: Mapping[str, Tuned] = {
    "PROMPT_TUNING": Prompt(method="prompt"),
    "P_TUNING": Prompt(method="prompt"),
    "PREFIX_TUNING": PTuningV2(method="p_tuning_v2"),
    "BEFT": BitFit(method="bitfit", add_biases=True),
}


def load_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """The model with the adapter on it; `model` itself is changed. Raises ModelError where it does not fit.

    What takes the place of the model's own weights takes their precision, so that plain `generate` runs.
    """
    path = Path(folder)
    before = {name: parameter.dtype for name, parameter in model.named_parameters()}
    if not any((path / name).is_file() for name in (saved.INFO, CONFIG)):
        what = f"holds neither {saved.INFO} nor {CONFIG}"
        raise ModelError.at(str(folder), what, "give the folder of an adapter, such as RUN/adapter")
    found = model
    if (path / CONFIG).is_file():
        kind = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("peft_type")
        ours: Any = _OURS.get(str(kind))
        found = build(ours).attach(found, path) if ours else attach_adapter(found, path)
    if (path / saved.INFO).is_file():
        kind = saved.read(path).kind
        if kind not in _KINDS:
            what = f"is an adapter of a kind that is not known here ({kind})"
            raise ModelError.at(str(folder), what, "use the version of tunesmith that wrote it")
        found = _KINDS[kind](found, path)
    also.unwrap(found)
    also.put_beside(causal_lm(found), path)
    narrow(found)
    for name, parameter in causal_lm(found).named_parameters():
        same = before.get(name, before.get(f"{name.removesuffix('.bias')}.weight"))
        if same is not None and same.is_floating_point:
            parameter.data = parameter.data.to(same)
    return found.eval()
