"""Counts from config.json alone equal what transformers builds; a fault names the place and the way out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ModelError
from tunesmith.model.facts import ModelFacts, facts_from_config, read_facts
from tunesmith.recipe import Model

TINY = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4,
}  # fmt: skip

# Values of the published config.json files, and the totals their weights have.
KNOWN: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-2-7B": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False}, 6_738_415_616),
    "Llama-3-8B": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}, 8_030_261_248),
    "Llama-3.2-1B": (
        {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
         "tie_word_embeddings": True}, 1_235_814_400),
    "Mistral-7B": (
        {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}, 7_241_732_096),
    "Qwen2.5-0.5B": (
        {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
         "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
         "tie_word_embeddings": True}, 494_032_768),
    "Qwen2.5-7B": (
        {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
         "tie_word_embeddings": False}, 7_615_616_512),
    "Qwen3-0.6B": (
        {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
         "tie_word_embeddings": True}, 596_049_920),
    "Qwen3-8B": (
        {"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
         "tie_word_embeddings": False}, 8_190_735_360),
}  # fmt: skip

# Published models of every other kind of family; counts as their hub pages give them.
KNOWN |= {
    "gpt2": (
         {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
         "n_ctx": 1024, "vocab_size": 50257}, 124_439_808),
    "gpt2-xl": (
         {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024,
         "vocab_size": 50257}, 1_557_611_200),
    "pythia-160m": (
         {"model_type": "gpt_neox", "hidden_size": 768, "intermediate_size": 3072,
         "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50304,
         "max_position_embeddings": 2048, "tie_word_embeddings": False}, 162_322_944),
    "pythia-6.9b": (
         {"model_type": "gpt_neox", "hidden_size": 4096, "intermediate_size": 16384,
         "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50432,
         "tie_word_embeddings": False}, 6_857_302_016),
    "phi-2": (
         {"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers":
         32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 51200,
         "tie_word_embeddings": False}, 2_779_683_840),
    "Phi-3-mini-4k": (
         {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers":
         32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
         "tie_word_embeddings": False}, 3_821_079_552),
    "gemma-2b": (
         {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384,
         "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim":
         256, "vocab_size": 256000}, 2_506_172_416),
    "gemma-2-2b": (
         {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216,
         "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim":
         256, "vocab_size": 256000}, 2_614_341_888),
    "gemma-2-9b": (
         {"model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
         "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim":
         256, "vocab_size": 256000}, 9_241_705_984),
    "gemma-3-1b": (
         {"model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912,
         "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim":
         256, "vocab_size": 262144}, 999_885_952),
    "OLMo-1B-hf": (
         {"model_type": "olmo", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers":
         16, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 50304,
         "tie_word_embeddings": True}, 1_176_764_416),
    "OLMo-2-1124-7B": (
         {"model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "vocab_size": 100352, "tie_word_embeddings": False}, 7_298_617_344),
    "starcoder2-3b": (
         {"model_type": "starcoder2", "hidden_size": 3072, "intermediate_size": 12288,
         "num_hidden_layers": 30, "num_attention_heads": 24, "num_key_value_heads": 2, "vocab_size":
         49152, "use_bias": True}, 3_030_371_328),
    "SmolLM3-3B": (
         {"model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008,
         "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size":
         128256, "tie_word_embeddings": True}, 3_075_098_624),
    "glm-4-9b-chat-hf": (
         {"model_type": "glm", "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers":
         40, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "vocab_size":
         151552, "attention_bias": True, "tie_word_embeddings": False}, 9_399_951_360),
    "GLM-4-9B-0414": (
         {"model_type": "glm4", "hidden_size": 4096, "intermediate_size": 13696,
         "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim":
         128, "vocab_size": 151552, "attention_bias": True, "tie_word_embeddings": False},
         9_400_279_040),
    "granite-3.0-2b-base": (
         {"model_type": "granite", "hidden_size": 2048, "intermediate_size": 8192,
         "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size":
         49155, "tie_word_embeddings": True}, 2_533_531_648),
    "c4ai-command-r-v01": (
         {"model_type": "cohere", "hidden_size": 8192, "intermediate_size": 22528,
         "num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": 64,
         "vocab_size": 256000}, 34_980_831_232),
    "Yi-6B": (
         {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size":
         64000}, 6_061_035_520),
    "deepseek-llm-7b": (
         {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 32,
         "vocab_size": 102400}, 6_910_365_696),
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, grouped, tied": {"model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama, own head_dim": {"model_type": "llama", "head_dim": 10, "num_key_value_heads": 1},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 2},
    "mistral, head_dim": {"model_type": "mistral", "num_key_value_heads": 4, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2, untied": {"model_type": "qwen2", "num_key_value_heads": 4},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8},
    "qwen3, default head_dim": {"model_type": "qwen3", "num_key_value_heads": 2, "num_hidden_layers": 1},
    "qwen3, biases, tied": {
        "model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 6, "attention_bias": True,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


def folder(path: Path, config: dict[str, Any] | str, *files: str) -> Path:
    """A model folder with this config.json, whole weight files without weights, and empty other files."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(
        config if isinstance(config, str) else json.dumps(config), encoding="utf-8"
    )
    for name in files:
        header = (2).to_bytes(8, "little") + b"{}" if name.endswith(".safetensors") else b""
        (path / name).write_bytes(header)
    return path


