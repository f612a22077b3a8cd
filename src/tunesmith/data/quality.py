"""What a source is worth a token: books and standards hold more knowledge than web pages (note 001, point 4).

book 1,000 tokens, web 9,000 tokens  ->  weights 3,000 and 9,000: the book is read three times as often as its size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.recipe import Source

# How often a token is read against one of a web page. A guess of ours within what others use: GPT-3 (table 2.2)
# read Wikipedia 3.4 times and Books1 1.9 while it read Common Crawl 0.44 times; LLaMA (table 1) 2.5, 2.2 and 1.1.
WORTH: Mapping[str, float] = {
    "standard": 3.0,
    "book": 3.0,
    "paper": 2.5,
    "manual": 2.5,
    "news": 1.0,
    "web": 1.0,
    "forum": 0.5,
}


def source_weights(sources: Sequence[Source], tokens: Sequence[int]) -> tuple[float | None, ...]:
    """The share of tokens of each source against the others; None each where nothing was asked.

    A source with a quality weighs its tokens times their worth, one without as a web page does. No source
    has both kinds: the recipe refuses that.
    """
    if all(source.quality is None for source in sources):
        return tuple(source.weight for source in sources)
    return tuple(max(1, size) * WORTH[source.quality or "web"] for source, size in zip(sources, tokens))
