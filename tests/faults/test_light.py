"""What is wrong with words, a recipe, a model folder or a file is told before torch or transformers is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults import bad_models, bad_recipes, bad_rows, bad_words
from tests.folders import make_model

# Not asked of these: the forecast of a plan, or the rows of a file, need the tokenizer, which loads torch.
NEEDS_THE_TOKENIZER = (
    "rank: 99999999",
    "validation of everything",
    "last_layers: 99",
    "a template nobody has",
)
LIGHT = {
    "words": [case.name for case in bad_words.CASES],
    "recipe": [case.name for case in bad_recipes.CASES if not any(n in case.name for n in NEEDS_THE_TOKENIZER)],
    "model": [case.name for case in bad_models.CASES[:8]],
    "rows": [case.name for case in bad_rows.CASES if case.name in (
        "an empty file", "blank lines only", "a file that is not there", "an empty folder", "a folder of pictures",
        "a pattern that fits nothing", "a picture", "a pickle", "a link to nowhere", "a link to itself",
        "csv without its columns", "JSON that is a word", "columns nobody knows")],
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
            assert seconds < 2, (name, case.name, seconds)
"""


def test_no_heavy_library_is_loaded_to_say_what_is_wrong(tmp_path: Path) -> None:
    assert sum(map(len, LIGHT.values())) > 230
    make_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), repr(LIGHT)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
