"""Keep secrets out of what is printed or written: tokens in the environment, in URLs, in messages.

https://me:hf_abc@host/x -> https://…@host/x        hf_abcdefgh... -> hf_…
"""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"(?i)(?:^|_)(token|secret|password|passwd|api_?key|access_?key|credentials?)(?:_|$)")
_SHAPES = (
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@]+@"), r"\1…@"),
    (re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|wandb_|glpat-)[A-Za-z0-9_\-]{8,}"), r"\1…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._\-]{8,}"), r"\1 …"),
    (
        re.compile(r"(?i)\b(\w*(?:token|secret|password|api_?key)\s*[=:]\s*)['\"]?[\w+/=.\-]{8,}['\"]?"),
        r"\1…",
    ),
)


def redact(text: str) -> str:
    """`text` without anything that looks like a secret, or equals one of the environment's."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _NAMES.search(name) and not value.startswith("/"):
            text = text.replace(value, "…")
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text
