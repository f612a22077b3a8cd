"""Run by test_triton.py in a process of its own, with TRITON_INTERPRET=1: prints one JSON object, name -> verdict."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.kernels import gate, head, norm, rotary, triton_head, triton_nf4
from tunesmith.kernels.nf4 import dequantise


def quantised(shape: tuple[int, int], kind: str, double: bool) -> Tensor:
    from bitsandbytes.nn import Params4bit

    torch.manual_seed(0)
    weight = Params4bit(torch.randn(shape), requires_grad=False, quant_type=kind, compress_statistics=double)
    return weight.to("cpu")


def widened(
    shape: tuple[int, int], kind: str = "nf4", double: bool = False, dtype: torch.dtype = torch.float32
) -> str:
    weight = quantised(shape, kind, double)
    ours, theirs = triton_nf4.dequantise(weight, dtype), dequantise(weight, dtype)
    return (
        "equal"
        if ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        else f"{(ours - theirs).abs().max()}"
    )


def table(bits: int = 4) -> str:
    """A table's rows by the kernel, as on a card, and in plain torch."""
    from tunesmith.kernels.tables import Table

    torch.manual_seed(4)
    held = Table.of(torch.randn(50, 192), bits)
    plain = held.rows(slice(3, 40), torch.float16)
    codes, scales = held.codes[3:40], held.scales[3:40]
    ours = triton_nf4.widen(codes.reshape(-1), held.levels, scales.reshape(-1), 64, torch.float16)
    return (
        "equal" if torch.equal(ours.view(37, 192), plain) else f"{(ours.view(37, 192) - plain).abs().max()}"
    )


def scored(
    dtype: torch.dtype = torch.float32, scale: float = 1.0, softcap: float | None = None, weighted: bool = False,
    z_loss: float = 0.0,
) -> str:  # fmt: skip
    torch.manual_seed(1)
    raw = (torch.randn(7, 1000) * 3).to(dtype)
    targets = torch.randint(0, 1000, (7,))
    weights = torch.rand(7) * 2 if weighted else None
    exact = raw.double().requires_grad_()
    z = exact * scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    norm = torch.logsumexp(z, 1)
    losses = norm - z.gather(1, targets[:, None])[:, 0] + z_loss * norm**2
    losses = losses if weights is None else losses * weights
    losses.sum().backward()
    got = triton_head.loss_and_gradient(raw, targets, weights, scale, softcap, z_loss)
    assert exact.grad is not None
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    apart = ((got - losses).abs().max() / losses.abs().max()).item()
    slopes = ((raw.double() - exact.grad).norm() / exact.grad.norm()).item()
    return "equal" if apart < 1e-5 and slopes < tolerance else f"losses {apart}, gradients {slopes}"


def summed() -> str:
    """The head as a whole with and without the kernel, a trained weight included."""
    torch.manual_seed(2)
    hidden, weight = torch.randn(40, 16), torch.randn(300, 16)
    targets, weights = torch.randint(0, 300, (40,)), torch.rand(40)

    def run() -> list[Tensor]:
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        bias = torch.zeros(300, requires_grad=True)
        loss = head.summed_loss(h, head.Head(w, bias, 0.7, 5.0), targets, weights, 1e-3)
        return [loss.detach(), *torch.autograd.grad(loss / 3, (h, w, bias))]

    results = both_ways(run, {head: "_fused_on"})
    different = any(not torch.equal(a, b) for a, b in zip(*results))  # two ways, and not one twice
    return verdict(results, 1e-5) if different else "the kernel was not asked"


def both_ways(run: Callable[[], list[Tensor]], places: dict[object, str]) -> list[list[Tensor]]:
    """What `run` gives by plain torch and by the kernels, which a module takes where its switch says so."""
    results = []
    for by_kernel in (False, True):
        for module, switch in places.items():
            assert callable(getattr(module, switch)), "a switch that nobody reads"
            setattr(module, switch, lambda *_, answer=by_kernel: answer)
        results.append(run())
    return results


def verdict(results: list[list[Tensor]], tolerance: float) -> str:
    worst = max(((a - b).double().norm() / a.double().norm()).item() for a, b in zip(*results))
    return "equal" if worst < tolerance else f"{worst}"


