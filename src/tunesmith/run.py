"""READ FIRST. The whole way on one page: recipe -> data -> model -> engine -> report.

prepare   tokenizer, template, exact tokens, ledger, facts, plan     nothing heavy is loaded
train     evaluate -> tune -> fit -> save -> evaluate -> report      one run folder
open_model                                                           a run, a folder or a hub id, ready to answer
evaluate · answer · export                                           on what open_model gives
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import FolderError, Interrupted, Problem, TunesmithError
from tunesmith.events import Failed, Finished, Recording, Reporter, Silent
from tunesmith.folder import RunFolder, is_run, open_run, read_json, write_atomically, write_json
from tunesmith.recipe import Model, Recipe, diff, dump, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tunesmith.data.loader import StepPlan
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.records import Message
    from tunesmith.data.template import ChatTemplate
    from tunesmith.evaluation.scores import Evaluated
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.device import Device
    from tunesmith.plan.forecast import Plan


@dataclass(frozen=True, slots=True)
class Work:
    """Everything known before a weight is loaded."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    data: Prepared
    facts: ModelFacts
    device: Device
    steps: StepPlan
    plan: Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `train` tells: the contracted JSON of the verb."""

    run: str
    status: str
    steps: int
    report: str
