"""The tokenizer of whatever a recipe names as its model: a folder, a run, an adapter, or an adapter's base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.folder import is_run
from tunesmith.model.adapted import has_tokenizer, is_adapter, read_adapter
from tunesmith.model.run_recipe import trained_run
from tunesmith.model.trained import trained_folder
from tunesmith.recipe import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tokenizer_of(model: Model) -> PreTrainedTokenizerFast:
    """The tokenizer of a model section; a run keeps its own beside what it trained."""
    from tunesmith.model.load import load_tokenizer

    return load_tokenizer(_tokenizers(model))


def words_for_plan(model: Model) -> PreTrainedTokenizerFast:
    """The same for what trains nothing: as an earlier process kept it, where one did, without transformers."""
    from tunesmith.model.known_tokenizer import keep_tokenizer, recall_tokenizer

    named = _tokenizers(model)
    if (known := recall_tokenizer(named)) is not None:
        return known  # type: ignore[return-value]
    from tunesmith.model.load import load_tokenizer

    loaded = load_tokenizer(named)
    keep_tokenizer(named, loaded)
    return loaded


def _tokenizers(model: Model) -> Model:
    """The model section whose tokenizer it is: that of a run, of an adapter, or of an adapter's base."""
    if model.tokenizer is None and model.path is not None and is_run(model.path):
        return Model(path=str(trained_folder(trained_run(model.path))))
    if model.tokenizer is None and is_adapter(model.path):
        adapter = read_adapter(model)
        if not has_tokenizer(adapter.folder):
            return _tokenizers(adapter.base)
        return Model(path=str(adapter.folder), trust_remote_code=model.trust_remote_code)
    return model
