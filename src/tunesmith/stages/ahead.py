"""What a stage will start from, while the stage before it has not been run: words and shapes, no weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.tuning.footprint import footprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate
    from tunesmith.model.facts import ModelFacts
    from tunesmith.recipe import Model, Recipe


@dataclass(frozen=True, slots=True)
class Ahead:
    """The model a stage will be given. `tables` holds the embedding as it will be; None where a stage changes it."""

    tokenizer: PreTrainedTokenizerFast
    facts: ModelFacts
    tables: Model | None

    def words(self, recipe: Recipe) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
        """The tokenizer and the template of a stage."""
        from tunesmith.data.template import ChatTemplate

        return self.tokenizer, ChatTemplate.of(self.tokenizer, recipe.data.template)

    def after(self, recipe: Recipe, template: ChatTemplate) -> Ahead:
        """The same behind a stage that trains: its template is kept with the tokenizer."""
        trains = footprint(recipe.tuning, self.facts)
        table = f"{self.facts.spelling.embedding}.weight"
        learnt = table in trains.names | trains.rows.keys()
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.chat_template = template.source
        facts = replace(self.facts, new_tokens=(), stored=None)  # handed over merged, in plain layers
        return Ahead(tokenizer, facts, None if learnt else self.tables)
