"""One optimiser step: micro-batches -> gradient of the step's weighted mean -> judge -> update.

Loss is the weighted sum over learnt tokens, divided by the step's sum of weights (their count, where each weighs
1): cutting a step into micro-batches changes nothing.
A step that is judged bad, or does not fit, changes nothing either: no weight, no moment, no count.
The card is waited for once a step: its loss and gradient norm are read together, because the judge (rescue.py) must
have both before the update (docs/decisions/016). Before that the next step's first micro-batch is laid out, while the
card still computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tunesmith.data.filling import even_out, fill
from tunesmith.data.loader import Batch, batches
from tunesmith.data.samples import Sample
from tunesmith.data.sharing import shared_batches
from tunesmith.engine.faults import visit
from tunesmith.engine.rescue import Judgement, Limits, Watch, judge
from tunesmith.engine.world import LetGo, random_state, set_random_state
from tunesmith.errors import DoesNotFitError
from tunesmith.kernels.varlen import EVEN
from tunesmith.model.forward import drops, may_fill
from tunesmith.model.memory import give_back, is_out_of_memory
from tunesmith.tuning.method import Hooks, TunedModel

SummedLoss = Callable[[nn.Module, Batch], Tensor]
# (loss, gradient norm) -> what becomes of the step
Judge = Callable[[float, float], Judgement]


class HalfMoved(Exception):
    """Memory ran out within the optimiser: some weights may have moved and others not."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step measured, and what became of it. micro_tokens is what finally fitted."""

    loss_nats: float
    grad_norm: float
    judgement: Judgement
    micro_tokens: int

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss_nats) and math.isfinite(self.grad_norm)


def only_finite(loss: float, norm: float) -> Judgement:
    """A judge without a memory: what is not finite is skipped."""
    return judge(Watch(), 1, loss, norm, Limits(sigmas=None, bad_steps=2))


@dataclass(slots=True)
class Laid:
    """The micro-batches of the step that comes next, the first of them made."""

    samples: Sequence[Sample] | None = None
    micro_tokens: int = 0
    cut: Iterator[Batch] = iter(())

    def lay(self, samples: Sequence[Sample], micro_tokens: int, cut: Iterator[Batch]) -> None:
        """Make the first one."""
        first = list(itertools.islice(cut, 1))
        self.samples, self.micro_tokens, self.cut = samples, micro_tokens, itertools.chain(first, cut)

    def take(self, samples: Sequence[Sample], micro_tokens: int) -> Iterator[Batch] | None:
        """Those of these samples, once; None where others were laid out."""
        found = self.cut if self.samples is samples and self.micro_tokens == micro_tokens else None
        self.samples, self.cut = None, iter(())
        return found