def normed(
    spelling: norm.Spelling, dtype: torch.dtype = torch.float32, width: int = 96, rows: int = 37
) -> str:
    """Value, and gradients of input and weight."""
    torch.manual_seed(5)
    given, weight = (torch.randn(shape).to(dtype) for shape in ((2, rows, width), (width,)))
    slope = torch.randn(2, rows, width).to(dtype)

    def run() -> list[Tensor]:
        x, w = given.clone().requires_grad_(), weight.clone().requires_grad_()
        out = norm.rms_norm(x, w, 1e-5, spelling)
        out.backward(slope)
        assert x.grad is not None
        assert w.grad is not None
        return [out.detach(), x.grad, w.grad]

    return verdict(both_ways(run, {norm: "_on_card"}), 1e-6 if dtype == torch.float32 else 1e-3)


def gated(
    act: gate.Act, dtype: torch.dtype = torch.float32, halves: bool = False, again: bool = False
) -> str:
    """Value and gradients; gates and up may be halves of one tensor, and h may be asked for again."""
    torch.manual_seed(6)
    both, slope = torch.randn(11, 2 * 2500).to(dtype), torch.randn(11, 2500).to(dtype)
    gates, up = both.chunk(2, 1) if halves else (x.contiguous() for x in both.chunk(2, 1))

    def run() -> list[Tensor]:
        seen: list[Tensor] = []
        shown = (lambda rows, h: seen.append(h.clone())) if again else None
        out = gate.gate(gates, up, act)
        found = gate.gate_backward(gates, up, slope.clone(), act, shown)
        return [out, *found, *([torch.cat(seen)] if again else [])]

    return verdict(both_ways(run, {gate: "takes"}), 2e-6 if dtype == torch.float32 else 1e-3)


def rotated(
    dtype: torch.dtype = torch.float32,
    heads: int = 3,
    width: int = 24,
    shared: bool = False,
    keys_heads: int = 2,
) -> str:
    """Value and gradient; x and what comes back may be views whose heads stand before their tokens."""
    torch.manual_seed(7)
    given = torch.randn(2, heads, 9, width).to(dtype).transpose(1, 2)
    angles = torch.randn(1 if shared else 2, 9, width)
    cos, sin, slope = (
        angles.cos().to(dtype),
        angles.sin().to(dtype),
        torch.randn(2, 9, heads, width).to(dtype),
    )

    def run() -> list[Tensor]:
        x = given.detach().requires_grad_()
        keys = given[:, :, :keys_heads].detach().requires_grad_()
        both = [x, keys] if keys_heads else [x]
        outs = rotary.rotate(both, cos, sin)
        torch.autograd.backward(outs, [slope[:, :, : one.shape[2]] for one in outs])
        return [*(out.detach() for out in outs), *(one.grad for one in both if one.grad is not None)]

    return verdict(both_ways(run, {rotary: "_one_pass"}), 1e-6 if dtype == torch.float32 else 1e-3)


def rotated_by_wide_angles() -> str:
    """In 16 bits by fp32 angles, as autocast has it: of products nothing is rounded, and what leaves is narrow."""
    torch.manual_seed(8)
    given, angles = torch.randn(2, 9, 4, 64).half(), torch.randn(2, 9, 64)
    slope = torch.randn(2, 9, 4, 64).half()

    def run() -> list[Tensor]:
        x = given.detach().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16):
            out = rotary.rotate([x], angles.cos(), angles.sin())[0]
        assert out.dtype == torch.float16
        out.backward(slope)
        assert x.grad is not None
        return [out.detach(), x.grad]

    return verdict(both_ways(run, {rotary: "_one_pass"}), 1e-6)


