"""Continue prompts, many at once, with the words each would get alone. Greedy, or seeded sampling.

prompts   [p p p p]        left padding, positions count real tokens only
          [- - p p]  -->   one forward pass a token for all rows; finished rows leave the batch
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.model.forward import causal_lm
from tunesmith.model.load import generation_attention
from tunesmith.model.virtual import ids_before, virtual_tokens

if TYPE_CHECKING:
    from transformers import DynamicCache

# Cached tokens of one batch: 200 short prompts together, but long ones few at a time.
BATCH_TOKENS = 32_768
_BATCHED = ("attention_mask", "position_ids", "past_key_values", "logits_to_keep")
OnToken = Callable[[int, int], None]


@contextlib.contextmanager
def ready_to_answer(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, attention that knows a cache; autocast where weights have two precisions."""
    lm, training = causal_lm(model), model.training
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    mixed = torch.autocast(lm.device.type, torch.bfloat16, enabled=len(kinds) > 1)
    model.eval()
    try:
        with generation_attention(lm), torch.inference_mode(), mixed:
            yield
    finally:
        model.train(training)


def context_length(model: nn.Module) -> int:
    """Most tokens of a text that the model can hold; without a limit in its config, a very large number."""
    config = causal_lm(model).config
    named = (getattr(config, key, None) for key in ("max_position_embeddings", "seq_length"))
    return int(next((count for count in named if count), 2**31)) - virtual_tokens(model)


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
    temperature: float = 0.0,
    seed: int = 0,
    on_token: OnToken | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[int]]:
    """Continue each prompt until a stop token (left out), `max_new_tokens` or the end of the context.

    temperature 0 is greedy; above it, row i samples from its own generator seeded with `seed + i`, so that
    an answer does not depend on what it is batched with. `on_token(row, id)` hears each token as it comes.
    `batch_tokens` bounds the tokens computed and cached together; it does not change the answers.
    """
    limit = context_length(model)
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < limit:
            raise ModelError.at(
                f"prompt {row + 1}",
                f"has {len(prompt)} tokens; the model's context holds {limit}, an answer included",
                "shorten the prompt" if prompt else "a prompt needs at least one token",
            )
    answers: list[list[int]] = [[] for _ in prompts]
    choose = _Chooser(temperature, {row: seed + row for row in range(len(prompts))})
    together = _answers_in_batches(causal_lm(model))
    lengths = [len(p) + max_new_tokens for p in prompts]
    with ready_to_answer(model):
        for rows in batches_of_like_length(lengths, batch_tokens if together else 1):
            batch = _Rows(rows, [min(max_new_tokens, limit - len(prompts[row])) for row in rows])
            chosen = [prompts[row] for row in rows]
            for row, token in (
                _continue(model, chosen, batch, choose, stop_ids, pad_id)
                if together
                else _continue_alone(model, list(chosen[0]), batch, choose, stop_ids)
            ):
                answers[row].append(token)
                if on_token is not None:
                    on_token(row, token)
    return answers


def _answers_in_batches(lm: Any) -> bool:
    """Whether a forward knows padding, positions and a plain key-value cache; code of its own may not."""
    known = inspect.signature(lm.forward).parameters
    kinds = getattr(lm.config, "layer_types", None) or ()
    return all(name in known for name in _BATCHED) and all("attention" in kind for kind in kinds)


def last_logits(model: Any, rows: Sequence[Sequence[int]], keep: int, pad_id: int) -> Tensor:
    """Logits at the last `keep` tokens of each row: Float[Tensor, "N keep V"]; padded where the model knows how.

    Within `ready_to_answer`.
    """
    device = causal_lm(model).device
    before = ids_before(model)
    rows = [[*before, *row] for row in rows]
    if not _answers_in_batches(causal_lm(model)):
        alone = [model(input_ids=torch.tensor([row], device=device)).logits[0, -keep:] for row in rows]
        return torch.stack(alone)
    ids, mask, positions = left_pad(rows, pad_id, device)
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, use_cache=False
    ).logits


def batches_of_like_length(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Rows of similar length together, the longest first, so that memory is asked for at the beginning."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    begin = 0
    while begin < len(order):
        size = max(1, most_tokens // lengths[order[begin]])
        yield order[begin : begin + size]
        begin += size


@dataclass(slots=True)
class _Rows:
    """Which prompts are in the batch, and how many tokens each may still get."""

    names: list[int]
    room: list[int]


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Picks the next token of each row."""

    temperature: float
    seeds: dict[int, int]
    generators: dict[int, torch.Generator] = field(default_factory=dict)

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """logits Float[N V] -> N token ids. Raises ModelError where they are no numbers."""
        finite = torch.isfinite(logits.amax(dim=-1)).tolist()  # a number that is none passes through
        if not all(finite):
            raise ModelError.at(
                f"prompt {rows[finite.index(False)] + 1}",
                "what the model makes of it is no number: its numbers outgrow their precision",
                "take weights that are whole",
            )
        if self.temperature <= 0:
            return logits.argmax(dim=-1).tolist()
        shares = torch.softmax(logits.float().cpu() / self.temperature, dim=-1)
        return [
            int(torch.multinomial(share, 1, generator=self._generator(row)))
            for row, share in zip(rows, shares)
        ]

    def _generator(self, row: int) -> torch.Generator:
        if row not in self.generators:
            self.generators[row] = torch.Generator().manual_seed(self.seeds[row])
        return self.generators[row]


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, positions), each Int64[N T]; positions of real tokens begin at 0."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def _continue_alone(
    model: Any, tokens: list[int], rows: _Rows, choose: _Chooser, stop_ids: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """One prompt without cache or padding: slow, and right for any forward."""
    [row], [room] = rows.names, rows.room
    for _ in range(room):
        [token] = choose(last_logits(model, [tokens], 1, 0)[:, -1], [row])
        if token in stop_ids:
            return
        tokens.append(token)
        yield row, token


def _continue(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: _Rows,
    choose: _Chooser,
    stop_ids: Sequence[int],
    pad_id: int,
) -> Iterator[tuple[int, int]]:
    """(row, token) as they are decided; a row's stop token is not told."""
    from transformers import DynamicCache

    device = causal_lm(model).device
    stops = frozenset(stop_ids)
    before = ids_before(model)
    prompts = [[*before, *prompt] for prompt in prompts]
    ids, mask, positions = left_pad(prompts, pad_id, device)
    # without a cache config every layer keeps all keys; sliding windows act through the mask
    cache = DynamicCache()
    while rows.names:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        tokens = choose(out.logits[:, -1], rows.names)
        for at, (row, token) in enumerate(zip(rows.names, tokens)):
            if rows.room[at] > 0 and token not in stops:
                rows.room[at] -= 1
                yield row, token
            else:
                rows.room[at] = 0
        alive = [at for at, room in enumerate(rows.room) if room > 0]
        mask, last = _compact(rows, cache, alive, mask, positions[:, -1:])
        ids = torch.tensor([[tokens[at]] for at in alive], device=device)
        positions = last + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)


def _compact(
    rows: _Rows, cache: DynamicCache, alive: list[int], mask: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Let finished rows go; what remains computes as if they had never been there."""
    if len(alive) < len(rows.names):
        keep = torch.tensor(alive, dtype=torch.long, device=mask.device)
        if alive:
            cache.batch_select_indices(keep)
        rows.names = [rows.names[at] for at in alive]
        rows.room = [rows.room[at] for at in alive]
        mask, last = mask[keep], last[keep]
    return mask, last
