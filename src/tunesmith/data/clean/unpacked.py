"""The bytes of a file that can be edited: its own, those that are packed in it, or its rows as lines.

a.jsonl -> as it is      a.jsonl.gz -> a.jsonl, unpacked      a.parquet, a.arrow -> a.jsonl, a row a line
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tunesmith.data.files import DataFile, broken, open_file
from tunesmith.data.gather import Opened, open_source
from tunesmith.data.reshape.rows import plain
from tunesmith.data.tables import split_table
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import Source

Form = Literal["file", "unpacked", "lines"]
_OF_ROWS = {".parquet", ".arrow"}


@dataclass(frozen=True, slots=True)
class Editable:
    """A file whose rows have bytes of their own. `form` says what undoing gives back."""

    file: DataFile
    path: Path
    form: Form

    def opened(self, source: Source, reporter: Reporter) -> Opened:
        """Its rows, each with the address it has in the file that was named."""
        if self.form == "file":
            return open_source(source.model_copy(update={"path": self.file.name}), reporter)
        found = open_source(source.model_copy(update={"path": str(self.path)}), reporter)
        name = self.file.name
        found.rows = (replace(raw, address=f"{name}:{raw.address.rpartition(':')[2]}") for raw in found.rows)
        return found


def form_of(file: DataFile) -> Form:
    """How its rows become bytes that can be edited."""
    return "lines" if file.kind in _OF_ROWS else "unpacked" if file.is_packed else "file"


def name_of(file: DataFile) -> str:
    """What its cleaned copy is called."""
    name = file.path.name
    if file.is_packed:
        name = name.removesuffix(file.path.suffix)
    return f"{Path(name).stem}.jsonl" if file.kind in _OF_ROWS else name


@contextlib.contextmanager
def editable(file: DataFile) -> Iterator[Editable]:
    """Within: the bytes. Raises DataError where they cannot be had."""
    form = form_of(file)
    if form == "file":
        yield _filled(Editable(file, file.path, form))
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-clean-") as folder:
        path = Path(folder) / name_of(file)
        try:
            with open(path, "wb") as written:
                if form == "unpacked":
                    with open_file(file.path) as packed:
                        shutil.copyfileobj(packed, written, 1 << 20)
                else:
                    for raw in split_table(file):
                        line = json.dumps(plain(raw.value)[0], ensure_ascii=False)
                        written.write(line.encode("utf-8", "surrogatepass") + b"\n")
        except broken() as error:
            message = getattr(error, "strerror", None) or str(error)
            raise DataError.at(file.name, f"cannot be read: {message}", "check the file") from error
        yield _filled(Editable(file, path, form))


def _filled(found: Editable) -> Editable:
    if not found.path.stat().st_size:
        raise DataError.at(found.file.name, "holds no rows", "give a file with at least one row")
    return found
