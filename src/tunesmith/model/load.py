"""Load tokenizers and weights from a folder, a hub id or a config; save them so that plain transformers loads them.

safetensors only: nothing is ever unpickled. Every fault is a ModelError that says how to mend it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Container, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import enable_progress_bars
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

from tunesmith.errors import ModelError, Problem
from tunesmith.kernels import attention
from tunesmith.kernels.processor import products_kept
from tunesmith.model import bitsandbytes_alone
from tunesmith.model.config import read_config
from tunesmith.model.families import own_forward_reason
from tunesmith.model.forward import decoder_layers
from tunesmith.model.lean import lean
from tunesmith.model.offload import offload_inputs
from tunesmith.model.quantised import Held, adopt, finite, wide_names
from tunesmith.model.stored import stored_kind
from tunesmith.model.tables import hold_tables
from tunesmith.recipe import Model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from tunesmith.data.template import ChatTemplate

# Progress is told by our own reporters; downloads from the hub keep the hub's bars.
logging.disable_progress_bar()
enable_progress_bars()

# oneDNN compiles a product for its shape, torch and it keep the last 1,024 of each. Read at the first product.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, str(products_kept()))

# A name transformers has no mask for: it then builds none, and our attention takes documents instead.
ALL_ATTENTION_FUNCTIONS.register(attention.NAME, attention.packed_attention)

# Where the text part of a model that also sees or hears keeps its weights, in files old and new.
TEXT_WEIGHTS = {r"^language_model\.lm_head": "lm_head", r"^(model\.)?language_model\.(model\.)?": "model."}
EDGE_BYTES = 1 << 20
SHARD_BYTES = 5_000_000_000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_tokenizer(model: Model) -> PreTrainedTokenizerFast:
    """The tokenizer of the recipe's model. Raises ModelError."""
    path = model.tokenizer or model.path
    assert path is not None
    if not Path(path).is_dir() or (Path(path) / "config.json").is_file():
        # A wrong name, or a broken config, is told in words; the hub's client would retry for most of a minute.
        read_config(Model(path=path, revision=None if model.tokenizer else model.revision))
    options: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    if model.tokenizer is None and model.revision:
        options["revision"] = model.revision
    with _said_plainly(path, "tokenizer"), _without_reports():
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError.at(
            path,
            f"{type(tokenizer).__name__} cannot tell where tokens stand in the text",
            "use a model with a tokenizer.json",
        )
    return _without_lists(tokenizer)


