"""What becomes of a dialogue that is too long: its oldest exchanges go, or it is split, and all is counted.

system | q a | q a | q a      keep_last_turns ->  system | q a                 cut: the first exchanges' tokens
                              split           ->  system | q a | q a           system | (q a) | q a
                                                               (q a): read again as context, not learnt again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

import numpy as np

from tunesmith.data.jinja import TemplateRefusal
from tunesmith.data.render import Draft, Drop, Overlength, Rendered, draft_one
from tunesmith.data.samples import Cut, Rendering
from tunesmith.data.template import ChatTemplate

OVERLAP = 0.25
"""Share of a sample that what was said before it may take, where a dialogue is split."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Turns [first, end) of the row: a question with its answer, and its tokens in the whole rendering."""

    first: int
    end: int
    cuts: tuple[Cut, ...]

    @property
    def size(self) -> int:
        """Tokens of the exchange."""
        return sum(len(cut.ids) for cut in self.cuts)


def fit(
    template: ChatTemplate,
    drafts: Sequence[Draft],
    address: str,
    every_token: bool,
    max_length: int,
    overlength: Overlength,
) -> Rendered | Drop:
    """Samples of at most `max_length` tokens out of drafts of which some are longer. Raises Refused."""
    longest = max(len(draft) for draft in drafts)
    trimmed = [_without_tail(draft, max_length) for draft in drafts]
    total = sum(len(draft) for draft in drafts)
    if all(len(rendering.ids) <= max_length for rendering in trimmed):
        return Rendered(tuple(trimmed), "shortened" if len(drafts) == 1 else "expanded", total)
    if overlength in ("drop", "error"):
        detail = f"{longest} tokens, data.max_length is {max_length}"
        return Drop("too_long", detail, fatal=overlength == "error")
    if len(drafts) == 1 and overlength == "split":
        return _split(template, drafts[0], address, max_length)
    return _shorten_each(template, drafts, address, max_length)


def _without_tail(draft: Draft, max_length: int) -> Rendering:
    """What stands after the last stop teaches nothing; where only that is too much, it goes."""
    rendering = draft.rendering
    end = int(np.flatnonzero(rendering.learnt)[-1]) + 1
    if len(rendering.ids) <= max_length or end > max_length:
        return rendering
    cut = Cut(len(draft.turns) - 1, tuple(rendering.ids[end:].tolist()), behind=True)
    return replace(rendering.until(end), cut=(cut,))


def _shorten_each(
    template: ChatTemplate, drafts: Sequence[Draft], address: str, max_length: int
) -> Rendered | Drop:
    """keep_last_turns for each sample of the row; answers that do not fit even so are cut whole."""
    kept: list[Rendering] = []
    orphans: list[Cut] = []
    for draft in drafts:
        shorter = _keep_last(template, draft, address, max_length)
        if shorter is None:
            assert draft.turn is not None or len(drafts) == 1
            orphans.append(Cut(draft.turn or 0, tuple(draft.rendering.ids.tolist())))
        else:
            kept.append(shorter)
    if not kept:
        return Drop("turn_too_long", f"the last exchange alone is longer than data.max_length, {max_length}")
    kept[0] = replace(kept[0], cut=(*orphans, *kept[0].cut))
    rendered = Rendered(tuple(kept), "shortened" if len(drafts) == 1 else "expanded", 0)
    return replace(rendered, tokens_in=sum(len(each.ids) for each in kept) + rendered.tokens_cut)


def _keep_last(template: ChatTemplate, draft: Draft, address: str, max_length: int) -> Rendering | None:
    """The draft with as few of its oldest exchanges gone as need be; None if the last is still too long."""
    whole = _without_tail(draft, max_length)
    if len(whole.ids) <= max_length:
        return whole
    head, exchanges = _exchanges(template, draft)
    excess, gone = len(draft) - max_length, 0
    while gone < len(exchanges) - 1 and excess > 0:
        excess -= exchanges[gone].size
        gone += 1
    for first in range(max(gone, 1), len(exchanges)):
        turns = [*draft.turns[:head], *draft.turns[exchanges[first].first :]]
        shorter = draft_one(template, turns, address, draft)
        rendering = _without_tail(shorter, max_length)
        if len(rendering.ids) <= max_length:
            cuts = _exact_cuts(draft, shorter, exchanges[:first])
            shift = len(draft.turns) - len(turns)
            tail = tuple(replace(cut, turn=cut.turn + shift) for cut in rendering.cut)
            return replace(rendering, cut=(*cuts, *tail))
    return None


