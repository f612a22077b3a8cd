"""Model folders, tokenizers, templates, adapters, run folders and checkpoints that cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.bad_rows import GOOD
from tests.faults.trying import Case

Change = Callable[[Path], Any]
RECIPE = "model: '{dir}/model'\ndata: {train: '{dir}/rows.jsonl'}\noutput: '{dir}/run'\n"


class Canary:
    """Unpickling it would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("CANARY", "w"))


def model(
    name: str,
    change: Change,
    where: str,
    what: str,
    fix: str = ".",
    words: str = "plan {dir}/r.yaml",
    **more: Any,
) -> Case:
    """A copy of a good model folder that one change has spoilt."""

    def spoil(path: Path) -> None:
        shutil.copytree(path.parent / ".." / "model", path, dirs_exist_ok=True)
        change(path)

    files = {"r.yaml": more.pop("recipe", RECIPE), "rows.jsonl": GOOD, "model": spoil}
    return Case(name, words, more.pop("code", "model"), where, what, fix, files=files, **more)


def edit(file: str, **values: Any) -> Change:
    """Change keys of a JSON file; None takes a key away."""

    def change(folder: Path) -> None:
        path = folder / file
        known = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}), encoding="utf-8")

    return change


def write(file: str, content: str | bytes) -> Change:
    """Another content for a file."""
    return lambda folder: (folder / file).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def remove(*files: str) -> Change:
    """Files that are missing."""
    return lambda folder: [(folder / file).unlink() for file in files]


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Other weights."""

    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        held = load_file(path)
        change(held)
        save_file(held, path, metadata={"format": "pt"})

    return rewrite


def pickled(folder: Path) -> None:
    """Weights that only a pickle holds; it would run code when read."""
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Canary()))


def template(text: str) -> Change:
    """Another chat template."""
    return write("chat_template.jinja", text)


def index(folder: Path) -> None:
    """An index that names a shard which is not there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": names})
    )


def index_outside(folder: Path) -> None:
    """An index that names a file beyond its folder."""
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "../../secret.safetensors"}})
    )


def huge(held: dict[str, Any]) -> None:
    """Numbers all of them, but no product of two."""
    held["lm_head.weight"] *= 3e38


def nan(held: dict[str, Any]) -> None:
    """A weight that is no number."""
    held["lm_head.weight"][3, 3] = float("nan")


