"""What is wrong with words, a recipe, a model folder or a file is told before torch or transformers is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults import bad_models, bad_recipes, bad_rows, bad_words
from tests.folders import make_model
from tunesmith.data.early import require_rows
from tunesmith.errors import DataError
from tunesmith.recipe import parse

# Not asked of these: the forecast of a plan, or the length of a row, need the tokenizer, which loads torch.
NEEDS_THE_TOKENIZER = (
    "rank: 99999999",
    "validation of everything",
    "last_layers: 99",
    "a template nobody has",
)
ROWS_FOR_THE_TOKENIZER = (
    "nothing learnt",
    "rows longer than allowed",
    "every row too long",
    "one row and a share of it",
)
LIGHT = {
    "words": [case.name for case in bad_words.CASES],
    "recipe": [case.name for case in bad_recipes.CASES if not any(n in case.name for n in NEEDS_THE_TOKENIZER)],
    "model": [case.name for case in bad_models.CASES[:8]],
    "rows": [case.name for case in bad_rows.CASES if case.name not in ROWS_FOR_THE_TOKENIZER],
}  # fmt: skip
CODE = """
import os, sys
from pathlib import Path
from tests.faults import bad_models, bad_recipes, bad_rows, bad_words
from tests.faults.trying import check
tables = {"words": bad_words, "recipe": bad_recipes, "model": bad_models, "rows": bad_rows}
base, light = Path(sys.argv[1]), eval(sys.argv[2])
for name, table in tables.items():
    for number, case in enumerate(table.CASES):
        if case.name in light[name]:
            folder = base / f"{name}{number}"
            folder.mkdir()
            os.chdir(folder)
            seconds = check(case, folder, base / "model")
            heavy = {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
            assert not heavy, (name, case.name, heavy)
            # of the gigabyte 2 s can be the kernel's alone, which lays out its pages
            assert seconds < (5 if case.name == "a line of 1 GB" else 2), (name, case.name, seconds)
"""


def test_no_heavy_library_is_loaded_to_say_what_is_wrong(tmp_path: Path) -> None:
    assert sum(map(len, LIGHT.values())) > 300
    make_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), repr(LIGHT)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_clean_file_is_not_read_to_its_end_and_a_limit_is_kept(tmp_path: Path) -> None:
    # mutation tried: no FIRST_BYTES; the limit given to each file anew
    good, bad = '{"prompt": "a", "response": "%s"}\n' % ("b" * 1000), "null\n"
    (tmp_path / "long.jsonl").write_text(good * 2000 + bad)
    (tmp_path / "short.jsonl").write_text(good * 3 + bad * 60)

    def looked_at(**more: object) -> list[str]:
        data = {"train": [str(tmp_path / "long.jsonl"), str(tmp_path / "short.jsonl")], **more}
        try:
            require_rows(parse({"model": "m", "output": "o", "data": data}).data, "sft")
        except DataError as error:
            return [f"{problem.where.rpartition('/')[2]} {problem.what}" for problem in error.problems]
        return []

    found = looked_at()
    assert [words[:13] for words in found[:2]] == ["short.jsonl:4", "short.jsonl:5"]
    assert len(found) == 51
    assert "60 bad rows in all, 10 more than are listed" in found[-1]
    assert looked_at(limit=5) == []
    assert looked_at(on_bad_row="drop") == []
