"""Find a model's config.json wherever the model is: a folder, a run folder, the hub, or in the recipe itself.

    path exists -> folder (a run folder leads to the model it trained)    else ORG/NAME -> hub, or its cache
Torch-free; nothing but small JSON files is read or fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith import hub
from tunesmith.errors import ModelError
from tunesmith.folder import RECIPES, RunFolder, is_run
from tunesmith.model.adapted import is_adapter, read_adapter
from tunesmith.model.run_recipe import recipe_of
from tunesmith.model.whole import require_whole
from tunesmith.recipe import Model

Kind = Literal["chat", "base", "unknown"]

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$|^[A-Za-z0-9][\w.-]*$")
_PICKLED = ("pytorch_model*.bin", "*.pth", "*.pt", "model*.ckpt", "*.pkl")
_CONVERT = (
    "convert it once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), "
    "in an environment you trust with these files, or use a repository with .safetensors"
)
_MOST_RUNS_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """A config's values, the name users know the model by, whether it was tuned to chat, and where it lies."""

    values: Mapping[str, Any]
    name: str
    kind: Kind
    source: str | None = None  # folder or hub id; None for a new model


def read_config(model: Model, _runs: int = 0) -> FoundConfig:
    """The config of a recipe's model. Raises ModelError naming the place and the way out."""
    if model.from_config is not None:
        return FoundConfig(_new_config(model), "model.from_config", "base")
    assert model.path is not None
    path = Path(model.path).expanduser()
    if is_run(path):
        return _of_run(RunFolder(path).last, model, _runs)
    if is_adapter(path):
        base = read_config(_next_base(read_adapter(model).base, runs=_runs, name=model.path), _runs + 1)
        return FoundConfig(base.values, model.path, base.kind)
    if path.is_dir():
        return _of_folder(path, model.path)
    if path.is_file():
        what, fix = "is a file, not a model folder", "give the folder that holds config.json"
        if path.suffix in RECIPES:
            what, fix = "is a recipe, not a model or a run", "give the run folder that its output: names"
        raise ModelError.at(model.path, what, fix)
    if not _HUB_ID.match(model.path) or ".." in model.path or model.path.startswith((".", "/", "~")):
        raise ModelError.at(
            model.path,
            "there is no such folder",
            "give an existing folder, or a hub id such as Qwen/Qwen2.5-0.5B",
        )
    return _of_hub(model.path, model.revision)


def _of_run(run: RunFolder, model: Model, runs: int) -> FoundConfig:
    """The model a run trained: its own folder after full tuning, else the base its recipe names."""
    if (run.model / "config.json").is_file():
        return _of_folder(run.model, str(run.path))
    if runs >= _MOST_RUNS_IN_A_ROW:
        raise ModelError.at(
            str(run.path), "its recipe leads back to itself", "correct model: in its recipe.yaml"
        )
    base = recipe_of(run).model
    return read_config(base.model_copy(update={"trust_remote_code": model.trust_remote_code}), runs + 1)


def _next_base(base: Model, *, runs: int, name: str) -> Model:
    if runs >= _MOST_RUNS_IN_A_ROW:
        raise ModelError.at(name, "its base leads back to itself", "correct base_model_name_or_path")
    return base


def _of_folder(path: Path, name: str) -> FoundConfig:
    """The config of a local folder, which must not hold pickled weights alone."""
    file = path / "config.json"
    if not file.is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ModelError.at(
            name,
            "is an adapter, not a model" if adapter else "has no config.json, so it is not a model folder",
            "give the base model it belongs to"
            if adapter
            else "give a folder with config.json and .safetensors",
        )
    values = _parse(file, name)
    if not any(path.glob("*.safetensors")) and any(any(path.glob(pattern)) for pattern in _PICKLED):
        raise _pickled(name)
    require_whole(path)
    return FoundConfig(values, name, _kind(str(path.resolve().name), _has_template(path)), str(path))


