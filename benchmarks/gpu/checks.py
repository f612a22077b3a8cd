"""What a card can do at best, and whether each kernel says there what its plain twin says: one JSON line.

Ceilings: matrix products at the shapes of an 8B layer, copies, attention. Checks: against float64 or bit by bit. With
`--device cpu` only what needs no card: linear layers, and whether the same run twice ends with the same bits.
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
    """Products and copies."""
    for m in (16384,):
        for k, n in ((4096, 4096), (4096, 14336), (14336, 4096), (4096, 128256)):
            found[f"bf16 {m}x{k}x{n}, TFLOP/s"] = round(product_rate(m, k, n) / 1e12)
    x = torch.randn(2**28, device="cuda")
    found["copy, GB/s"] = round(2 * x.nbytes / seconds(x.clone) / 1e9)


def attentions(found: dict[str, Any]) -> None:
    """Short documents and full rows."""
    for length in (512, 4096):
        found |= attention(length)


def product_rate(m: int, k: int, n: int) -> float:
    """FLOP/s of a matrix product in bf16, of random numbers."""
    a, b = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
    return 2 * m * k * n / seconds(lambda: a @ b, 5)


def attention(length: int) -> dict[str, Any]:
    """Forward and backward over 16k tokens in documents of one length, 32 heads and 8 of keys: each way there is."""
    from tunesmith.kernels import varlen
    from tunesmith.kernels.attention import packed_attention
    from tunesmith.kernels.documents import group_documents

    segments = torch.arange(16384 // length).repeat_interleave(length)[None]
    documents = group_documents(segments).to(torch.device("cuda"))
    qkv = [
        torch.randn(1, h, 16384, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for h in (32, 8, 8)
    ]
    slope = torch.randn(1, 16384, 32, 128, device="cuda", dtype=torch.bfloat16)
    ways: dict[str, Any] = {
        "as trained": (varlen.usable, varlen._even),
        "varlen": (varlen.usable, lambda *_: False),
        "groups": (lambda *_, **__: False, varlen._even),
    }
    found: dict[str, Any] = {}
    outs = {}
    kept = varlen.usable, varlen._even
    for name, switches in ways.items():
        varlen.usable, varlen._even = switches

        def both() -> Tensor:
            for one in qkv:
                one.grad = None
            out: Tensor = packed_attention(torch.nn.Module(), *qkv, None, documents=documents)[0]
            out.backward(slope)
            return out

        outs[name] = [both().detach(), *(one.grad for one in qkv)]
        found[f"attention {length}, {name}, ms"] = round(seconds(both) * 1e3, 2)
        varlen.usable, varlen._even = kept
    for name in ("as trained", "varlen"):
        worst = max(apart(ours, plain) for ours, plain in zip(outs[name], outs["groups"]))
        found[f"attention {length}, {name} against groups"] = worst
    return found


def rows(found: dict[str, Any]) -> None:
    """Norm, gate and rotation of 16k tokens of an 8B layer: the Triton pass against the plain twin, both ways."""
    from tunesmith.kernels import gate, norm, rotary

    torch.manual_seed(0)
    random = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    x, weight, wide, up = random(1, 16384, 4096), random(4096), random(16384, 14336), random(16384, 14336)
    heads, angles, slope = (
        random(1, 16384, 32, 128),
        torch.randn(1, 16384, 128, device="cuda"),
        random(16384, 14336),
    )
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    def by_wide_angles(x: Tensor) -> Tensor:  # as where fp32 weights train
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return rotary.rotate([x], angles.cos(), angles.sin())[0]

    ways: dict[str, tuple[Any, str, list[Tensor], Callable[..., Tensor]]] = {
        "norm": (norm, "_on_card", [x, weight], lambda x, w: norm.rms_norm(x, w, 1e-5, "rms")),
        "gate": (gate, "takes", [wide, up], lambda g, u: gate.gated(g, u, "silu")),
        "rotary": (rotary, "_one_pass", [heads], lambda x: rotary.rotate([x], cos, sin)[0]),
        "rotary by fp32 angles": (rotary, "_one_pass", [heads], by_wide_angles),
    }
    for name, (module, switch, given, run) in ways.items():
        kept, results = getattr(module, switch), {}
        for way in ("plain", "kernel"):
            if way == "plain":
                setattr(module, switch, lambda *_: False)
            inputs = [one.clone().requires_grad_() for one in given]

            def both(inputs: list[Tensor] = inputs, run: Callable[..., Tensor] = run) -> None:
                for one in inputs:
                    one.grad = None
                out = run(*inputs)
                out.backward(slope.reshape(-1)[: out.numel()].view(out.shape))

            found[f"{name}, {way}, ms"] = round(seconds(both) * 1e3, 3)
            results[way] = [run(*inputs).detach(), *(one.grad for one in inputs)]
            setattr(module, switch, kept)
        pairs = zip(results["kernel"], results["plain"])
        found[f"{name}, kernel against plain"] = max(apart(a, b) for a, b in pairs)


def linears(found: dict[str, Any]) -> None:
    """A layer whose fp32 weight trains, by autocast and by our node, and one with LoRA's update: against float64."""
    from tunesmith.kernels.lora import lora_linear
    from tunesmith.kernels.mixed import mixed_linear

    device, half = "cuda" if found["device"] != "cpu" else "cpu", torch.bfloat16
    torch.manual_seed(1)
    shapes = ((512, 4096), (1024, 4096), (512, 1024), (16, 4096), (1024, 16))
    x, weight, slope, a, b = (torch.randn(shape, device=device) / 8 for shape in shapes)
    x, slope, update = x.to(half), slope.to(half), 2.0 * b @ a
    layers: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
        "fp32 weight by autocast": (torch.nn.functional.linear, weight),
        "fp32 weight by our node": (lambda x, w: mixed_linear(x, w, None, half), weight),
        "LoRA": (lambda x, w: lora_linear(x, w.detach().to(half), None, a, b, 2.0), weight + update),
    }
    for name, (layer, whole) in layers.items():
        given = [one.clone().requires_grad_() for one in (x, weight)]
        with torch.autocast(device, dtype=half):
            out = layer(*given)
        out.backward(slope)
        wide, back = x.double(), slope.double()
        exact = (wide @ whole.double().t(), back @ whole.double(), back.t() @ wide)
        pairs = zip((out.detach(), *(one.grad for one in given)), exact)
        found[f"{name}: y, dx, dW against float64"] = [
            round(apart(one, truth), 9) for one, truth in pairs if one is not None
        ]


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
        h, w = (x.to(dtype).clone().requires_grad_() for x in (hidden, weight))
        loss = run(h, w)
        loss.backward()
        results[name] = (loss.detach(), h.grad, w.grad)
    for part, place in (("loss", 0), ("d hidden", 1), ("d weight", 2)):
        for name in ("plain", "kernel"):
            found[f"head {part}, {name} against float64"] = apart(
                results[name][place], results["exact"][place]
            )


