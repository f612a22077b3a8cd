"""Data at scale: memory, speed, disk and restarts of the preparation at millions of generated short rows.

python benchmarks/data_scale.py --rows 3000000 --small 300000 --tokenizer FOLDER [--peer-python PEER/bin/python]

Everything is measured in processes of its own, in one run: memory is the kernel's RssAnon, sampled; speeds are
compared with `datasets.map(batched=True)` and with a bare `encode_batch` on the same rows, tokenizer and template.
The peer's environment: python -m venv PEER && PEER/bin/pip install datasets transformers jinja2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS = re.findall(
    r"\w+",
    "what is the time where can one learn how do you make why does it rain in a small town by the sea when birds "
    "fly south and winter comes with snow on every roof please tell me about rivers mountains bread music numbers",
)


# --- the rows -------------------------------------------------------------------------------------------------


def generate(path: Path, rows: int, topics: int = 64) -> None:
    """Short question-answer rows, topic after topic, as files are that were put together."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            topic = f"t{number * topics // rows}"
            question = " ".join(draw.choices(WORDS, k=draw.randint(5, 14)))
            answer = " ".join(draw.choices(WORDS, k=draw.randint(3, 12)))
            file.write(f'{{"prompt": "{topic} {number} {question}?", "response": "{answer}."}}\n')


# --- watching memory ------------------------------------------------------------------------------------------


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Sampler:
    """Keeps the largest RssAnon of this process and of the workers, looked at every 50 ms."""

    def __init__(self) -> None:
        self.parent = self.worker = 0
        self.workers: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def look(self) -> None:
        self.parent = max(self.parent, anonymous_bytes(os.getpid()))
        self.worker = max([self.worker, *map(anonymous_bytes, self.workers)])

    def __enter__(self) -> Sampler:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


# --- what is measured, each in a process of its own -----------------------------------------------------------


def words(tokenizer: str) -> tuple[Any, Any]:
    from transformers import (
        PreTrainedTokenizerFast,  # AutoTokenizer imports torch, 130 MiB that are not asked for
    )

    from tunesmith.data.heap import give_back
    from tunesmith.data.template import ChatTemplate

    loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    give_back()  # as the preparation does first
    return loaded, ChatTemplate.of(loaded)


def recipe_data(path: str) -> Any:
    from tunesmith.recipe import Data

    return Data(train=path, validation=0.01)  # type: ignore[arg-type]


def child_prepare(path: str, tokenizer: str, workers: int) -> dict[str, Any]:
    """The preparation from nothing."""
    from tunesmith.data.prepare import prepare

    loaded, template = words(tokenizer)
    base = anonymous_bytes(os.getpid())
    with Sampler() as sampler:
        began, cpu = time.perf_counter(), os.times()
        watch = sampler.workers.extend
        done = prepare(recipe_data(path), "sft", loaded, template, 0, workers=workers, watch=watch)
        spent = os.times()
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "cpu_seconds": sum(spent[:4]) - sum(cpu[:4]),
        "parent_anon_bytes": sampler.parent,
        "parent_base_bytes": base,
        "worker_anon_bytes": sampler.worker,
        "samples": len(done.train[0]),
        "tokens": done.train[0].token_count,
    }


