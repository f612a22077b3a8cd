"""What rows are made of, for people: rounds of each dialogue, lengths of questions and answers, a source at a time.

user "1+1?", assistant "2", user "2+2?", assistant "4"  ->  2 rounds, 4 + 4 characters asked, 1 + 1 answered
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from tunesmith.data.formats import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.records import Record, Text, as_chats
from tunesmith.data.stats import describe
from tunesmith.recipe import Data, Source


def describe_rows(data: Data) -> list[dict[str, Any]]:
    """Of each train source: rows that can be read, their rounds, and characters a question, an answer, a document."""
    left = data.limit
    found = []
    for source in data.train:
        told, read = _one(source, left)
        found.append(told)
        left = None if left is None else left - min(left, read)
    return found


def _one(source: Source, limit: int | None) -> tuple[dict[str, Any], int]:
    opened = open_source(source)
    rounds, asked, answered, documents = (array("q") for _ in range(4))
    read = rows = 0
    for raw in opened.rows:
        if limit is not None and read >= limit:
            break
        read += 1
        record = opened.record(raw)
        if not isinstance(record, Fault):
            rows += 1
            _count(record, rounds, asked, answered, documents)
    kinds = {"questions": asked, "answers": answered, "documents": documents}
    lengths = {
        name: describe(np.array(found, np.int64), "characters") for name, found in kinds.items() if found
    }
    told = {"path": source.path, "format": opened.format, "rows": rows, **lengths}
    return (told | ({"rounds": describe(np.array(rounds, np.int64), "rounds")} if rounds else {})), read


def _count(
    record: Record, rounds: array[int], asked: array[int], answered: array[int], documents: array[int]
) -> None:
    if isinstance(record, Text):
        documents.append(len(record.text))
        return
    for chat in as_chats(record)[:1]:
        rounds.append(sum(message.role == "user" for message in chat.messages))
        for message in chat.messages:
            if message.role == "user":
                asked.append(len(message.content))
            elif message.role == "assistant":
                answered.append(len(message.content))