def head_rate(found: dict[str, Any]) -> None:
    """The head of an 8B model over 8k learnt tokens, frozen and trained: loss and gradients, share of 989 TFLOP/s."""
    from tunesmith.kernels import head as heads

    hidden = torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, 128256, (8192,), device="cuda")
    for name, trains in (("frozen", False), ("trained", True)):
        weight = (torch.randn(128256, 4096, device="cuda") / 64).to(torch.bfloat16).requires_grad_(trains)

        def both(weight: Tensor = weight) -> None:
            hidden.grad = weight.grad = None
            heads.summed_loss(hidden, weight, targets).backward()

        took = seconds(both, 3)
        found[f"head of 128k words, {name}, ms"] = round(took * 1e3, 1)
        found[f"head of 128k words, {name}, of peak"] = round(
            (4 + 2 * trains) * 8192 * 4096 * 128256 / took / 989e12, 3
        )


def adam(found: dict[str, Any]) -> None:
    """AdamW in 8 bits: a step of 2^28 numbers by the kernel, of 2^24 by the plain twin; the same weights."""
    from tunesmith.engine import adam8

    for way, count in (("plain", 2**24), ("kernel", 2**28)):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(count, device="cuda"))
        optimizer = adam8.AdamW8bit(
            [{"params": [weight], "weight_decay": 0.1, "lr": 1e-3}], (0.9, 0.999), 1e-8
        )
        weight.grad = torch.randn(count, device="cuda")
        kept = adam8.takes
        if way == "plain":
            adam8.takes = lambda *_: False
        found[f"adamw_8bit, {way}, ns a number"] = round(seconds(optimizer.step, 3) / count * 1e9, 4)
        adam8.takes = kept
    results = []
    for plain in (True, False):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(2**20, device="cuda"))
        optimizer = adam8.AdamW8bit(
            [{"params": [weight], "weight_decay": 0.1, "lr": 1e-3}], (0.9, 0.999), 1e-8
        )
        for number in range(5):
            adam8.takes = (lambda *_: False) if plain or number < 4 else kept
            weight.grad = torch.randn(2**20, device="cuda")
            optimizer.step()
        adam8.takes = kept
        results.append(weight.detach())
    found["adamw_8bit, kernel against plain, largest difference"] = float(
        (results[0] - results[1]).abs().max()
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


PARTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "ceilings": ceilings, "attentions": attentions, "rows": rows, "linears": linears, "four_bits": four_bits,
    "head": head, "head_rate": head_rate, "adam": adam, "same_bits": same_bits,
}  # fmt: skip


def main() -> None:
    """All checks; each that fails says how, and the others go on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="all if none; on a processor the last and linears"
    )
    asked = parser.parse_args()
    found: dict[str, Any] = {"versions": f"torch {torch.__version__}", "device": asked.device}
    card = asked.device == "cuda"
    if card:
        found["device"] = torch.cuda.get_device_name()
    for name in asked.part or (PARTS if card else ("linears", "same_bits")):
        try:
            PARTS[name](found)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(found), flush=True)  # of a process that is stopped the last line counts
        if card:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
