"""What a plan needs of a tokenizer, kept beside the prepared data: read again without transformers or torch.

files of the tokenizer's folder + versions + this code  ->  ~/.cache/tunesmith/words/KEY.json     rules, names, template

The rules are the library's own (`tokenizers`), as transformers hands them over; only what stands around them is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.cache import code_hash, read_document, remembered_hash
from tunesmith.folder import cache_root, write_atomically
from tunesmith.recipe import Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_READ = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "additional_chat_templates/*")
_KINDS = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True, slots=True)
class Said:
    """What stands around the rules, as transformers says it."""

    rules: str
    rules_hash: str
    special_tokens_map: Mapping[str, str]
    names: Mapping[str, str | None]
    ids: Mapping[str, int | None]
    all_special_ids: Sequence[int]
    added: Mapping[str, int]
    chat_template: str | None


@dataclass(frozen=True, slots=True)
class _Ids:
    input_ids: list[int]


class KnownTokenizer:
    """Speaks like a fast tokenizer of transformers, as far as templates, ledgers and plans ask."""

    def __init__(self, said: Said) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer: Tokenizer = Tokenizer.from_str(said.rules)
        self.rules_hash = said.rules_hash
        self.special_tokens_map = dict(said.special_tokens_map)
        self.all_special_ids = list(said.all_special_ids)
        self.chat_template = said.chat_template
        self._added = dict(said.added)
        for kind in _KINDS:
            setattr(self, f"{kind}_token", said.names[kind])
            setattr(self, f"{kind}_token_id", said.ids[kind])

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, text: str, add_special_tokens: bool = True) -> _Ids:
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        return _Ids(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def get_chat_template(self) -> str | None:
        """The one there is."""
        return self.chat_template

    def get_added_vocab(self) -> dict[str, int]:
        """Added tokens and their ids."""
        return dict(self._added)

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The spelling of one id, or of several."""
        spell = self.backend_tokenizer.id_to_token
        return spell(ids) if isinstance(ids, int) else [spell(int(one)) for one in ids]


def recall_tokenizer(model: Model) -> KnownTokenizer | None:
    """What was kept of the tokenizer that `model` names; None where nothing was, or its files are others by now."""
    file = _place(model)
    found = read_document(file) if file else None
    try:
        return KnownTokenizer(Said(**found)) if isinstance(found, dict) else None
    except Exception:  # a file that was spoilt, or rules of another library: read it anew
        return None


def keep_tokenizer(model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    """Keep it for the next process; not where it has several templates, or a place cannot be written."""
    file, template = _place(model), tokenizer.chat_template
    if file is None or not (template is None or isinstance(template, str)):
        return
    rules = tokenizer.backend_tokenizer.to_str()
    said = Said(
        rules=rules,
        rules_hash=hashlib.sha256(rules.encode()).hexdigest(),
        special_tokens_map=dict(tokenizer.special_tokens_map),
        names={kind: getattr(tokenizer, f"{kind}_token") for kind in _KINDS},
        ids={kind: getattr(tokenizer, f"{kind}_token_id") for kind in _KINDS},
        all_special_ids=[int(id) for id in tokenizer.all_special_ids],
        added=dict(tokenizer.get_added_vocab()),
        chat_template=template,
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(asdict(said), ensure_ascii=False))
    except (OSError, TypeError):
        return


def _place(model: Model) -> Path | None:
    """Where it would lie, by the content of every file that the tokenizer may be read from; None: it is not kept."""
    folder = _folder(model)
    if folder is None or model.trust_remote_code:  # code may say anything
        return None
    try:
        files = sorted({file for pattern in _READ for file in folder.glob(pattern) if file.is_file()})
        told = [
            (str(file.relative_to(folder)), remembered_hash(file, lambda file=file: _hash(file)))
            for file in files
        ]
        told += [(name, version(name)) for name in ("transformers", "tokenizers")]
        digest = hashlib.sha256(repr((told, code_hash("model"), str(folder))).encode()).hexdigest()
        return cache_root() / "words" / f"{digest[:32]}.json"
    except (OSError, RuntimeError):
        return None


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _folder(model: Model) -> Path | None:
    """The folder that the tokenizer is read from, where it is here."""
    name = model.tokenizer or model.path
    if name is None:
        return None
    if (path := Path(name).expanduser()).is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(
            name, "tokenizer.json", revision=None if model.tokenizer else model.revision
        )
    except ValueError:  # no name of a repository
        return None
    return Path(found).parent if isinstance(found, str) else None
