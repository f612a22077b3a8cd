"""An export as a page: where it lies, and what its certificate says."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from tunesmith.app.render import base, scores


def page(document: dict[str, Any]) -> RenderableType:
    """The document of `export`: {"run", "form", "folder", "certificate"}."""
    path = base.visible(document["folder"])
    certificate = document.get("certificate")
    ours = (certificate or {}).get("format") == "tunesmith"  # PEFT has no such method
    load = "tunesmith.load_adapter" if ours else "PeftModel.from_pretrained"
    ways = {
        "merged": [
            f"tunesmith chat {base.typed(document['folder'])}",
            f'AutoModelForCausalLM.from_pretrained("{path}")',
        ],
        "adapter": [f'{load}(base, "{path}")'],
    }
    return base.page(
        base.mark("good", f"exported: {path}"),
        proof(certificate) if certificate else None,
        scores.next_steps(ways.get(document.get("form", ""), [])),
    )


def proof(certificate: dict[str, Any]) -> RenderableType:
    """What was compared, and how near the two are."""
    rows: list[tuple[str, RenderableType]] = [
        ("certificate", base.mark("good", "passed") if certificate["passed"] else base.mark("bad", "failed"))
    ]
    for name, key, show in (
        ("probes", "probes", base.count),
        ("logits differ", "max_abs_logit_difference", lambda value: f"by at most {value:.2e}"),
        ("KL (nats)", "kl_nats", lambda value: f"{value:.2e}"),
        ("same best token", "top1_agreement", lambda value: f"{100 * value:.4g}%"),
        ("dtype", "dtype", str),
    ):
        if certificate.get(key) is not None:
            rows.append((name, show(certificate[key])))
    if certificate.get("onto"):
        rows.append(("merged onto", f"the {certificate['onto']} base"))
    if tables := certificate.get("tables"):
        said = f"those of the base; in training they stood in {tables['bits_in_training']} bits"
        rows.append(("embedding and head", said))
    if apart := certificate.get("against_as_trained"):
        said = f"KL {apart['kl_nats']:.2e}, same best token {100 * apart['top1_agreement']:.4g}%"
        rows.append(("from the model trained", said))
    return base.facts(rows)