def child_train(path: str, tokenizer: str, epochs: float) -> dict[str, Any]:
    """Training's side: open the cache, lay out the run, read every step of it."""
    from tunesmith.data.loader import batches, plan_steps
    from tunesmith.data.prepare import prepare
    from tunesmith.recipe import Epochs

    loaded, template = words(tokenizer)
    base = anonymous_bytes(os.getpid())
    with Sampler() as sampler:
        began = time.perf_counter()
        data = prepare(recipe_data(path), "sft", loaded, template, 0)
        opened = time.perf_counter() - began
        steps = plan_steps(data.train, data.weights, Epochs(epochs=epochs), 16384, 0)
        first = next(batches(steps.samples(data.train, 0), 4096, True))
        first_batch = time.perf_counter() - began
        resumed = time.perf_counter()
        steps.samples(data.train, len(steps) * 2 // 3)
        resumed = time.perf_counter() - resumed
        for step in range(0, len(steps), 4):
            steps.samples(data.train, step)
    return {
        "opened_seconds": opened,
        "first_batch_seconds": first_batch,
        "resume_seconds": resumed,
        "steps": len(steps),
        "first_batch_tokens": first.tokens,
        "base_bytes": base,
        "anon_bytes": sampler.parent,
        "above_bytes": sampler.parent - base,
    }


def child_bare(path: str, tokenizer: str, rows: int) -> dict[str, Any]:
    """CPU seconds of one thread: encode_batch on texts that are there already, and all of the preparation."""
    from tunesmith.data.gather import open_source
    from tunesmith.data.prepare import prepare
    from tunesmith.recipe import Source

    loaded, template = words(tokenizer)
    opened = open_source(Source(path=path))
    texts = []
    for _, raw in zip(range(rows), opened.rows):
        texts.append(template.text(template.turns(opened.record(raw).messages)))  # type: ignore[union-attr]
    backend = loaded.backend_tokenizer
    bare, own = [], []
    for turn in range(3):
        began = time.process_time()
        for start in range(0, rows, 1000):
            backend.encode_batch(texts[start : start + 1000], add_special_tokens=False)
        bare.append(time.process_time() - began)
        os.environ["TUNESMITH_CACHE"] = tempfile.mkdtemp()
        began = time.process_time()
        prepare(recipe_data(path), "sft", loaded, template, turn, workers=0)
        own.append(time.process_time() - began)
        shutil.rmtree(os.environ["TUNESMITH_CACHE"])
    return {"rows": rows, "encode_batch_cpu_seconds": min(bare), "prepare_cpu_seconds": min(own)}


def child_spin(seconds: float) -> dict[str, Any]:
    """How far a plain loop counts."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        count += 1
    return {"count": count}


PEER = """
import json, os, sys, time
path, tokenizer, processes, cache = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
import datasets
from transformers import AutoTokenizer
datasets.disable_progress_bars()
loaded = AutoTokenizer.from_pretrained(tokenizer)
data = datasets.load_dataset("json", data_files=path, split="train", cache_dir=cache)

def tokenise(rows):
    texts = [
        loaded.apply_chat_template(
            [{"role": "user", "content": q}, {"role": "assistant", "content": a}], tokenize=False
        )
        for q, a in zip(rows["prompt"], rows["response"])
    ]
    found = loaded(texts, add_special_tokens=False)
    return {"input_ids": found["input_ids"], "labels": [list(x) for x in found["input_ids"]],
            "attention_mask": found["attention_mask"]}

began, cpu = time.perf_counter(), os.times()
done = data.map(tokenise, batched=True, remove_columns=data.column_names, num_proc=processes or None)
spent = os.times()
size = sum(os.path.getsize(each["filename"]) for each in done.cache_files)
print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": sum(spent[:4]) - sum(cpu[:4]),
                  "bytes": size, "rows": len(done), "datasets": datasets.__version__}))
