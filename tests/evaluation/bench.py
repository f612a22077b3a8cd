"""A tiny chat model with a byte tokenizer, and plain references to compare with."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model
from tunesmith.data.template import ChatTemplate

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHATML, merges: tuple[tuple[str, str], ...] = ()):
    """One token a byte (and a merge), and ChatML's two."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", additional_special_tokens=special
    )
    wrapped.chat_template = chat_template
    return wrapped


def bench(**changes):
    """(model, tokenizer, template)."""
    tokenizer = byte_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer), **{"max_position_embeddings": 1024, **changes})
    return model, tokenizer, ChatTemplate.of(tokenizer)


def next_log_shares(model, ids):
    """Log-probabilities after `ids`, by a plain forward pass."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    model.config._attn_implementation = before
    return torch.log_softmax(logits.double(), dim=-1)
