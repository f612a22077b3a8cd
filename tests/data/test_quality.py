"""Books and standards are read more often than web pages of the same size."""

from __future__ import annotations

import pytest

from tunesmith.data.quality import source_weights
from tunesmith.errors import RecipeError
from tunesmith.recipe import Source, parse

BOOK, WEB, PLAIN = Source(path="b", quality="book"), Source(path="w", quality="web"), Source(path="p")


# mutation tried: sizes left out of source_weights
def test_a_token_of_a_book_is_read_three_times_as_often_as_one_of_a_web_page() -> None:
    book, web = source_weights([BOOK, WEB], [1000, 9000])
    assert book is not None
    assert web is not None
    assert book / 1000 == pytest.approx(3 * web / 9000)


def test_without_qualities_weights_are_as_given() -> None:
    assert source_weights([PLAIN, Source(path="x", weight=2)], [5, 5]) == (None, 2.0)
    assert source_weights([BOOK, PLAIN], [10, 10]) == (30.0, 10.0)


def test_weight_and_quality_together_are_refused() -> None:
    with pytest.raises(RecipeError, match="both weight and quality"):
        parse({"model": "x", "data": {"train": [{"path": "a", "quality": "book", "weight": 2}]}})
