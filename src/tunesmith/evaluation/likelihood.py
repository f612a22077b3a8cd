"""How likely a model finds texts: nats of each text in all, by the loss that training uses.

("他高兴地说。", "他高兴的说。")  ->  (41.2, 46.9)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.data.records import Text
from tunesmith.data.render import Drop, render
from tunesmith.data.samples import collect, to_sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate

MAX_TOKENS = 512


def scorer(
    model: Any, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate, micro_tokens: int
) -> Callable[[Sequence[str]], list[float]]:
    """A function from texts to nats; of a text longer than 512 tokens only its beginning counts."""

    def score(texts: Sequence[str]) -> list[float]:
        from tunesmith.evaluation.heldout import held_out_loss

        samples, of = [], []
        for number, text in enumerate(texts):
            result = render(Text(text), f"text:{number}", template, "pretrain", MAX_TOKENS, "split")
            if not isinstance(result, Drop) and result.renderings[0].learnt[1:].any():
                samples.append(to_sample(result.renderings[0]))
                of.append(number)
        nats = [0.0] * len(texts)
        if samples:
            found = held_out_loss(model, collect(samples), micro_tokens, tokenizer)
            for number, value in zip(of, found.nats):
                nats[number] = value
        return nats

    return score
