"""How fast two models write the same text: in turns, so that other work on the machine slows both alike.

tokens a second x characters a token = characters a second        before, after, before, after, ..  -> median and spread
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

REPEATS = 5


def decoding_speeds(
    models: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerFast]], text: str, repeats: int = REPEATS
) -> dict[str, dict[str, Any]]:
    """Of each model, by its name: characters a token of `text`, tokens a second, characters a second, with the spread.

    As many tokens as the text takes are decoded one by one, greedily, with a cache; a token costs the same
    whichever it is, so no model need know the text. On a processor its own time counts, shared among its threads.
    """
    import torch

    from tunesmith.model.generate import context_length, generate

    counts = {
        name: len(tok(text, add_special_tokens=False)["input_ids"]) for name, (_, tok) in models.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, (lm, _) in models.items():
            alone = lm.device.type == "cpu"
            clock, threads = (time.process_time, torch.get_num_threads()) if alone else (time.perf_counter, 1)
            tokens = max(1, min(counts[name], context_length(lm) - 2))
            began = clock()
            generate(lm, [[0]], tokens, (), 0)
            seconds = (clock() - began) / threads
            if turn:  # the first warms up
                rates[name].append(tokens / seconds)
    return {name: _figures(rates[name], len(text) / counts[name]) for name in models}


def _figures(rates: list[float], characters: float) -> dict[str, Any]:
    middle, ends = statistics.median(rates), (min(rates), max(rates))
    return {
        "characters_a_token": characters,
        "tokens_a_second": middle,
        "tokens_a_second_spread": list(ends),
        "tokens_a_second_runs": rates,
        "characters_a_second": characters * middle,
        "characters_a_second_spread": [characters * end for end in ends],
    }