def _without_lists(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Let go of the words and merges that transformers' constructors keep and only they read: 63 MiB at 152,000 words.

    The rules themselves are the library's (`tokenizers`). A class that writes those lists, or is a hub's, keeps them.
    """
    kind = type(tokenizer)
    if kind.__module__.startswith("transformers.") and "save_vocabulary" not in vars(kind):
        for name in ("_vocab", "_merges"):
            vars(tokenizer).pop(name, None)
    return tokenizer


def load_model(
    model: Model, device: str, dtype: torch.dtype, seed: int = 0, held: Held | None = None
) -> PreTrainedModel:
    """The model with packed attention, in eval mode; `held` in 4 bits. `seed` is for a new one (from_config)."""
    if (
        device != "cpu"
    ):  # or what is freed stands in pieces that no larger request fits; read at its first use
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if model.from_config is not None:
        with _said_plainly("model.from_config", "config"), torch.random.fork_rng():
            torch.manual_seed(seed)
            config = _new_config(model.from_config)
            loaded = AutoModelForCausalLM.from_config(config, dtype=dtype, **_attention(config))
        return lean(without_dropout(loaded)).to(device).eval()
    assert model.path is not None
    code: dict[str, Any] = {
        "trust_remote_code": model.trust_remote_code,
        "revision": model.revision or "main",
    }
    with _said_plainly(model.path, "weights"), _without_reports():
        config = AutoConfig.from_pretrained(model.path, **code)
        text = config.get_text_config(decoder=True)
        found: Any = AutoModelForCausalLM.from_pretrained(
            model.path,
            config=text,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
            **code,
            **_attention(text, model.trust_remote_code),
            **({} if text is config else {"key_mapping": TEXT_WEIGHTS}),
            **_storage(text, model, device, dtype, held),
        )
    loaded, info = found
    _require_all(model.path, info)
    bad = next((name for name, p in loaded.named_parameters() if not finite(p)), None)
    if bad:
        raise ModelError.at(
            model.path, f"{bad} holds values that are not finite", "use weights that are whole"
        )
    if held is not None:
        hold_tables(loaded, held.tables)
    if getattr(loaded, "is_quantized", False):
        adopt(loaded)
    loaded.to(dtype)  # what stays wide
    return lean(without_dropout(loaded)).to(device).eval()


def _require_all(path: str, info: dict[str, Any]) -> None:
    """ModelError with the weights that the files lack, or hold in another shape than the config says."""
    shapes = {
        name: f"{tuple(held)} where {tuple(built)} is due" for name, held, built in info["mismatched_keys"]
    }
    found = [
        (sorted(set(info["missing_keys"]) - shapes.keys()), "weights are missing", "download the folder again, whole"),
        ([f"{name} is {shape}" for name, shape in sorted(shapes.items())], "weights do not fit config.json",
         "use the config.json that belongs to these weights"),
    ]  # fmt: skip
    problems = [
        Problem(
            path, f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}", fix
        )
        for names, what, fix in found
        if names
    ]
    if problems:
        raise ModelError(problems)


def _storage(
    text: PretrainedConfig, model: Model, device: str, dtype: torch.dtype, held: Held | None
) -> dict[str, Any]:
    """How transformers stores what it loads. In few bits: tensor after tensor, from the numbers of the file.

    Never from numbers rounded to `dtype` first: the same base must come out in training and, in fp32, at export.
    """
    kind = stored_kind(text.to_dict(), str(model.path))
    if kind or held is not None:
        bitsandbytes_alone.load()
    if kind:
        return {"dtype": "auto", "device_map": {"": device}}
    if held is None:
        return {"dtype": dtype}
    if held.kind is None:
        return {"dtype": "auto"}
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            text, trust_remote_code=model.trust_remote_code, **_attention(text, model.trust_remote_code)
        )
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=held.kind,
        bnb_4bit_use_double_quant=held.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=wide_names(empty, held.wide),
    )
    return {"dtype": "auto", "device_map": {"": device}, "quantization_config": quantisation}


def _attention(config: PretrainedConfig, remote_code: bool = False) -> dict[str, Any]:
    """Ours where the family is known; else what transformers chooses."""
    own = own_forward_reason(config.to_dict(), remote_code)
    return {} if own else {"attn_implementation": attention.NAME}


def without_dropout(lm: PreTrainedModel) -> PreTrainedModel:
    """Fine-tuning adds no noise of the base's pre-training (GPT-2, OPT, Phi); the config that is saved keeps it.

    Whether a rate stands in a layer for dropout, in an attribute that is read at each call, or in the config.
    """
    still = deepcopy(lm.config)
    for name in _rates(still):
        setattr(still, name, 0.0)
    each: Any
    for each in lm.modules():
        if isinstance(each, _DropoutNd):
            each.p = 0.0
        for name in _rates(each):
            setattr(each, name, 0.0)
        if each is not lm and getattr(each, "config", None) is lm.config:
            each.config = still
    return lm


def _rates(holder: object) -> list[str]:
    """Names of its rates of dropout: attention_dropout, dropout, layerdrop, attn_pdrop, ..."""
    return [name for name, value in vars(holder).items() if "drop" in name and isinstance(value, float)]


def _new_config(values: dict[str, Any]) -> PretrainedConfig:
    """Config of a new model: a decoder with pre-RMSNorm, SwiGLU, RoPE and no biases (note 001, point 24)."""
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type", "llama"), **values)


@contextlib.contextmanager
def _said_plainly(path: str, part: str) -> Iterator[None]:
    """Turn what transformers and safetensors raise into a ModelError with a way out."""
    try:
        yield
    except ModelError:
        raise
    except StrictDataclassError as error:
        where = f"{path}/config.json" if Path(path).is_dir() else path
        raise ModelError.at(
            where, f"contradicts itself: {error.__cause__ or error}"[:300], "correct it, or copy it again"
        ) from error
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        if first.startswith("Couldn't instantiate the backend tokenizer"):
            first = "there is no tokenizer.json, nor another file that one can be made of"
        fix = "give a folder with config.json, safetensors weights and tokenizer.json, or a hub id that can be reached"
        if (
            Path(path).is_dir()
            and not any(Path(path).glob("*.safetensors"))
            and any(Path(path).glob("*.bin"))
        ):
            fix = "weights are pickled (.bin): convert them with transformers' save_pretrained to safetensors first"
        raise ModelError.at(path, f"the {part} cannot be loaded: {first[:300]}", fix) from error


@contextlib.contextmanager
def _without_reports() -> Iterator[None]:
    """transformers prints tables of keys and warnings about configs; what matters of them is raised by us."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def checkpoint_layers(
    lm: PreTrainedModel, chosen: Container[int] | None = None, offload: bool = False
) -> None:
    """Keep only a layer's input and recompute the rest in the backward pass, while the model trains.

    chosen: numbers of the decoder layers; None: all. A model whose layers cannot be told apart recomputes all.
    offload: the inputs are kept on the host.
    """
    # non-reentrant: gradients reach adapters though no input of the first layer needs one
    if hasattr(lm, "activation_checkpointing_enable"):  # transformers >= 5.21
        lm.activation_checkpointing_enable({"use_reentrant": False})
    else:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    # transformers makes the embedding's output need a gradient, which only the reentrant form asks for: frozen
    # layers below the first that trains would be recomputed and gone through backward for nothing
    lm.disable_input_require_grads()
    for index, layer in enumerate(decoder_layers(lm)[1]):
        if chosen is not None and hasattr(layer, "gradient_checkpointing"):
            setattr(layer, "gradient_checkpointing", index in chosen)  # noqa: B010
    if offload:
        offload_inputs(lm)


