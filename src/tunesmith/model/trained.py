"""Where a run keeps what it trained: model/ of the whole model, adapter/ of a part. No torch."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import FolderError
from tunesmith.folder import RunFolder


def trained_folder(folder: RunFolder) -> Path:
    """The one of the two that is there. Raises FolderError while the run has not come to its end."""
    for path in (folder.model, folder.adapter):
        if path.is_dir():
            return path
    fix = f"finish it first: {folder.resume_words}"
    raise FolderError.at(str(folder.path), "the run has not been trained to its end", fix)