def _parse(file: Path, name: str) -> Mapping[str, Any]:
    """A JSON object of a file. Raises ModelError when it is broken."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError.at(
            f"{name}/{file.name}", f"is not valid JSON: {error}", "download the file again, or correct it"
        ) from error
    except OSError as error:
        raise ModelError.at(
            f"{name}/{file.name}", f"cannot be read: {error.strerror}", "make it readable"
        ) from error
    if not isinstance(values, dict):
        raise ModelError.at(f"{name}/{file.name}", "does not hold a JSON object", "download the file again")
    return values


def _pickled(name: str) -> ModelError:
    return ModelError.at(  # type: ignore[return-value]
        name, "has only pickled weights; loading those can run any code, so it is never done", _CONVERT
    )


def _has_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file():
        return True
    file = path / "tokenizer_config.json"
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _kind(name: str, template: bool | None) -> Kind:
    """Chat or base, from the name and the presence of a template; unknown where neither tells."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    if words & {"chat", "instruct", "it", "assistant", "sft", "dpo", "rlhf"}:
        return "chat"
    return "base" if "base" in words or template is False else "unknown"


# ---- hub ----


def _of_hub(repo: str, revision: str | None) -> FoundConfig:
    """The config of a hub repository, fetched or from the cache."""
    file = hub_file(repo, "config.json", revision)
    folder = file.parent
    cached = {entry.name for entry in folder.iterdir()}
    names = cached | _hub_names(repo, revision)
    weights = [n for n in names if Path(n).match("*.safetensors")]
    if not weights and any(Path(n).match(pattern) for n in names for pattern in _PICKLED):
        raise _pickled(repo)
    kind = _kind(repo.rpartition("/")[2], _has_template(folder) or None)
    return FoundConfig(_parse(file, repo), repo, kind, repo)


def hub_file(repo: str, name: str, revision: str | None) -> Path:
    """A small file of a hub repository. Raises ModelError within seconds when the hub cannot be reached."""
    from huggingface_hub import errors, hf_hub_download

    missing = "there is no such folder here, and no such repository on the hub (or it is private)"
    with hub.in_our_words(ModelError, repo, repo, missing, name):
        try:
            got = hf_hub_download(
                repo, name, revision=revision, etag_timeout=hub.ETAG_SECONDS, local_files_only=not hub.answers()
            )  # fmt: skip
            return Path(str(got))
        except errors.RevisionNotFoundError as error:
            what, fix = f"has no revision {revision!r}", "name a branch, tag or commit it has"
            raise ModelError.at(repo, what, fix) from error
        except errors.LocalEntryNotFoundError as error:
            raise ModelError.at(
                repo,
                f"is no folder here; the hub ({hub.endpoint()}) cannot be reached, and its cache here lacks it",
                "check the spelling and the connection (a mirror: HF_ENDPOINT=https://hf-mirror.com), or give a "
                "local folder",
            ) from error  # fmt: skip
        except errors.EntryNotFoundError as error:
            raise ModelError.at(repo, f"has no {name} on the hub", "use a transformers model") from error


def _hub_names(repo: str, revision: str | None) -> set[str]:
    """Files of the repository; empty when the hub does not tell."""
    from huggingface_hub import errors, model_info

    if not hub.answers():
        return set()
    try:
        return {
            s.rfilename for s in model_info(repo, revision=revision, timeout=hub.ETAG_SECONDS).siblings or ()
        }
    except (errors.HfHubHTTPError, OSError, ValueError):
        return set()


# ---- new models ----


def _new_config(model: Model) -> Mapping[str, Any]:
    """from_config's values, with the vocabulary of the tokenizer where none is given."""
    assert model.from_config is not None
    values = {"model_type": "llama", **model.from_config}
    if "vocab_size" not in values:
        values["vocab_size"] = _vocabulary(str(model.tokenizer))
    return values


def _vocabulary(tokenizer: str) -> int:
    """Ids a tokenizer may give, from its tokenizer.json."""
    path = Path(tokenizer).expanduser()
    if path.is_dir() or not _HUB_ID.match(tokenizer):
        file = path / "tokenizer.json"
        if not file.is_file():
            raise ModelError.at(
                tokenizer, "has no tokenizer.json", "give model.tokenizer a folder that holds one"
            )
    else:
        file = hub_file(tokenizer, "tokenizer.json", None)
    values = _parse(file, tokenizer)
    entries = values.get("model", {}).get("vocab", {})
    ids = list(entries.values()) if isinstance(entries, dict) else list(range(len(entries)))
    ids += [token["id"] for token in values.get("added_tokens", ())]
    if not ids:
        raise ModelError.at(f"{tokenizer}/tokenizer.json", "holds no vocabulary", "use a trained tokenizer")
    return max(ids) + 1