@contextlib.contextmanager
def generation_attention(lm: PreTrainedModel) -> Iterator[None]:
    """Within: attention that knows a key-value cache and left padding; after: packed attention again."""
    # the layers' config is not the model's own (without_dropout); transformers before 5.20 would set the latter alone
    found = [lm.config, *(getattr(module, "config", None) for module in lm.modules())]
    ours: list[Any] = [c for c in found if getattr(c, "_attn_implementation", None) == attention.NAME]
    for config in ours:
        config._attn_implementation = "sdpa" if lm._supports_sdpa else "eager"
    try:
        yield
    finally:
        for config in ours:
            config._attn_implementation = attention.NAME


def save_model(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Save weights, tokenizer, template and generation config so that plain transformers answers likewise.

    The weights are rounded to `dtype`, once, and the model stays so: what is measured next is what was saved.
    The template's stop joins eos_token_id.
    """
    lm.to(dtype)  # type: ignore[arg-type]
    known = lm.generation_config.eos_token_id
    stops = template.generation_eos([] if known is None else known if isinstance(known, list) else [known])
    lm.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops
    lm.save_pretrained(folder, max_shard_size=SHARD_BYTES)
    save_tokenizer(tokenizer, template, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, template: ChatTemplate, folder: Path) -> None:
    """Save the tokenizer with the template that was trained with, so that every tool renders the same tokens."""
    before = tokenizer.chat_template
    tokenizer.chat_template = template.source
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = before


def fingerprint(model: Model) -> str:
    """A hash that changes with the weights: config whole; of each weight file its name, size and both ends."""
    digest = hashlib.sha256(repr((model.path, model.revision, model.from_config)).encode())
    for path in sorted(Path(model.path or "").glob("*")) if model.path and Path(model.path).is_dir() else []:
        if path.suffix not in (".json", ".safetensors"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with open(path, "rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
