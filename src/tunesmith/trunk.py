"""Frozen layers computed once: filled before the first step, read by every step, out of memory meanwhile.

tuned model + rows --fill--> states on disk --rows that bring them--> the engine
                    weights of the trunk: let go of ------------------> taken back for what is saved and measured after
Whatever stands in the way is told, and the run goes on computing them every time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.engine.faults import visit
from tunesmith.errors import DataError, DoesNotFitError, ModelError
from tunesmith.events import Reporter, Rescued
from tunesmith.work import Work, base_of, fit_to_data

if TYPE_CHECKING:
    from numpy import ndarray

    from tunesmith.data.samples import Sample, SampleSet
    from tunesmith.data.states import Compute, Made, States
    from tunesmith.engine.progress import FitResult
    from tunesmith.engine.store import CheckpointStore
    from tunesmith.tuning.method import Method, TunedModel

WHERE = "compute.trunk_cache"
WHAT = "computing the frozen layers once"


@dataclass(frozen=True, slots=True)
class Kept:
    """`work` whose rows bring their states, for the engine; `take_back` before anybody asks the whole model."""

    work: Work
    lm: Any
    layers: int
    digest: str
    states: States
    made: Made

    def take_back(self) -> None:
        """The trunk's weights are loaded again, and compared with what they were. Raises ModelError."""
        from tunesmith.model.trunk import GONE, digest, take_back

        if not getattr(self.lm, GONE, False):
            return
        work = self.work
        if work.recipe.tuning.base == "none":  # one by one onto a card: it need not hold them twice
            work = replace(work, device=replace(work.device, kind="cpu"))
        take_back(self.lm, base_of(work), self.layers)
        if digest(self.lm, self.layers) != self.digest:
            what = "the base on disk is not what it was when the run began"
            raise ModelError.at(str(self.work.recipe.model.path), what, "put it back, and add --resume")

    def to_json(self) -> dict[str, Any]:
        """Part of report.json. saved_seconds: what reading in place of computing has saved, less the filling here."""
        a_token = self.states.seconds_a_token
        read = self.states.read_tokens
        return {
            "layers": self.layers,
            "let_go": self.work.plan.trunk.let_go,
            "tokens": self.states.tokens,
            "bytes": self.states.bytes,
            "filled_tokens": self.made.tokens,
            "filled_seconds": self.made.seconds,
            "read_tokens": read,
            "saved_seconds": None if a_token is None else read * a_token - self.made.seconds,
        }


def fit_above_trunk(
    work: Work,
    tuned: TunedModel,
    method: Method,
    store: CheckpointStore,
    reporter: Reporter,
    stop_after: int | None,
    anyway: bool,
    base_loss_nats: float | None = None,
) -> tuple[FitResult, dict[str, Any] | None]:
    """Train as `fit_to_data` does, on kept states where the plan says so; the model is whole again at the end.

    Gives what the report tells of the trunk, too: None where each step computed it.
    """
    kept = keep_trunk(work, tuned, reporter)
    fitted = fit_to_data(
        kept.work if kept else work, tuned, method, store, reporter,
        stop_after=stop_after, anyway=anyway, base_loss_nats=base_loss_nats,
    )  # fmt: skip
    if kept and fitted.status != "interrupted":
        kept.take_back()
    return fitted, kept.to_json() if kept else None


def keep_trunk(work: Work, tuned: TunedModel, reporter: Reporter) -> Kept | None:
    """The trunk's states of all rows, whole on disk; None where the plan, or the disk, says no (which is told)."""
    from tunesmith.model.forward import causal_lm
    from tunesmith.model.trunk import DEPTH, digest, find_trunk, let_go

    plan, lm = work.plan.trunk, causal_lm(tuned.model)
    if not plan.on:
        return None
    found = find_trunk(tuned.model, lm)
    if found.layers < plan.layers:
        _without(reporter, found.reason or "a lower layer trains than was planned")
        return None
    held_out = work.data.validation
    sets = [*work.data.train, *([held_out] if held_out is not None else [])]
    hashed = digest(lm, plan.layers)
    try:
        states = _open(work, lm, sets, hashed)
        made = _fill(work, lm, states, reporter)
    except (OSError, DataError, DoesNotFitError) as error:
        _without(reporter, str(getattr(error, "strerror", None) or error))
        return None
    if made.damaged:
        action = "computed again, the others are read"
        reason = f"{made.damaged} of {states.blocks} blocks of the frozen layers' outputs were damaged"
        reporter.event(Rescued(step=0, reason=reason, action=action))
    setattr(lm, DEPTH, plan.layers)
    if plan.let_go:
        let_go(lm, plan.layers)
    bringing = states.sets()
    data = replace(work.data, train=tuple(bringing[: len(work.data.train)]))
    if held_out is not None:
        data = replace(data, validation=bringing[-1])
    return Kept(replace(work, data=data), lm, plan.layers, hashed, states, made)