def adam_in_8_bits(*shape: int) -> str:
    """Five steps each way from one history: equal but for what is drawn, which has the right mean."""
    from tunesmith.engine import adam8
    from tunesmith.engine.small_adam import SmallAdamW

    torch.manual_seed(8)
    begin, slopes = torch.randn(shape), torch.randn(6, *shape)
    slopes[..., ::7] *= 1e-9  # so small beside their neighbours that no code is near
    made, codes = [], adam8.square_codes()
    for by_kernel in (False, True):
        weight = torch.nn.Parameter(begin.clone())
        optimizer: SmallAdamW = adam8.AdamW8bit(
            [{"params": [weight], "weight_decay": 0.1}], (0.9, 0.999), 1e-8
        )
        optimizer.param_groups[0]["lr"] = 0.01
        for number, slope in enumerate(slopes):  # only the last step is the kernel's
            adam8.takes = lambda *_, answer=by_kernel and number == 5: answer
            weight.grad = slope
            if number == 5:
                held = optimizer.state[weight]
                v = codes[held["v_codes"].int()] * held["v_scales"][:, None]
                exact = v.view(-1)[: begin.numel()] * 0.999 + slope.view(-1) ** 2 * 0.001
            optimizer.step()
        made.append((weight.detach(), optimizer.state[weight]))
    (plain, before), (ours, after) = made
    scales = max((before[f"{x}_scales"] - after[f"{x}_scales"]).abs().max().item() for x in "mv")
    other = (before["m_codes"] != after["m_codes"]).float().mean().item()
    vanished = bool((after["v_codes"].view(-1)[: begin.numel()] == 0).any())
    # where v stands between two codes, and how often the kernel took the upper one of those nearer to the lower
    blocks = torch.nn.functional.pad(exact, (0, after["v_codes"].numel() - exact.numel())).view(-1, 256)
    value = blocks / after["v_scales"][:, None]
    above = torch.bucketize(value, codes).clamp(1, 255)
    share = (value - codes[above - 1]) / (codes[above] - codes[above - 1])
    low = (value > codes[1]) & (share < 0.4)
    drift = (after["v_codes"].int() == above).float()[low].mean() - share[low].mean()
    good = (plain - ours).abs().max() < 1e-6 and scales < 1e-6 and other < 1e-3 and drift.abs() < 0.02
    said = f"weights {(plain - ours).abs().max()}, scales {scales}, other codes {other}, drift {drift}"
    return "equal" if good and not vanished else f"{said}, vanished {vanished}"


CHECKS: dict[str, Callable[[], str]] = {
    "nf4": lambda: widened((64, 96)),
    "nf4_double_quant": lambda: widened((320, 256), double=True),
    "fp4": lambda: widened((64, 96), "fp4", double=True),
    # the interpreter cuts fp32 to bf16 where a card rounds: 16 bits are compared in fp16
    "nf4_fp16": lambda: widened((64, 96), double=True, dtype=torch.float16),
    "nf4_uneven": lambda: widened((7, 33), double=True),
    "table": table,
    "head": scored,
    "head_bf16": lambda: scored(torch.bfloat16),
    "head_capped": lambda: scored(softcap=4.0, scale=0.5),
    "head_weighted": lambda: scored(weighted=True),
    "head_z_loss": lambda: scored(z_loss=1e-2),
    "head_all": lambda: scored(torch.bfloat16, 0.25, 6.0, True, 1e-2),
    "summed_loss": summed,
    "norm": lambda: normed("rms"),
    "norm_scaled": lambda: normed("scaled"),
    "norm_offset": lambda: normed("offset", rows=1),
    "norm_fp16": lambda: normed("rms", torch.float16),
    "norm_of_heads": lambda: normed("rms", width=16, rows=900),
    "norm_wide": lambda: normed("rms", width=5000, rows=3),
    "gate_silu": lambda: gated("silu", again=True),
    "gate_gelu": lambda: gated("gelu"),
    "gate_gelu_tanh": lambda: gated("gelu_tanh", halves=True),
    "gate_fp16": lambda: gated("silu", torch.float16, again=True),
    "rotary": rotated,
    "rotary_shared": lambda: rotated(shared=True),
    "rotary_wide": rotated_by_wide_angles,
    "adam8": lambda: adam_in_8_bits(400, 160),
    "adam8_uneven": lambda: adam_in_8_bits(71, 63),
    "rotary_fp16": lambda: rotated(torch.float16, heads=4, width=64, keys_heads=1),
    "rotary_alone": lambda: rotated(keys_heads=0),
}

if __name__ == "__main__":
    print(json.dumps({name: check() for name, check in CHECKS.items()}))
