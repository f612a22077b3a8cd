"""Whether the parts of a recipe suit each other, the model, the device and the data; told before a weight is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import DoesNotFitError, ModelError, Problem, RecipeError
from tunesmith.recipe import Full, GaLore, Recipe
from tunesmith.tracking.start import require
from tunesmith.tuning.lengths import length_problems
from tunesmith.tuning.storage import base_problems, offload_problems, optimizer_problems
from tunesmith.tuning.table import capability_problems

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.prepare import Prepared
    from tunesmith.folder import RunFolder
    from tunesmith.model.facts import ModelFacts
    from tunesmith.plan.device import Device
    from tunesmith.plan.forecast import Plan


def require_suited_parts(recipe: Recipe) -> None:
    """What no section can see by itself. Raises RecipeError."""
    require(recipe.track)
    problems = []
    if recipe.model.from_config is not None and not isinstance(recipe.tuning, Full | GaLore):
        what = "a new model (from_config) has nothing worth freezing"
        problems.append(Problem("tuning.method", what, "set tuning: {method: full}"))
    if recipe.model.dtype == "bf16" and recipe.compute.precision == "fp32":
        what = "bf16 weights cannot be computed with in fp32"
        problems.append(Problem("model.dtype", what, "set compute.precision: bf16, or model.dtype: auto"))
    if isinstance(recipe.tuning, GaLore) and recipe.optim.optimizer != "adamw":
        what = "galore brings an AdamW of its own, whose moments are small already"
        problems.append(Problem("optim.optimizer", what, "leave it out, or use tuning: {method: full}"))
    if recipe.compute.offload == "checkpoints" and recipe.compute.checkpointing == "off":
        what = "the inputs of recomputed layers would be kept in the main memory, and no layer is recomputed"
        problems.append(Problem("compute.offload", what, "set compute.checkpointing: auto or full"))
    if recipe.evaluation.early_stop and recipe.data.validation is None:
        what = "there is no validation set to stop by"
        problems.append(Problem("evaluation.early_stop", what, "set data.validation: 0.05"))
    if problems:
        raise RecipeError(problems)


def require_suited_model(recipe: Recipe, facts: ModelFacts, device: Device) -> None:
    """What the method, its base and the optimiser can do on this model and device. Raises RecipeError."""
    problems = capability_problems(recipe.tuning, facts) + base_problems(recipe.tuning, facts)
    problems += optimizer_problems(recipe.optim.optimizer, device.kind)
    if problems := problems + offload_problems(recipe.compute.offload, device.kind):
        raise RecipeError(problems)


def require_suited_length(recipe: Recipe, steps: int) -> None:
    """Whether the run is long enough for its method. Raises RecipeError."""
    if problems := length_problems(recipe.tuning, steps):
        raise RecipeError(problems)


def require_suited_ids(
    data: Prepared, tokenizer: PreTrainedTokenizerFast, facts: ModelFacts, virtual: int = 0
) -> None:
    """Every token must have a row in the embedding, and every place one in a table of learnt positions."""
    for source in data.train:
        require_rows_for(source.ids(), tokenizer, facts)
    room = (facts.max_positions or 0) - virtual
    if facts.spelling.positions and facts.max_positions and data.longest > room:
        taken = f", {virtual} of them for virtual tokens" if virtual else ""
        what = (
            f"a sample has {data.longest} tokens, the model has learnt {facts.max_positions} positions{taken}"
        )
        raise ModelError.at("data.max_length", what, f"set data.max_length: {room}")


def require_rows_for(ids: ndarray, tokenizer: PreTrainedTokenizerFast, facts: ModelFacts) -> None:
    """Every one of these tokens must have a row in the embedding. Raises ModelError."""
    if (largest := int(ids.max(initial=0))) >= facts.vocab_size:
        token = tokenizer.convert_ids_to_tokens(largest)
        what = f"token {token!r} has id {largest}, the model's embedding has {facts.vocab_size} rows"
        raise ModelError.at("model.tokenizer", what, "use the tokenizer the model was made with")


def require_room(plan: Plan, folder: RunFolder) -> None:
    """Whether memory and disk hold what the plan forecasts. Raises DoesNotFitError or DiskFullError."""
    if not plan.fits:
        raise DoesNotFitError.at("plan", plan.shortage, plan.way_out)
    folder.require_space(plan.disk_bytes)
