"""Importing bitsandbytes fetches nothing, and leaves `kernels` to whoever uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KERNELS = """
from pathlib import Path
def get_kernel(name, **options):
    Path(__file__).with_name("asked").write_text(name)
    raise OSError("no network here")
"""
BITSANDBYTES = """
try:
    from kernels import get_kernel
    get_kernel("kernels-community/quantization-bitsandbytes", version=1)
except Exception:
    pass
"""


def run(code: str, place: Path) -> str:
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def test_what_needs_bitsandbytes_asks_no_hub_for_a_kernel(tmp_path: Path) -> None:
    # mutation tried: `without` that lets it be imported
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "bitsandbytes.py").write_text(BITSANDBYTES)
    code = "from tunesmith.model import bitsandbytes_alone as b; b.load(); import kernels; print(kernels.__name__)"
    assert run(code, tmp_path) == "kernels"
    assert not (tmp_path / "asked").exists()
    run("import bitsandbytes", tmp_path)
    assert (tmp_path / "asked").exists()  # and without us it does ask


ADAPT = """
import sys
from pathlib import Path
import torch
import tunesmith.tuning.by_peft
from peft import AdaLoraConfig, IA3Config, LoraConfig, import_utils
from transformers import LlamaConfig, LlamaForCausalLM
from tunesmith.tuning.peft_methods import wrap
from tunesmith.tuning.several import attach_several

def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=64))

lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
adapted = wrap(base(), lora, 0)
adapted.save_pretrained("PLACE")
attach_several(base(), {"first": Path("PLACE"), "second": Path("PLACE")})
wrap(base(), AdaLoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", total_step=9), 0)
wrap(base(), IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"), 0)
"""


def test_adapters_on_a_plain_base_never_load_it(tmp_path: Path) -> None:
    # mutations tried: peft_alone.py whose own import hides nothing; `injecting` without only_if_loaded
    (tmp_path / "kernels.py").write_text(KERNELS)
    code = ADAPT.replace("PLACE", str(tmp_path / "adapter")) + "print('bitsandbytes' in sys.modules)"
    assert run(f"exec({code!r})", tmp_path) == "False"
    assert not (tmp_path / "asked").exists()


def test_a_base_in_four_bits_is_adapted_after_a_plain_one(tmp_path: Path) -> None:
    """PEFT keeps its answer whether there is a bitsandbytes: the one for a plain base must not last."""
    # mutations tried: the answers not cleared afterwards; only_if_loaded that hides what is loaded
    (tmp_path / "kernels.py").write_text(KERNELS)
    code = (
        ADAPT.replace("PLACE", str(tmp_path / "adapter"))
        + """
from tunesmith.model.quantised import Held, hold
there = import_utils.is_bnb_available()
quantised = hold(base(), Held("nf4", False, (), 16))
quantised.is_loaded_in_4bit = True  # as transformers says of what it loaded so
held = wrap(quantised, lora, 0)
print(type(held.base_model.model.model.layers[0].self_attn.q_proj).__name__, there)
"""
    )
    assert run(f"exec({code!r})", tmp_path) == "Linear4bit True"
    assert not (tmp_path / "asked").exists()


def test_what_has_no_layer_of_peft_s_does_without_it(tmp_path: Path) -> None:
    # mutation tried: by_peft.py imported by build.py
    code = (
        "import sys; from tunesmith.recipe import Full, Freeze, Lora; from tunesmith.tuning.build import build; "
        "made = [build(one) for one in (Full(method='full'), Freeze(method='freeze', last_layers=1))]; "
        "print('peft' in sys.modules, build(Lora(method='lora')) is not None and 'peft' in sys.modules)"
    )
    assert run(code, tmp_path) == "False True"