def facts(path: Path | str, **options: Any) -> ModelFacts:
    return read_facts(Model(path=str(path), **options))


# mutation tried: counting the head of a tied model twice, leaving out q_norm, a bias on o_proj of qwen2
@pytest.mark.parametrize("name", KNOWN)
def test_the_count_of_a_known_model_is_exact(name: str) -> None:
    config, total = KNOWN[name]
    assert facts_from_config(config).parameters == total


@pytest.mark.parametrize("name", VARIANTS)
def test_names_and_sizes_equal_those_of_a_real_model_and_its_saved_config(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**TINY, **VARIANTS[name]}
    config = AutoConfig.for_model(**values)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {n: p.numel() for n, p in model.named_parameters()}
    for found in (facts_from_config(values), facts(tmp_path)):
        assert dict(found.named_parameters()) == expected
        assert found.parameters == sum(expected.values()) == model.num_parameters()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_new_model_is_counted_as_transformers_would_build_it(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    words = {"model": {"vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": [{"id": 3}, {"id": 4}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    values = {"model_type": family, "num_hidden_layers": 1}
    found = read_facts(Model(from_config=values, tokenizer=str(tmp_path)))
    assert found.vocab_size == 5
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values, vocab_size=5))
    assert found.parameters == model.num_parameters()


def test_a_new_model_is_a_llama_without_biases_unless_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", 0.0], ["b", 0.0]]}}))
    found = read_facts(
        Model(from_config={"hidden_size": 8, "num_attention_heads": 2}, tokenizer=str(tmp_path))
    )
    assert (found.family, found.vocab_size, found.attention_bias) == ("llama", 2, False)


def test_a_run_folder_leads_to_the_model_it_trained(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", {**TINY, "model_type": "llama"}, "model.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"model: {base}\ndata: {{train: rows.jsonl}}\n")
    assert facts(run).layers == 3
    folder(run / "model", {**TINY, "model_type": "llama", "num_hidden_layers": 5}, "model.safetensors")
    assert facts(run).layers == 5


def test_a_run_that_leads_back_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"model: {tmp_path}\ndata: {{train: rows.jsonl}}\n")
    with pytest.raises(ModelError, match="leads back to itself"):
        facts(tmp_path)


# mutation tried: each check of _family and _shape, and the one for pickles, made never true
LLAMA = {**TINY, "model_type": "llama"}
FAULTS: dict[str, tuple[dict[str, Any] | str, tuple[str, ...], str]] = {
    "broken json": ("{nope", (), "not valid JSON"),
    "json list": ("[1]", (), "JSON object"),
    "no type": (TINY, (), "no model_type"),
    "experts": ({**TINY, "model_type": "qwen3_moe", "num_experts": 8}, (), "mixture of experts"),
    "mixtral": ({**TINY, "model_type": "mixtral"}, (), "mixture of experts"),
    "unknown family": ({**TINY, "model_type": "no_such"}, (), "cannot be built"),
    "remote code": ({**TINY, "model_type": "chatglm", "auto_map": {"AutoModel": "m.M"}}, (), "Python code"),
    "quantised": ({**LLAMA, "quantization_config": {"bits": 4}}, (), "quantised"),
    "classifier": ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, (), "output head"),
    "pickle only": (LLAMA, ("pytorch_model.bin",), "pickled"),
    "missing size": ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, (), "hidden_size is missing"),
    "bad size": ({**LLAMA, "num_hidden_layers": "3"}, (), "num_hidden_layers is '3'"),
    "uneven heads": ({**LLAMA, "hidden_size": 25}, (), "no multiple"),
    "uneven groups": ({**LLAMA, "num_key_value_heads": 3}, (), "cannot share"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_folder_is_a_model_error_with_a_way_out(name: str, tmp_path: Path) -> None:
    config, files, words = FAULTS[name]
    with pytest.raises(ModelError) as caught:
        facts(folder(tmp_path / "m", config, *files))
    assert words in str(caught.value)
    assert str(tmp_path / "m") in caught.value.problems[0].where
    assert caught.value.problems[0].fix


def test_pickled_weights_beside_safetensors_do_no_harm(tmp_path: Path) -> None:
    assert facts(folder(tmp_path, LLAMA, "pytorch_model.bin", "model.safetensors")).layers == 3


def test_remote_code_is_run_when_asked_for_and_then_seen_in_the_reason(tmp_path: Path) -> None:
    config = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "m.M"}}
    assert facts(folder(tmp_path, config)).supported  # transformers' own llama, the code unused
    with pytest.raises(ModelError, match="cannot be built"):  # there is no m.py
        facts(folder(tmp_path, config), trust_remote_code=True)