def _split(template: ChatTemplate, draft: Draft, address: str, max_length: int) -> Rendered | Drop:
    """Consecutive exchanges in samples of their own, each with the system turn; each answer learnt once.

    What was said right before them is read again, as far as it fits into a part of the sample (OVERLAP).
    """
    head, exchanges = _exchanges(template, draft)
    frame = len(draft) - sum(exchange.size for exchange in exchanges)
    parts: list[Rendering] = []
    orphans: list[Cut] = []
    first = 0
    while first < len(exchanges):
        since = _context(exchanges, first, int(OVERLAP * max_length))
        before = sum(exchange.size for exchange in exchanges[since:first])
        if frame + before + exchanges[first].size > max_length:
            since, before = first, 0
        end, size = first + 1, frame + before + exchanges[first].size
        while end < len(exchanges) and size + exchanges[end].size <= max_length:
            size += exchanges[end].size
            end += 1
        part = None
        while end > first and part is None:
            part = _part(template, draft, head, exchanges[since:end], first - since, address, max_length)
            if part is None and since < first:
                since = first  # rather no context than fewer exchanges
            else:
                end -= part is None
        if part is None:
            orphans += exchanges[first].cuts
            first += 1
        else:
            parts.append(part)
            first = end
    if not parts:
        return Drop("turn_too_long", f"no exchange fits into data.max_length, {max_length}")
    parts[0] = replace(parts[0], cut=(*orphans, *parts[0].cut))
    rendered = Rendered(tuple(parts), "split" if len(parts) > 1 else "shortened", len(draft))
    given = sum(len(part.ids) for part in parts) + rendered.tokens_cut
    return replace(rendered, tokens_in=min(len(draft), given), tokens_repeated=max(0, given - len(draft)))


def _context(exchanges: Sequence[Exchange], first: int, most: int) -> int:
    """The first of the exchanges right before `first` that together have at most `most` tokens."""
    since, size = first, 0
    while since > 0 and size + exchanges[since - 1].size <= most:
        since -= 1
        size += exchanges[since].size
    return since


def _part(
    template: ChatTemplate,
    draft: Draft,
    head: int,
    exchanges: Sequence[Exchange],
    known: int,
    address: str,
    max_length: int,
) -> Rendering | None:
    """Some exchanges with the system turn as one sample; None if that is too long, or nothing is learnt.

    The first `known` of them were learnt in the part before: here they are given.
    """
    said = draft.turns[exchanges[known].first : exchanges[-1].end]
    if not any(turn["role"] == "assistant" and turn.get("weight", 1.0) > 0 for turn in said):
        return None
    given = draft.turns[exchanges[0].first : exchanges[known].first]
    turns = [*draft.turns[:head], *({**turn, "weight": 0.0} for turn in given), *said]
    rendering = _without_tail(draft_one(template, turns, address, draft), max_length)
    if len(rendering.ids) > max_length:
        return None
    last = exchanges[-1].end - 1
    return replace(rendering, cut=tuple(replace(cut, turn=last) for cut in rendering.cut))


def _exchanges(template: ChatTemplate, draft: Draft) -> tuple[int, list[Exchange]]:
    """How many turns stay at the head (the system turn), and the exchanges after them."""
    turns = draft.turns
    head = 1 if turns[0]["role"] == "system" else 0
    firsts = [n for n in range(head, len(turns)) if n == head or turns[n]["role"] == "user"]
    places = _turn_places(template, draft)
    tokens = draft.encoded.tokens
    starts = [tokens.first_starting_at(draft.encoded.place(place)) for place in places] + [len(draft)]
    ids = draft.rendering.ids
    found = []
    for first, end in zip(firsts, [*firsts[1:], len(turns)]):
        cuts = tuple(
            Cut(turn, tuple(ids[starts[turn] : starts[turn + 1]].tolist())) for turn in range(first, end)
        )
        found.append(Exchange(first, end, cuts))
    return head, found


def _turn_places(template: ChatTemplate, draft: Draft) -> list[int]:
    """The character where each turn begins. The first begins at 0, frame (BOS, default system) and all."""
    places = [0]
    for number in range(1, len(draft.turns)):
        places.append(max(places[-1], _place_of(template, draft, number)))
    return places


def _place_of(template: ChatTemplate, draft: Draft, number: int) -> int:
    """Where turn `number` begins: where the text of the turns before it ends."""
    turns, text = draft.turns, draft.text
    try:
        before = template.text(turns[:number])
    except TemplateRefusal:  # some write no dialogue that ends with a question
        before = template.prompt_text(turns[:number])
    if text.startswith(before) or turns[number - 1]["role"] != "assistant":
        return _common(before, text)
    # The template writes the answer before it differently while it is the last (Qwen3's thoughts, Phi-3's
    # EOS). Behind another question it is written as here: both texts part in the question's first letter.
    letter = "y" if turns[number]["content"].lstrip().startswith("x") else "x"
    behind = template.text([*turns[:number], {"role": turns[number]["role"], "content": letter}])
    stop = template.stop
    end = text.rfind(stop.text, 0, _common(behind, text)) + len(stop.text)
    rest = stop.tail[stop.end_in_tail :]
    return end + (len(rest) if text.startswith(rest, end) else 0)


def _common(before: str, text: str) -> int:
    """Number of characters that both begin with."""
    return len(before) if text.startswith(before) else len(commonprefix([before, text]))  # noqa: RUF071


def _exact_cuts(draft: Draft, shorter: Draft, gone: Sequence[Exchange]) -> tuple[Cut, ...]:
    """The cut tokens by turn, such that kept and cut make up the whole.

    The frame before the first turn (BOS, a default system turn) is written again in what is kept, so it
    was not cut: it is taken off the first cut turn.
    """
    cuts = [cut for exchange in gone for cut in exchange.cuts]
    surplus = len(shorter) + sum(len(cut.ids) for cut in cuts) - len(draft)
    if 0 < surplus <= len(cuts[0].ids) and gone[0].first == 0:
        cuts[0] = Cut(cuts[0].turn, cuts[0].ids[surplus:])
    return tuple(cuts)