TRAIN = "train {dir}/r.yaml budget.steps=1"
CASES = [
    model("no model there", lambda folder: shutil.rmtree(folder), "model", "", words=TRAIN),
    model("an empty model folder", lambda folder: [p.unlink() for p in folder.iterdir()], "", ""),
    model("a file for a model", lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "", ""),
    model("no config", remove("config.json"), "", "config.json"),
    model("a config that is no JSON", write("config.json", "{"), "config.json", ""),
    model("a config that is a list", write("config.json", "[]"), "config.json", ""),
    model("a config of bytes", write("config.json", b"\xff\xfe\x00"), "config.json", ""),
    model("a config without sizes", write("config.json", '{"model_type": "llama"}'), "", ""),
    model("a model type nobody knows", edit("config.json", model_type="llamma"), "", ""),
    model("no model type", edit("config.json", model_type=None), "", ""),
    model("layers below 0", edit("config.json", num_hidden_layers=-1), "", ""),
    model("layers in words", edit("config.json", num_hidden_layers="two"), "", ""),
    model("heads that do not divide", edit("config.json", num_attention_heads=3, head_dim=None), "", ""),
    model(
        "heads that transformers divides by",
        edit("config.json", num_attention_heads=3, num_key_value_heads=1, head_dim=16),
        r"config\.json",
        "contradicts itself",
    ),
    model("hidden size 0", edit("config.json", hidden_size=0), "", ""),
    model("a mixture of experts", edit("config.json", model_type="mixtral"), "", "expert"),
    model("an encoder", edit("config.json", model_type="bert", architectures=["BertModel"]), "", ""),
    model(
        "a form of weights not trained here",
        edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "",
        "",
    ),
    model(
        "code of its own",
        edit("config.json", model_type="own", auto_map={"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}),
        "",
        "unasked",
        "trust_remote_code",
    ),
    # ---- weights ----
    model("no weights", remove("model.safetensors"), "", "", words=TRAIN),
    model("pickled weights", pickled, "", "pickle|safetensors", words=TRAIN),
    model("a shard is missing", index, "model-00002", "not there", words=TRAIN),
    model("an index that names a file outside", index_outside, "index.json", "outside its folder"),
    model(
        "weights cut short",
        lambda f: write("model.safetensors", (f / "model.safetensors").read_bytes()[:-100])(f),
        r"model\.safetensors$",
        "cut short",
        words=TRAIN,
    ),
    model("weights of zeros", write("model.safetensors", b"\0" * 100), "", "", words=TRAIN),
    model("empty weights", write("model.safetensors", b""), "", "", words=TRAIN),
    model(
        "a weight is missing",
        tensors(lambda held: held.pop("model.layers.0.mlp.up_proj.weight")),
        "",
        "up_proj",
        words=TRAIN,
    ),
    model(
        "a weight of another shape",
        tensors(lambda held: held.update({"lm_head.weight": held["lm_head.weight"][:9].clone()})),
        "",
        "lm_head",
        words=TRAIN,
    ),
    model("a weight that is NaN", tensors(nan), "", "lm_head.weight", words=TRAIN),
    model("weights that overflow", tensors(huge), r"rows\.jsonl:\d", "no number", "whole|fp32", words=TRAIN),
    model(
        "weights that overflow, and no row held out",
        tensors(huge),
        "step",
        "not finite",
        "whole|fp32",
        words=TRAIN + " data.validation=null",
        code="diverged",
    ),
    # ---- tokenizers and templates ----
    model("no tokenizer", remove("tokenizer.json", "tokenizer_config.json"), "", ""),
    model("a tokenizer that is no JSON", write("tokenizer.json", "{"), "", ""),
    model("a tokenizer of another kind", write("tokenizer.json", '{"version": "1.0"}'), "", ""),
    model("a tokenizer larger than the embedding", edit("config.json", vocab_size=50), "", ""),
    model("a template that does not parse", template("{% for x in %}"), "", "", code="template"),
    model(
        "a template that raises", template("{{ raise_exception('not for you') }}"), "", "", code="template"
    ),
    model("a template of an unknown filter", template("{{ messages | nothing }}"), "", "", code="template"),
    model("a template of an unknown function", template("{{ nothing(messages) }}"), "", "", code="template"),
    model("a template that writes nothing", template(""), "", "", code="template"),
    model(
        "a template without the answer",
        template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"),
        "",
        ".",
        code="template",
    ),
    model(
        "a template without end",
        template("{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}"),
        "",
        ".",
        code="template",
    ),
    model(
        "a template that counts for ever",
        template("{% for a in range(10**9) %}x{% endfor %}"),
        "",
        ".",
        code="template",
    ),
    model("a template of huge output", template("{{ 'x' * 10**10 }}"), "", ".", code="template"),
    model(
        "a template that reaches outside",
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "",
        ".",
        code="template",
    ),
    model(
        "a template by name of a file that is not there",
        lambda f: None,
        "",
        "",
        words="plan {dir}/r.yaml data.template={dir}/no.jinja",
        code="template",
    ),
    # ---- runs, adapters, checkpoints ----
    model(
        "an adapter whose base is gone",
        lambda f: (
            write(
                "adapter_config.json",
                json.dumps(
                    {
                        "peft_type": "LORA",
                        "base_model_name_or_path": "/nothing/here",
                        "r": 4,
                        "target_modules": ["q_proj"],
                    }
                ),
            )(f),
            remove("config.json", "model.safetensors")(f),
        ),
        "",
        "",
    ),
    model(
        "an adapter without weights",
        lambda f: (
            write(
                "adapter_config.json",
                json.dumps(
                    {
                        "peft_type": "LORA",
                        "base_model_name_or_path": str(f.parent.parent / "model"),
                        "r": 4,
                        "target_modules": ["q_proj"],
                    }
                ),
            )(f),
            remove("config.json", "model.safetensors")(f),
        ),
        "",
        "",
        words=TRAIN,
    ),
    model(
        "an adapter config that is no JSON",
        lambda f: (write("adapter_config.json", "{")(f), remove("config.json")(f)),
        "",
        "",
    ),
    model(
        "chat with an empty folder",
        lambda f: [p.unlink() for p in f.iterdir()],
        "",
        "",
        words="chat {dir}/model --prompt hi",
    ),
    model("eval of a run that is none", lambda f: None, "", "", words="eval {dir}/nothing"),
    model(
        "export of a model that is no run",
        lambda f: None,
        "",
        "",
        words="export {dir}/model --to merged",
        code="folder",
    ),
    model(
        "export of nothing", lambda f: None, "", "", words="export {dir}/nothing --to merged", code="folder"
    ),
    model("runs show of a model", lambda f: None, "", "", words="runs show {dir}/model", code="folder"),
    model(
        "runs compare with nothing",
        lambda f: None,
        "",
        "",
        words="runs compare {dir}/model {dir}/nothing",
        code="folder",
    ),
    model("resume of nothing", lambda f: None, "", "", words="train {dir}/r.yaml --resume", code="folder"),
    model(
        "an output that exists",
        lambda f: (
            write("../run/recipe.yaml", "")(f)
            if (f.parent / "run").mkdir()
            else write("../run/recipe.yaml", "x")(f)
        ),
        "run",
        "",
        "resume.*output",
        words=TRAIN,
        code="folder",
    ),
    model(
        "an output that is a file",
        lambda f: (f.parent / "run").write_text(""),
        "",
        "",
        words=TRAIN,
        code="folder",
    ),
    model(
        "an output inside a file",
        lambda f: (f.parent / "run").write_text(""),
        "",
        "",
        words=TRAIN + " output={dir}/run/deep",
        code="folder",
    ),
    model(
        "an output name of NUL",
        lambda f: None,
        "",
        "NUL",
        words=TRAIN,
        code="folder",
        recipe=RECIPE.replace("'{dir}/run'", '"a\\0b"'),
    ),
    model(
        "an output name beyond length",
        lambda f: None,
        "",
        "",
        words=TRAIN + " output={dir}/" + "x" * 300,
        code="folder",
    ),
]