@pytest.mark.parametrize(
    ("path", "words"),
    [("./nowhere", "no such folder"), ("/nowhere/at/all", "no such folder"), ("a/b/c", "no such folder")],
)
def test_a_missing_folder_is_named(path: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        facts(path)


def test_files_and_folders_that_are_no_models_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").touch()
    for name, words in (("a", "adapter_config.json"), ("b", "no config.json"), ("c", "is a file")):
        with pytest.raises(ModelError, match=words):
            facts(tmp_path / name)


def test_chat_and_base_are_told_by_name_and_template(tmp_path: Path) -> None:
    def kind(name: str, template: bool) -> str:
        path = folder(tmp_path / name, LLAMA)
        (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"} if template else {}))
        return facts(path).kind

    assert kind("Qwen2.5-0.5B-Instruct", True) == "chat"
    assert kind("gemma-2b-it", False) == "chat"
    assert kind("Qwen3-0.6B-Base", True) == "base"
    assert kind("stories", False) == "base"
    assert kind("model", True) == "unknown"


# ---- the hub ----


class _Hub(BaseHTTPRequestHandler):
    """A stub hub: one llama, one pickled model, one gated."""

    files: dict[str, list[str]] = {"org/good": ["model.safetensors"], "org/pickled": ["pytorch_model.bin"]}  # noqa: RUF012

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4]) if parts[0] == "api" else "/".join(parts[:2])
        if name == "org/gated":
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        if name not in self.files:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if parts[0] == "api":
            siblings = [{"rfilename": f} for f in ["config.json", *self.files[name]]]
            return self._send(
                200, json.dumps({"id": name, "sha": "0" * 40, "siblings": siblings}).encode(), {}, body
            )
        if "revision-x" in path:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        if not path.endswith("config.json"):
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        headers = {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
        return self._send(200, json.dumps(LLAMA).encode(), headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    """A function that reads facts of a repository in a new process whose hub is a stub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(repo: str, endpoint: str = f"http://127.0.0.1:{server.server_port}", **options: str) -> str:
        code = (
            "import sys; from tunesmith.model.facts import read_facts; from tunesmith.recipe import Model\n"
            "from tunesmith.errors import ModelError\n"
            f"try: print(read_facts(Model(path={repo!r}, **{options!r})).parameters)\n"
            "except ModelError as error: print(error)\n"
        )
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PATH": "", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield ask
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_read_from_the_hub_and_then_from_its_cache(hub: Any) -> None:
    count = str(facts_from_config(LLAMA).parameters)
    assert hub("org/good").strip() == count
    start = time.perf_counter()
    assert hub("org/good", endpoint="http://127.0.0.1:9").strip() == count
    assert "cannot be reached" in hub("org/other", endpoint="http://127.0.0.1:9")
    assert time.perf_counter() - start < 15  # two interpreters; the hub's client alone would retry for 23 s


@pytest.mark.parametrize(
    ("repo", "options", "words"),
    [
        ("org/nothing", {}, "no such repository"),
        ("org/gated", {}, "is gated"),
        ("org/pickled", {}, "pickled"),
        ("org/good", {"revision": "revision-x"}, "no revision"),
    ],
)
def test_a_fault_of_the_hub_is_said_plainly(hub: Any, repo: str, options: dict[str, str], words: str) -> None:
    assert words in hub(repo, **options)


def test_facts_and_plans_load_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder(tmp_path, LLAMA)
    code = (
        "import sys, tunesmith.tuning.table\n"
        "from tunesmith.model.facts import read_facts; from tunesmith.recipe import Model\n"
        f"read_facts(Model(path={str(tmp_path)!r}))\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
