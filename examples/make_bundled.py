"""Make the bundled model and data again, from nothing: python examples/make_bundled.py STEP.

corpus   -> runs/bundled/corpus/{documents.txt, chats.jsonl}        what the base model reads
data     -> src/tunesmith/bundled/data/                             what the demo fine-tunes on and is asked
tokenizer-> runs/bundled/tokenizer/                                 byte-level BPE trained on the corpus
            then: tunesmith train examples/pretrain.yaml            Tunesmith's own pre-training, two stages
                  tunesmith train examples/pretrain_second.yaml
install RUN -> src/tunesmith/bundled/model/                         weights and tokenizer, from the run folder
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from bundled_text import corpus, desk, skills

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "runs/bundled/corpus"
TOKENIZER = ROOT / "runs/bundled/tokenizer"
BUNDLED = ROOT / "src/tunesmith/bundled"
SEED = 7
DOCUMENT_SEPARATOR = "<|endoftext|>"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"

TEMPLATE = """{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def messages(exchanges: list[skills.Exchange]) -> dict[str, Any]:
    """A dialogue in the messages format."""
    turns = [
        {"role": role, "content": content}
        for exchange in exchanges
        for role, content in zip(("user", "assistant"), exchange)
    ]
    return {"messages": turns}


def history(exchanges: list[skills.Exchange]) -> dict[str, Any]:
    """A dialogue with what came before as pairs, oldest first."""
    *before, (prompt, response) = exchanges
    return {"prompt": prompt, "response": response, "history": [list(pair) for pair in before]}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row a line, UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(rows)} rows, {path.stat().st_size / 1e6:.2f} MB")


def make_corpus(documents: int, chats: int) -> None:
    """Fresh text, drawn from the grammars; the same for the same seed."""
    rng = Random(SEED)
    CORPUS.mkdir(parents=True, exist_ok=True)
    texts = [corpus.document(rng) for _ in range(documents)]
    path = CORPUS / "documents.txt"
    path.write_text(f"\n{DOCUMENT_SEPARATOR}\n".join(texts) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {documents} documents, {path.stat().st_size / 1e6:.2f} MB")
    write_jsonl(CORPUS / "chats.jsonl", [corpus.chat(rng) for _ in range(chats)])


def make_data() -> None:
    """The domain in four formats, its validation and test, general rows to replay, general questions."""
    rng, folder, seen = Random(SEED + 1), BUNDLED / "data", set[str]()
    pools = desk.split_pools(rng)

    def draw(part: str, maker: Any, count: int) -> list[list[skills.Exchange]]:
        return list(desk.rows(rng, pools[part], maker, count, seen))

    folder.mkdir(parents=True, exist_ok=True)
    orders = draw("train", desk.order, 240) + draw("train", desk.booking, 180)
    rng.shuffle(orders)
    alpaca = [{"instruction": row[0][0], "input": "", "output": row[0][1]} for row in orders]
    (folder / "orders.json").write_text(json.dumps(alpaca, ensure_ascii=False, indent=1), encoding="utf-8")
    notes = draw("train", desk.stock, 260) + draw("train", desk.ticket, 200)
    rng.shuffle(notes)
    write_jsonl(folder / "notes.jsonl", [{"prompt": row[0][0], "response": row[0][1]} for row in notes])
    talks = [row for maker in desk.DIALOGUES for row in draw("train", maker, 60)]
    rng.shuffle(talks)
    write_jsonl(folder / "dialogues.jsonl", [messages(row) for row in talks[:150]])
    write_jsonl(folder / "history.jsonl", [history(row) for row in talks[150:]])
    for part, single, several in (("validation", 15, 10), ("test", 35, 15)):
        held = [row for maker in desk.SINGLE for row in draw(part, maker, single)]
        held += [row for maker in desk.DIALOGUES for row in draw(part, maker, several)]
        rng.shuffle(held)
        write_jsonl(folder / f"domain_{part}.jsonl", [messages(row) for row in held])
    make_general(rng, folder)


def make_general(rng: Random, folder: Path) -> None:
    """General rows to mix in, and general questions that are never trained on in fine-tuning."""
    asked: dict[str, list[skills.Exchange]] = {}
    turn = 0
    while len(asked) < 240 + 1500:  # every skill as often, in both languages
        skill = skills.SKILLS[turn % len(skills.SKILLS)]
        exchanges = skill(rng, (turn // len(skills.SKILLS)) % 2 == 1)
        asked.setdefault("\n".join(question for question, _ in exchanges), exchanges)
        turn += 1
    drawn = list(asked.values())
    rng.shuffle(drawn)
    write_jsonl(folder / "general_test.jsonl", [messages(row) for row in drawn[:240]])
    greetings = {
        ask for table in desk.GREETINGS for asks, _ in table for ask in asks
    }  # some test rows begin so
    replayed = [row for row in drawn[240:] if row[0][0] not in greetings]
    write_jsonl(folder / "general.jsonl", [messages(row) for row in replayed])


def make_tokenizer() -> None:
    """Byte-level BPE on the corpus; digits and Chinese characters stand alone."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pattern = r"\p{N}|\p{Han}| ?[^\s\p{L}\p{N}]+| ?[\p{L}&&[^\p{Han}]]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        min_frequency=100,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = [json.loads(line) for line in (CORPUS / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [f"{turn['role']}\n{turn['content']}" for row in rows for turn in row["messages"]]
    documents = (CORPUS / "documents.txt").read_text(encoding="utf-8").split(f"\n{DOCUMENT_SEPARATOR}\n")
    tokenizer.train_from_iterator(texts + documents, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=512,
        additional_special_tokens=[START], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    fast.save_pretrained(TOKENIZER)
    print(f"tokenizer: {len(fast)} tokens")


def install(run: Path) -> None:
    """Copy what was trained, with the tokenizer it was trained with, from a run folder into the package."""
    (BUNDLED / "model").mkdir(parents=True, exist_ok=True)
    for file in sorted((run / "model").iterdir()):
        shutil.copyfile(file, BUNDLED / "model" / file.name)
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Run the named step; `all` is corpus, data and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=["corpus", "data", "tokenizer", "all", "install"])
    parser.add_argument("run", nargs="?", default="runs/bundled/pretrain-second", type=Path)
    parser.add_argument("--documents", type=int, default=18_000)
    parser.add_argument("--chats", type=int, default=60_000)
    args = parser.parse_args()
    if args.step in ("corpus", "all"):
        make_corpus(args.documents, args.chats)
    if args.step in ("data", "all"):
        make_data()
    if args.step in ("tokenizer", "all"):
        make_tokenizer()
    if args.step == "install":
        install(args.run)


if __name__ == "__main__":
    main()
