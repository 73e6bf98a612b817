"""The folder of a model that is handed on.

    folder/model.safetensors         the network's parameters and buffers, in their own dtype
           fitted/{5,8,...}.json     the tables fitted to the denoiser, by the number of network calls
           README.md                 the model card
           denoiser.json             format, blueprint, checksums; written last

Nothing in it is a pickle: to load a stranger's model runs none of the stranger's code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sde_diffusion.denoisers import hub
from sde_diffusion.denoisers.blueprint import Blueprint

FORMAT = 1
MODEL, DESCRIPTION, CARD, FITTED = "model.safetensors", "denoiser.json", "README.md", "fitted"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def locate(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The folder of a model, fetched where it is "user/name" on the hub.

    Raises:
        FileNotFoundError: if there is none, and no such name.
        OSError: if nothing can be fetched.
        ValueError: for a file, or a revision of a folder.
    """
    path = Path(source)
    if path.suffix in PICKLES:
        raise ValueError(_pickle(path.name))
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{path} is a folder on this machine, which has no revision={revision!r}; leave it out")
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; give the folder of {DESCRIPTION} and {MODEL}")
    if not hub.is_id(str(source)):
        raise FileNotFoundError(f"there is no folder {path}; give one that save_pretrained wrote, or a model on the hub as 'user/name'")
    return hub.download(str(source), revision)


def read(folder: Path) -> dict[str, Any]:
    """The content of denoiser.json, once all files are found as they were written.

    Raises:
        FileNotFoundError: if denoiser.json or the weights are missing.
        ValueError: if a file is damaged, or of another format.
    """
    for needed in (DESCRIPTION, MODEL):
        if not (folder / needed).exists():
            pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
            cause = _pickle(", ".join(pickles)) if pickles else "it was not written by denoiser.save_pretrained, or not as a whole"
            raise FileNotFoundError(f"{folder} has no {needed}: {cause}")
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}; this version reads format {FORMAT}, so use the version that wrote it")
        for field in dataclasses.fields(Blueprint):
            if not isinstance(content[field.name], str):
                raise TypeError(f"{field.name} is {content[field.name]!r}, not an expression")
        sums = {str(file): str(wanted) for file, wanted in content["sha256"].items()}
        strange = [file for file in sums if file != MODEL and not (Path(file).parent == Path(FITTED) and Path(file).stem.isdigit())]
        if MODEL not in sums or strange:
            raise ValueError(f"sha256 must list {MODEL} and {FITTED}/N.json, got {', '.join(sums)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / DESCRIPTION} does not describe a denoiser: {type(error).__name__}: {error}") from error
    for file, wanted in sums.items():
        if not (folder / file).exists() or checksum(folder / file) != wanted:
            raise ValueError(f"{folder / file} is not the file that {DESCRIPTION} was written with (sha256); fetch or save the model again")
    return dict(content)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pickle(names: str) -> str:
    return (
        f"{names} can run code when read (pickles do), and is not opened; ask for safetensors, or convert the weights where you trust them"
    )
