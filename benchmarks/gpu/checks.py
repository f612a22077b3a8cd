"""What a card can do at best, and whether each kernel says there what its plain twin says: one JSON line.

Ceilings: matrix products at the shapes of an 8B layer, copies, attention. Checks: against float64 or bit by bit. With
`--device cpu` only what needs no card: whether the same run twice ends with the same bits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def seconds(run: Callable[[], Any], times: int = 10) -> float:
    """Seconds of one call, after a warm-up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def apart(ours: Tensor, exact: Tensor) -> float:
    """||ours - exact|| / ||exact||."""
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def ceilings(found: dict[str, Any]) -> None:
    """Products, copies, attention."""
    for m in (8192, 16384):
        for k, n in ((4096, 4096), (4096, 14336), (14336, 4096), (4096, 128256)):
            found[f"bf16 {m}x{k}x{n}, TFLOP/s"] = round(product_rate(m, k, n) / 1e12)
    x = torch.randn(2**28, device="cuda")
    found["copy, GB/s"] = round(2 * x.nbytes / seconds(x.clone) / 1e9)
    for length in (512, 4096):
        found |= attention(length)


def product_rate(m: int, k: int, n: int) -> float:
    """FLOP/s of a matrix product in bf16, of random numbers."""
    a, b = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
    return 2 * m * k * n / seconds(lambda: a @ b, 5)


def attention(length: int) -> dict[str, Any]:
    """Forward and backward over 16k tokens in documents of one length: torch's varlen kernel against groups."""
    from tunesmith.kernels import varlen
    from tunesmith.kernels.attention import packed_attention
    from tunesmith.kernels.documents import group_documents

    segments = torch.arange(16384 // length).repeat_interleave(length)[None]
    documents = group_documents(segments).to(torch.device("cuda"))
    qkv = [
        torch.randn(1, h, 16384, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for h in (32, 8, 8)
    ]
    found: dict[str, Any] = {}
    outs = {}
    for name, usable in (("varlen", varlen.usable), ("groups", lambda *_, **__: False)):
        kept, varlen.usable = varlen.usable, usable

        def both() -> Tensor:
            out: Tensor = packed_attention(torch.nn.Module(), *qkv, None, documents=documents)[0]
            out.sum().backward()
            return out

        outs[name] = both().detach()
        found[f"attention {length}, {name}, ms"] = round(seconds(both) * 1e3, 2)
        varlen.usable = kept
    found[f"attention {length}, varlen against groups"] = apart(outs["varlen"], outs["groups"])
    return found


def four_bits(found: dict[str, Any]) -> None:
    """Bit for bit bitsandbytes' own, and how fast."""
    for double in (False, True):
        found |= four_bits_of(double)


def four_bits_of(double: bool) -> dict[str, Any]:
    """With or without quantised scales."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    from tunesmith.kernels.triton_nf4 import dequantise

    wide = torch.randn(4096, 14336, device="cuda")
    weight: Any = Params4bit(wide, requires_grad=False, quant_type="nf4", compress_statistics=double).to(
        "cuda"
    )
    state, found = weight.quant_state, {}
    for dtype in (torch.float32, torch.bfloat16):
        state.dtype = dtype
        equal = torch.equal(dequantise(weight, dtype), dequantize_4bit(weight.data, state))
        found[f"nf4 double={double} {dtype} bit-equal"] = bool(equal)
    moved = wide.numel() * 2.516 / 1e9
    ours = seconds(lambda: dequantise(weight, torch.bfloat16))
    theirs = seconds(lambda: dequantize_4bit(weight.data, state))
    found[f"nf4 double={double}, GB/s"] = round(moved / ours)
    found[f"nf4 double={double}, bitsandbytes GB/s"] = round(moved / theirs)
    return found


def head(found: dict[str, Any]) -> None:
    """Loss and gradients of the head against float64, beside torch's plain bf16 way."""
    from tunesmith.kernels import head as heads

    torch.manual_seed(0)
    hidden = torch.randn(2048, 1024, device="cuda", dtype=torch.bfloat16)
    weight = (torch.randn(32000, 1024, device="cuda") / 32).to(torch.bfloat16)
    targets = torch.randint(0, 32000, (2048,), device="cuda")
    results = {}

    def plain(h: Tensor, w: Tensor) -> Tensor:
        logits = h @ w.T
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.nn.functional.cross_entropy(wide, targets, reduction="sum")

    for name, dtype, run in (
        ("exact", torch.float64, plain),
        ("plain", torch.bfloat16, plain),
        ("kernel", torch.bfloat16, lambda h, w: heads.summed_loss(h, w, targets)),
    ):  # fmt: skip
        h, w = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        loss = run(h, w)
        loss.backward()
        results[name] = (loss.detach(), h.grad, w.grad)
    for part, place in (("loss", 0), ("d hidden", 1), ("d weight", 2)):
        for name in ("plain", "kernel"):
            found[f"head {part}, {name} against float64"] = apart(
                results[name][place], results["exact"][place]
            )


def same_bits(found: dict[str, Any]) -> None:
    """`compute.deterministic`: the same few steps twice, by the engine of `tunesmith train`; are all weights equal?"""
    device = "cuda" if found["device"] != "cpu" else "cpu"
    for tuning in ({"method": "full"}, {"method": "lora", "dropout": 0.1}, {"method": "qlora"}):
        first, second = (trained_weights(device, tuning) for _ in range(2))
        equal = all(torch.equal(first[name], second[name]) for name in first)
        found[f"{tuning['method']}, twice with deterministic: same bits"] = equal


def trained_weights(device: str, tuning: dict[str, Any]) -> dict[str, Tensor]:
    """What trains, after five steps of a small model made at random."""
    import numpy as np

    from engine import samples, stepper
    from tunesmith.engine.world import seed_everything
    from tunesmith.recipe import parse

    values = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 256, "intermediate_size": 688,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    recipe = parse({
        "model": {"from_config": values, "tokenizer": "none"}, "data": {"train": "none.jsonl"}, "tuning": tuning,
        "optim": {"lr": 1e-3},
    })  # fmt: skip
    seed_everything(3, deterministic=True)
    taking = stepper(
        recipe, device, torch.bfloat16 if tuning["method"] == "qlora" else torch.float32, autocast=True
    )
    draw = np.random.default_rng(0)
    for number in range(1, 6):
        rows = [draw.integers(3, 32000, draw.integers(20, 400)).astype(np.int32) for _ in range(8)]
        made = samples(rows, lambda targets: targets % 3)
        targets = sum(int((sample.labels >= 0).sum()) for sample in made)
        taking.take(number, made, float(targets), 1024)
    return {name: parameter.detach().clone() for name, parameter in taking.tuned.trainable.items()}


def main() -> None:
    """All checks; each that fails says how, and the others go on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {"versions": f"torch {torch.__version__}", "device": asked.device}
    card = asked.device == "cuda"
    if card:
        found["device"] = torch.cuda.get_device_name()
    for part in (ceilings, four_bits, head, same_bits) if card else (same_bits,):
        try:
            part(found)
        except Exception as error:
            found[part.__name__] = f"{type(error).__name__}: {error}"[:300]
        if card:
            torch.cuda.empty_cache()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
