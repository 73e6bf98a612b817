"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

TEMPORARY = "writing-"
"""How names of files and folders begin until they are whole."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all: under another name, flushed to the disk, then renamed."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
