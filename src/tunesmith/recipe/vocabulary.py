"""The `vocabulary` of a stage: which text new tokens are learnt from, how many there may be, how their rows begin."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tunesmith.recipe.section import Count, Section, Share
from tunesmith.recipe.sections import Source


class Vocabulary(Section):
    """Tokens added to a tokenizer, so that the same text takes fewer of them."""

    data: tuple[Source, ...] = ()
    """Text to learn tokens from: a path, or a list of sources. As a stage, null takes what the next stage learns."""
    tokens: Count | Literal["auto"] = "auto"
    """How many; auto adds as long as the next thousand shorten held-out text by min_gain."""
    most: Count = 8192
    """auto never adds more."""
    min_gain: Share = 0.01
    """Share of held-out tokens that a thousand more new tokens must save."""
    min_count: Annotated[int, Field(ge=2)] = 20
    """A token must stand so often in the text, or its row would hardly be trained."""
    held_out: Share = 0.05
    """Share of the documents that no token is learnt from; gains are measured on them."""
    init: Literal["mean", "random"] = "mean"
    """New rows: the mean of the tokens they replace, or random, for comparison."""
    multiple: Count = 64
    """Rows of the tables are filled up to a multiple of this."""

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return tuple({"path": item} if isinstance(item, str) else item for item in items)
