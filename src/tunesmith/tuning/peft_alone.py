"""The one door to PEFT: without bitsandbytes, which it imports with itself, 0.7 s and 17 MiB at each start.

Where nobody has loaded bitsandbytes, no layer can be one of its, so PEFT need not look: it is imported here while there
seems to be none, and `injecting` says the same where it puts layers in. What holds a base in 4 bits loads it before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.model import bitsandbytes_alone


@contextmanager
def injecting() -> Iterator[None]:
    """Where PEFT puts layers in: bitsandbytes' only if it is loaded, and without a warning of an old name.

    PEFT keeps its answer whether there is one; the next to ask must find out anew.
    """
    from peft import import_utils

    answers = (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available)
    try:
        with bitsandbytes_alone.only_if_loaded(), warnings.catch_warnings():
            # its constructor asks for is_gradient_checkpointing
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            for answer in answers:
                answer.cache_clear()
            yield
    finally:
        for answer in answers:
            answer.cache_clear()


with bitsandbytes_alone.only_if_loaded():
    from peft import (
        AdaLoraConfig,
        BeftConfig,
        IA3Config,
        LoraConfig,
        OFTConfig,
        PeftConfig,
        PeftModel,
        PrefixTuningConfig,
        PromptLearningConfig,
        PromptTuningConfig,
        VeraConfig,
        get_peft_model,
    )
    from peft.tuners.lora import Linear as LoraLinear
    from peft.utils import get_peft_model_state_dict

__all__ = [
    "AdaLoraConfig",
    "BeftConfig",
    "IA3Config",
    "LoraConfig",
    "LoraLinear",
    "OFTConfig",
    "PeftConfig",
    "PeftModel",
    "PrefixTuningConfig",
    "PromptLearningConfig",
    "PromptTuningConfig",
    "VeraConfig",
    "get_peft_model",
    "get_peft_model_state_dict",
    "injecting",
]