"""


def saved(tokenizer: str, folder: Path) -> str:
    """The tokenizer as one tokenizer.json, whatever it was; `bytes`: each byte a token, with ChatML's two marks."""
    from transformers import AutoTokenizer

    if tokenizer == "bytes":
        return saved_bytes(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return str(folder)


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def saved_bytes(folder: Path) -> str:
    """So quick a tokenizer that what is measured is our own work."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    marks = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=["<|im_start|>"], **marks
    )
    made.chat_template = CHATML
    made.save_pretrained(folder)
    return str(folder)


# --- putting it together --------------------------------------------------------------------------------------


class Bench:
    """The folder, the rows and what was measured so far."""

    def __init__(self, folder: Path, tokenizer: str, workers: int, peer: str | None) -> None:
        self.folder, self.tokenizer, self.workers, self.peer = folder, tokenizer, workers, peer
        self.found: dict[str, Any] = {}

    def rows(self, count: int) -> Path:
        path = self.folder / f"rows-{count}.jsonl"
        if not path.exists():
            generate(path, count)
        return path

    def environment(self, cache: str) -> dict[str, str]:
        return {**os.environ, "TUNESMITH_CACHE": str(self.folder / cache), "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1"}  # fmt: skip

    def start(self, cache: str, *words: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--child", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment(cache))

    def child(self, cache: str, *words: object) -> dict[str, Any]:
        process = self.start(cache, *words)
        out, _ = process.communicate()
        assert process.returncode == 0, words
        found: dict[str, Any] = json.loads(out)
        return found

    def clear(self, cache: str) -> None:
        shutil.rmtree(self.folder / cache, ignore_errors=True)

    def prepare(self, rows: int, cache: str, workers: int) -> dict[str, Any]:
        self.clear(cache)
        return self.child(cache, "prepare", self.rows(rows), self.tokenizer, workers)

    def memory_and_restart(self, sizes: Sequence[int]) -> None:
        """Preparing, and training's side of it, at each size."""
        for rows in sizes:
            cache = f"cache-{rows}"
            made = self.prepare(rows, cache, self.workers)
            made["bytes"] = sum(p.stat().st_size for p in (self.folder / cache).rglob("*") if p.is_file())
            made["shards"] = len(list((self.folder / cache).rglob("shard-*.bin")))
            self.found[f"prepare_{rows}"] = made
            self.found[f"train_{rows}"] = self.child(cache, "train", self.rows(rows), self.tokenizer, 2)
            print(rows, made, self.found[f"train_{rows}"], file=sys.stderr)

    def against_peer(self, rows: int) -> None:
        """The same rows by datasets.map, before and after ours, with as many processes."""
        if self.peer is None:
            return
        turns = []
        for _ in range(2):
            cache = self.folder / "peer"
            shutil.rmtree(cache, ignore_errors=True)
            command = [self.peer, "-c", PEER, self.rows(rows), self.tokenizer, self.workers, cache]
            out = subprocess.run(
                [str(word) for word in command],
                stdout=subprocess.PIPE,
                check=True,
                env=self.environment("none"),
            ).stdout
            turns.append({"peer": json.loads(out), "ours": self.prepare(rows, "cache-peer", self.workers)})
            print(turns[-1], file=sys.stderr)
        ours = sum(p.stat().st_size for p in (self.folder / "cache-peer").rglob("*") if p.is_file())
        self.found["peer"] = {
            "rows": rows,
            "turns": turns,
            "our_bytes": ours,
            "peer_bytes": turns[0]["peer"]["bytes"],
        }

    def overhead(self, rows: int) -> None:
        """Own work over a bare encode_batch, in processor time of one thread."""
        self.found["overhead"] = self.child("none", "bare", self.rows(rows), self.tokenizer, rows)

    def scaling(self, rows: int, counts: Sequence[int]) -> None:
        """Workers against a spin loop that counts just before and just after them, three times around."""
        turns: list[dict[str, Any]] = []
        for _ in range(3):
            for count in counts:
                before = self._spin(count)
                seconds = self.prepare(rows, "cache-scaling", count)["seconds"]
                spin = (before + self._spin(count)) / 2
                turns.append({"workers": count, "spin": spin, "rows_per_second": rows / seconds})
                print(turns[-1], file=sys.stderr)
        self.found["scaling"] = turns

    def _spin(self, count: int) -> int:
        """How far so many plain loops count together."""
        spinning = [self.start("none", "spin", 3) for _ in range(count)]
        return sum(json.loads(process.communicate()[0])["count"] for process in spinning)

    def kill(self, rows: int) -> None:
        """kill -9 when half of the shards are there; how many are made again."""
        self.clear("cache-kill")
        total = self.found[f"prepare_{rows}"]["shards"]
        process = self.start("cache-kill", "prepare", self.rows(rows), self.tokenizer, self.workers)

        def made() -> dict[str, int]:
            found = (self.folder / "cache-kill").rglob("shard-*.json")
            return {path.name: path.stat().st_mtime_ns for path in found}

        while len(made()) < total // 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = made()
        self.child("cache-kill", "prepare", self.rows(rows), self.tokenizer, self.workers)
        after = made()
        again = sum(after[name] != when for name, when in before.items())
        self.found["kill"] = {
            "shards": total,
            "there_when_killed": len(before),
            "finished_ones_made_again": again,
            "begun_ones_made_again_at_most": self.workers,
            "equal": self._same("cache-kill", f"cache-{rows}"),
        }

    def _same(self, one: str, other: str) -> bool:
        from hashlib import sha256

        def hashes(cache: str) -> list[str]:
            paths = sorted((self.folder / cache).rglob("shard-*.bin"), key=lambda path: path.name)
            return [sha256(path.read_bytes()).hexdigest() for path in paths]

        return hashes(one) == hashes(other)


def table(found: dict[str, Any], small: int, large: int) -> str:
    """The numbers a person looks for, with what is asked of them."""
    mib = 1 << 20
    lines = ["| what | measured | asked |", "|---|---|---|"]

    def add(what: str, measured: str, asked: str) -> None:
        lines.append(f"| {what} | {measured} | {asked} |")

    a, b = found[f"prepare_{small}"], found[f"prepare_{large}"]
    c, d = found[f"train_{small}"], found[f"train_{large}"]
    add(f"preparing {large:,} rows, seconds", f"{b['seconds']:.0f} ({large / b['seconds']:,.0f} rows/s)", "")
    for name, key, most in (("a worker", "worker_anon_bytes", 256), ("the parent", "parent_anon_bytes", 200)):
        add(f"RssAnon of {name}, {small:,} -> {large:,}", f"{a[key] / mib:.0f} -> {b[key] / mib:.0f} MiB "
            f"({b[key] / max(1, a[key]):.2f}x)", f"<= {most} MiB, flat to 1.05x")  # fmt: skip
    add("RssAnon when training, above imports and tokenizer", f"{c['above_bytes'] / mib:.0f} -> "
        f"{d['above_bytes'] / mib:.0f} MiB", "<= 150 MiB")  # fmt: skip
    add("the same in all", f"{c['anon_bytes'] / mib:.0f} -> {d['anon_bytes'] / mib:.0f} MiB "
        f"({d['anon_bytes'] / c['anon_bytes']:.2f}x)", "flat to 1.05x")  # fmt: skip
    add("first batch from a warm cache", f"{d['first_batch_seconds']:.2f} s", "<= 2 s")
    add("rows of a step in the middle, to resume", f"{1000 * d['resume_seconds']:.0f} ms", "")
    if "overhead" in found:
        o = found["overhead"]
        ratio = o["prepare_cpu_seconds"] / o["encode_batch_cpu_seconds"]
        add("CPU of preparing / CPU of bare encode_batch", f"{ratio:.2f}", "<= 1.15")
    if "peer" in found:
        p = found["peer"]
        ratios = [t["peer"]["seconds"] / t["ours"]["seconds"] for t in p["turns"]]
        add("speed against datasets.map(batched)", ", ".join(f"{r:.2f}x" for r in ratios), ">= 1x")
        add("bytes on disk / Arrow ids + labels + mask", f"{p['our_bytes'] / p['peer_bytes']:.2f}", "<= 0.4")
    if "scaling" in found:
        by: dict[int, list[dict[str, Any]]] = {}
        for turn in found["scaling"]:
            by.setdefault(turn["workers"], []).append(turn)
        one = by[min(by)]
        for count, turns in by.items():
            if count != min(by):
                ours = sum(t["rows_per_second"] for t in turns) / sum(t["rows_per_second"] for t in one)
                spin = sum(t["spin"] for t in turns) / sum(t["spin"] for t in one)
                add(
                    f"{count} workers against 1, beside what {count} plain loops count against 1 at that moment",
                    f"{ours:.2f}x beside {spin:.2f}x: {ours / spin:.0%} of it",
                    f">= {90 if count == 2 else 80}% of the loop",
                )
    if "kill" in found:
        k = found["kill"]
        again = f"{k['finished_ones_made_again']} finished ones"
        add("shards made again after kill -9 at half", again, "at most the begun one a worker")
        add("bytes of the shards after it", "equal" if k["equal"] else "DIFFERENT", "equal")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--small", type=int, default=300_000)
    parser.add_argument("--compare-rows", type=int, default=100_000, help="for peer, overhead and scaling")
    parser.add_argument("--tokenizer", help="folder of a tokenizer with a chat template, or bytes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer-python", help="interpreter with datasets, transformers and jinja2")
    parser.add_argument("--folder", help="where to work; a temporary folder otherwise")
    parser.add_argument("--out", default=str(HERE / "results" / "data_scale.json"))
    parser.add_argument("--skip", default="", help="any of memory,peer,overhead,scaling,kill")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_child(*args.child)))
        return
    folder = Path(args.folder or tempfile.mkdtemp(prefix="data-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, args.tokenizer, args.workers, args.peer_python)
    bench.tokenizer = saved(args.tokenizer, folder / "tokenizer")
    skipped = set(args.skip.split(","))
    compared = min(args.compare_rows, args.rows)
    bench.memory_and_restart([args.small, args.rows])
    for name, run in (
        ("overhead", lambda: bench.overhead(compared)),
        ("peer", lambda: bench.against_peer(compared)),
        ("scaling", lambda: bench.scaling(compared, [1, args.workers])),
        ("kill", lambda: bench.kill(args.small)),
    ):
        if name not in skipped:
            run()
    told = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor(), "python": platform.python_version()},
        "rows": args.rows, "small": args.small, "workers": args.workers, "tokenizer": Path(args.tokenizer).name,
        **bench.found,
    }  # fmt: skip
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=2) + "\n")
    text = table(bench.found, args.small, args.rows)
    out.with_suffix(".md").write_text(f"{text}\n")
    print(text)
    if args.folder is None:
        shutil.rmtree(folder)


def _child(name: str, *words: str) -> dict[str, Any]:
    match name:
        case "prepare":
            return child_prepare(words[0], words[1], int(words[2]))
        case "train":
            return child_train(words[0], words[1], float(words[2]))
        case "bare":
            return child_bare(words[0], words[1], int(words[2]))
        case _:
            return child_spin(float(words[0]))


if __name__ == "__main__":
    main()