def _without(reporter: Reporter, reason: str) -> None:
    action = "they are computed in every epoch, as without compute.trunk_cache"
    reporter.event(Rescued(step=0, reason=f"the frozen layers are not kept: {reason}", action=action))


def _open(work: Work, lm: Any, sets: Sequence[SampleSet], digest: str) -> States:
    """Where the states lie, or will. Raises OSError where the disk has no room for what is missing."""
    from tunesmith.data.states import States
    from tunesmith.model.trunk import STORED

    first = next(each[0] for each in sets if len(each))
    (states,) = (found for _, found in _computed(work, lm, [first], [0]))
    dtype = next(name for torch_type, name in STORED.items() if torch_type == states.dtype)
    return States(sets, states.shape[-1], dtype, {"trunk": digest})


def _fill(work: Work, lm: Any, states: States, reporter: Reporter) -> Made:
    """Make what is missing. What could not be ended is taken away, so that the run has the room."""
    missing = states.missing_bytes
    free = shutil.disk_usage(states.folder).free
    if missing + work.plan.disk_bytes > free:
        raise OSError(f"{missing / 2**30:.2f} GiB are missing in the cache, {free / 2**30:.2f} GiB are free")

    def waiting() -> None:
        reporter.progress("waiting for another run that computes the same layers", 0, None)

    what = str(work.recipe.model.path or work.recipe.model.tokenizer)
    try:
        return states.fill(
            _compute(work, lm), what, lambda done: reporter.progress(WHAT, done, states.tokens), waiting
        )
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            states.remove_if_unfinished()
        raise


def _compute(work: Work, lm: Any) -> Compute:
    """The states of a block's samples, in micro-batches that depend on the block alone."""
    import numpy as np
    import torch

    from tunesmith.data.packing import pack

    def compute(samples: Sequence[Sample]) -> Iterator[tuple[int, ndarray]]:
        visit("trunk")
        lengths = np.array([len(sample.input_ids) for sample in samples], np.int64)
        for members in pack(lengths, work.plan.micro_tokens):
            for place, states in _computed(work, lm, samples, members):
                stored = states.view(torch.int16) if states.dtype == torch.bfloat16 else states
                yield place, stored.numpy()

    return compute


def _computed(
    work: Work, lm: Any, samples: Sequence[Sample], members: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """(place, [T d] on the CPU) of each member; half as many at once where memory runs out."""
    import torch

    from tunesmith.data.loader import collate
    from tunesmith.model.memory import give_back, is_out_of_memory
    from tunesmith.model.trunk import entering

    training = lm.training
    lm.eval()
    try:
        bf16 = work.plan.precision == "bf16"
        with torch.autocast(lm.device.type, dtype=torch.bfloat16, enabled=bf16):
            batch = collate([samples[place] for place in members], packing=True)
            found = entering(lm, batch, work.plan.trunk.layers)[0].cpu()
    except Exception as error:
        if not is_out_of_memory(error) or len(members) == 1:
            raise
        found = None
    finally:
        lm.train(training)
    if found is None:  # outside the except block, so that nothing of the attempt is held
        give_back()
        half = len(members) // 2
        yield from _computed(work, lm, samples, members[:half])
        yield from _computed(work, lm, samples, members[half:])
        return
    pieces = found.split([len(samples[place].input_ids) for place in members])
    yield from zip(members, pieces)
