"""Cards by name, for planning on one that is not here: memory, speed, whether bf16 is fast on it.

"4090" -> 24 GiB, 160 TFLOP/s        "24GB" -> a card of that size        "cpu:64GB" -> a processor
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tunesmith.errors import UserError
from tunesmith.plan.device import Device


@dataclass(frozen=True, slots=True)
class Card:
    """What a card has, and what it reaches: dense flops a second in bf16 (fp32 where it has none), bytes a second."""

    name: str
    gibibytes: float
    flops: float
    bandwidth: float
    bf16: bool = True


# Memory as nvidia-smi reports it. The first name that stands in a device's name holds, so longer ones come first.
CARDS: Mapping[str, Card] = {
    "B200": Card("NVIDIA B200", 179, 1750e12, 7.5e12),
    "GH200": Card("NVIDIA GH200", 95.6, 790e12, 3.6e12),
    "H200": Card("NVIDIA H200", 140.4, 790e12, 4.3e12),
    "H100": Card("NVIDIA H100", 79.6, 700e12, 3.0e12),
    "H800": Card("NVIDIA H800", 79.6, 700e12, 3.0e12),
    "H20": Card("NVIDIA H20", 95.6, 130e12, 3.6e12),
    "A100-40": Card("NVIDIA A100 40GB", 40, 280e12, 1.4e12),
    "A100-80": Card("NVIDIA A100 80GB", 80, 280e12, 1.8e12),
    "A100": Card("NVIDIA A100 80GB", 80, 280e12, 1.6e12),
    "A800": Card("NVIDIA A800 80GB", 80, 280e12, 1.8e12),
    "L40": Card("NVIDIA L40S", 45, 300e12, 0.8e12),
    "A6000": Card("NVIDIA RTX A6000", 48, 140e12, 0.7e12),
    "6000 Ada": Card("NVIDIA RTX 6000 Ada", 48, 250e12, 0.9e12),
    "A40": Card("NVIDIA A40", 45, 140e12, 0.65e12),
    "A10": Card("NVIDIA A10", 22.5, 110e12, 0.55e12),
    "L4": Card("NVIDIA L4", 22.5, 100e12, 0.27e12),
    "5090": Card("NVIDIA GeForce RTX 5090", 31.8, 200e12, 1.7e12),
    "4090": Card("NVIDIA GeForce RTX 4090", 24, 160e12, 0.95e12),
    "4080": Card("NVIDIA GeForce RTX 4080", 16, 95e12, 0.68e12),
    "4070": Card("NVIDIA GeForce RTX 4070", 12, 58e12, 0.48e12),
    "4060": Card("NVIDIA GeForce RTX 4060", 8, 30e12, 0.26e12),
    "3090": Card("NVIDIA GeForce RTX 3090", 24, 70e12, 0.85e12),
    "3080": Card("NVIDIA GeForce RTX 3080", 10, 59e12, 0.7e12),
    "3060": Card("NVIDIA GeForce RTX 3060", 12, 25e12, 0.34e12),
    "T4": Card("NVIDIA Tesla T4", 15, 8e12, 0.28e12, bf16=False),
    "V100": Card("NVIDIA Tesla V100", 32, 14e12, 0.8e12, bf16=False),
}
UNKNOWN = Card("a card", 24, 50e12, 0.5e12)
_SIZE = re.compile(r"(?:(cpu|cuda):)?(\d+(?:\.\d+)?)\s*(g|gb|gib|m|mb|mib|t|tb|tib)?", re.IGNORECASE)
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}


def card_of(name: str) -> Card:
    """The row of a device's name."""
    return next((card for part, card in CARDS.items() if part in name), UNKNOWN)


def device_with(words: str, here: Device) -> Device:
    """The device that `--memory` speaks of: a card of the table, or a size on this kind of device or another.

    A size without a kind means the card that is here, with so much memory, or a card that comes with that much.
    Sizes are those cards are sold by: 24GB is 24 * 2^30 bytes. Raises UserError.
    """
    text = words.strip()
    if found := _SIZE.fullmatch(text):
        kind, number, unit = found.groups()
        size = round(float(number) * _UNITS[(unit or "g")[0].lower()])
        if unit or kind:
            return _of_size(size, kind, here)
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    for key, card in CARDS.items():
        spelt = re.sub(r"[^a-z0-9]", "", key.lower())
        if plain in (spelt, spelt + "gb", "rtx" + spelt, re.sub(r"[^a-z0-9]", "", card.name.lower())):
            return Device("cuda", card.name, round(card.gibibytes * 2**30), card.bf16)
    near = [f"{text}GB"] if text.isdigit() else difflib.get_close_matches(text, CARDS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError.at(
        "--memory", f"{words!r} is neither a size nor a card",
        f"{hint}Give a size such as 24GB or cpu:64GB, or one of: {', '.join(CARDS)}",
    )  # fmt: skip


def _of_size(size: int, kind: str | None, here: Device) -> Device:
    """So much memory: on a processor, on the card that is here, or on the slowest card sold with that much."""
    if size < 2**28:
        raise UserError.at("--memory", "is less than 256 MiB", "give a size such as 24GB")
    if kind and kind.lower() == "cpu":
        name = here.name if here.kind == "cpu" else "a processor"
        return Device("cpu", name, size, here.bf16 and here.kind == "cpu")
    if here.kind == "cuda":
        return replace(here, memory_bytes=size)
    near = [card for card in CARDS.values() if 0.85 < card.gibibytes * 2**30 / size < 1.15 and card.bf16]
    slowest = min(near, key=lambda card: card.flops, default=UNKNOWN)
    like = f" (like {slowest.name})" if near else ""
    return Device("cuda", f"{size / 2**30:g} GB card{like}", size, True)