@dataclass(frozen=True, slots=True)
class Stepper:
    """What all steps of a run share: who learns, by which loss, and how."""

    tuned: TunedModel
    optimizer: torch.optim.Optimizer
    hooks: Hooks
    summed_loss: SummedLoss
    packing: bool
    autocast: bool
    grad_clip: float | None
    breathe: Callable[[], None] = lambda: None
    """Asked between micro-batches; may raise LetGo."""
    laid: Laid = field(default_factory=Laid)
    drops: bool = field(init=False)
    """Whether anything drops at random; the walk that tells is taken once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", drops(self.tuned.model))

    @property
    def shares(self) -> bool:
        """Whether rows that begin alike may be laid as a tree: nothing stands in them, and they share no noise."""
        return self.packing and may_fill(self.tuned.model) and not self.drops

    @property
    def lays_ahead(self) -> bool:
        """Whether the processor has time to spare while a step is computed."""
        return self.device.type != "cpu"

    def lay(self, samples: Sequence[Sample], micro_tokens: int) -> None:
        """Lay out the first micro-batch of a step to come; it is taken if that step has the same list of samples."""
        self.laid.lay(samples, micro_tokens, self._cut(samples, micro_tokens))

    def take(
        self,
        number: int,
        samples: Sequence[Sample],
        weight: float,
        micro_tokens: int,
        judged: Judge = only_finite,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> StepResult:
        """Compute the step's gradient and, if it is judged well, update.

        `number` counts from 1; `weight` is the sum over the learnt tokens of all samples. `meanwhile` is called when
        all is told to the card and nothing read from it.
        Raises HalfMoved where memory runs out in the update, LetGo where there is no time for the step.
        """
        visit("step")
        total, micro_tokens = self._gradient(samples, weight, micro_tokens)
        parameters = [p for p in self.tuned.trainable.values() if p.grad is not None]
        norm_there = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        factor = visit("update")
        meanwhile()
        loss, norm = (x * factor for x in torch.stack([total, norm_there.to(total)]).tolist())
        judgement = judged(loss, norm)
        if judgement.verdict == "take":
            if self.grad_clip is not None and norm > self.grad_clip:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm_there)
            self._move(number)
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, norm, judgement, micro_tokens)

    def _move(self, number: int) -> None:
        self.hooks.before_step(number)
        try:
            self.optimizer.step()
            visit("optimizer")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise HalfMoved from error
        self.hooks.after_step(number)

    def _gradient(self, samples: Sequence[Sample], weight: float, micro_tokens: int) -> tuple[Tensor, int]:
        """Accumulate the gradient over micro-batches; where memory runs out, begin again with smaller ones."""
        drawn = random_state()
        while True:
            try:
                return self.accumulate(samples, weight, micro_tokens), micro_tokens
            except LetGo:
                self._forget(drawn)
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                micro_tokens = smaller(samples, micro_tokens, error)
            # outside the except block: the traceback would keep the failed graph's tensors alive
            self._forget(drawn)
            give_back()

    def _forget(self, drawn: dict[str, Tensor]) -> None:
        """Nothing of the attempt stays: no gradient, no draw, nothing that the method saw of it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.hooks.forget_step()
        set_random_state(drawn)

    def _cut(self, samples: Sequence[Sample], micro_tokens: int) -> Iterator[Batch]:
        """Micro-batches; what rows begin with alike is computed once, where that saves enough.

        In bf16 on a processor they are filled up; on a card full rows are made even.
        """
        shared = shared_batches(samples, micro_tokens) if self.shares else None
        cut = batches(samples, micro_tokens, self.packing) if shared is None else shared
        if not self.autocast or not may_fill(self.tuned.model):
            return cut
        return map(fill, cut) if self.device.type == "cpu" else (even_out(batch, EVEN) for batch in cut)

    def accumulate(self, samples: Sequence[Sample], weight: float, micro_tokens: int) -> Tensor:
        """Add the gradient of these samples to what is there; returns their share of the loss, Float64[Tensor, ""].

        It stays on the device: reading it here would wait for every micro-batch.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in self.laid.take(samples, micro_tokens) or self._cut(samples, micro_tokens):
            self.breathe()
            factor = visit("forward")
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                loss = self.summed_loss(self.tuned.model, batch) / weight
            if factor != 1.0:
                loss = loss * factor
            visit("backward")
            loss.backward()
            total += loss.detach()
        penalty = self.hooks.extra_loss()
        if penalty is not None:
            penalty.backward()
            total += penalty.detach()
        return total

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return next(iter(self.tuned.trainable.values())).device


def smaller(samples: Sequence[Sample], micro_tokens: int, error: Exception) -> int:
    """Half the micro-batch, but never less than the longest sample. Raises DoesNotFitError where it is that already."""
    longest = max(samples, key=lambda sample: len(sample.input_ids))
    if micro_tokens <= len(longest.input_ids):
        raise DoesNotFitError.at(
            longest.address,
            f"out of memory with this sample alone ({len(longest.input_ids)} tokens)",
            "lower data.max_length, set compute.checkpointing: full, or tune fewer parameters",
        ) from error
    return max(len(longest.input_ids), micro_tokens // 2)
