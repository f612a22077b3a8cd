"""The template of base models that have none: roles as plain words, no new special token.

User:\\nWhat is 2+2?\\nAssistant:\\n4</s>\\n
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Written with variables, so that a saved tokenizer renders it in any tool. New special tokens would be
# untrained rows of the embedding (note 003): roles are words that every base model has read.
_SOURCE = (
    "{BOS}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User:LINE' + message['content'] + 'LINE' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant:LINE' + message['content'] + eos_token + 'LINE' }}"
    "{% else %}{{ message['content'] + 'LINELINE' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:LINE' }}{% endif %}"
)


def plain_source(tokenizer: PreTrainedTokenizerFast) -> str:
    """The plain template as Jinja. Raises TemplateError where the tokenizer has no EOS to stop with."""
    if tokenizer.eos_token is None:
        raise TemplateError.at(
            "tokenizer",
            "has no EOS token, so an answer could never end",
            'name an existing token: "eos_token" in tokenizer_config.json',
        )
    line = "\\n" if _writes_lines(tokenizer) else " "
    bos = "{{ bos_token }}" if adds_bos(tokenizer) else ""
    return _SOURCE.replace("{BOS}", bos).replace("LINE", line)


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer by itself begins a text with its BOS."""
    if tokenizer.bos_token_id is None:
        return False
    ids = tokenizer("a").input_ids
    return bool(ids and ids[0] == tokenizer.bos_token_id)


def _writes_lines(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a line break is in the vocabulary (it is not in that of some character models)."""
    ids = tokenizer("\n", add_special_tokens=False).input_ids
    return bool(ids) and tokenizer.unk_token_id not in ids
