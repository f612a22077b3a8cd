"""Rows a second from dialogue to labels, beside what one pays without labels, in the same run.

python benchmarks/labels.py [TOKENIZER_FOLDER] [ROWS]

bare       tokenizers.encode of the finished text
template   tokenizer.apply_chat_template, ids only, no labels
ours       render: text, borders, control tokens, labels
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer

import tunesmith.bundled
from tunesmith.data.records import Chat, Message
from tunesmith.data.render import Rendered, render
from tunesmith.data.template import ChatTemplate

BUNDLED = Path(tunesmith.bundled.__file__).parent / "model"
TEXT = "The quick brown fox says 你好 and then, again, what is 2 + 2? It is 4. Pay 17.50 in June.\n"
WORDS = TEXT.split(" ")


def dialogues(rows: int, exchanges: int) -> list[Chat]:
    """Rows of words, all different."""
    made = []
    for row in range(rows):
        words = [WORDS[(row * 7 + n * 3) % len(WORDS)] for n in range(60)]
        turns = []
        for number in range(exchanges):
            turns.append(Message("user", f"{row} {number} " + " ".join(words[:25])))
            turns.append(Message("assistant", " ".join(words[25:]) + f" {row * number}"))
        made.append(Chat(tuple(turns)))
    return made


def rate(work: Callable[[Chat], object], rows: list[Chat]) -> float:
    """Rows a second of processor time, the best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for row in rows:
            work(row)
        best = min(best, time.process_time() - started)
    return len(rows) / best


def main() -> None:
    """Print one line for each length of dialogue."""
    folder = sys.argv[1] if len(sys.argv) > 1 else str(BUNDLED)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate.of(tokenizer)
    backend = tokenizer.backend_tokenizer

    def ours(row: Chat) -> None:
        assert isinstance(render(row, "row", template, "sft", 1 << 20, "drop"), Rendered)

    def with_template(row: Chat) -> None:
        tokenizer.apply_chat_template(template.turns(row.messages), return_dict=False)

    print(f"{folder}, rows/s (share of bare)")
    for exchanges in (1, 4, 16):
        rows = dialogues(max(20, count // exchanges), exchanges)
        texts = {id(row): template.text(template.turns(row.messages)) for row in rows}
        bare = rate(lambda row: backend.encode(texts[id(row)], add_special_tokens=False), rows)  # noqa: B023
        named = {"template": rate(with_template, rows), "ours": rate(ours, rows)}
        shares = ", ".join(f"{name} {value:.0f} ({value / bare:.0%})" for name, value in named.items())
        print(f"{exchanges:>3} exchanges: bare {bare:.0f}, {shares}", flush=True)


if __name__ == "__main__":
    main()
