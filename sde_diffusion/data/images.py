"""Folders of images, read with PIL: checked before work starts, cropped and resized, decoded to memory where they fit."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sde_diffusion.data.base import Data, Samples, Source
from sde_diffusion.data.maps import MapSamples
from sde_diffusion.data.order import split
from sde_diffusion.data.pictures import check_image_options, image_to_bytes
from sde_diffusion.data.tensors import TensorSamples

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
HELD_OUT_FOLDERS = ("held_out", "test", "validation", "valid", "val")
MEMORY = 2**29  # bytes of decoded images up to which they are kept in memory
THOROUGH = 2**26  # bytes on disk up to which images are decoded to check them; beyond, their headers alone are read


def in_memory_if_small(samples: MapSamples, limit: int) -> Samples:
    """The samples decoded to memory, if they take at most `limit` bytes there."""
    if samples.nbytes > limit:
        return samples
    indices = torch.arange(len(samples))
    with ThreadPoolExecutor() as threads:
        parts = list(threads.map(samples.read, indices.split(256)))
    stored = torch.cat([x for x, _ in parts])
    labels = torch.cat([y for _, y in parts if y is not None]) if samples.classes else None
    return TensorSamples(stored, labels, pixels=samples.pixels, classes=samples.classes)


@dataclass(frozen=True)
class ImageFolder(Source):
    """The images under a folder; its sub-folders, if all images lie in some, are the classes, in alphabetical order.

    With sub-folders `train` and one of held_out, test, validation, valid, val, these are the parts; else a fixed fifth is held out.

    Args:
        path: of the folder.
        size: side in pixels: the central square is resized to it; None: all images have the same size already.
        channels: 3 (RGB) or 1 (grey).
        flip: random horizontal flips.
        dequantize: uniform dequantisation, which likelihoods need.
        on_error: what to do with files that are not images: "refuse" all the work, or "skip" them with a warning.
        memory: bytes up to which the decoded images are kept in memory; beyond, they are decoded when they are needed.
    """

    path: str
    _: KW_ONLY
    size: int | None = None
    channels: int = 3
    flip: bool = False
    dequantize: bool = False
    on_error: Literal["refuse", "skip"] = "refuse"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        check_image_options(self.size, self.channels)
        if self.on_error not in ("refuse", "skip"):
            raise ValueError(f"on_error must be 'refuse' or 'skip', got {self.on_error!r}")

    def load(self) -> Data:
        root = Path(self.path)
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {self.path!r}; give the path of a folder of images")
        held_out = next((root / name for name in HELD_OUT_FOLDERS if (root / "train").is_dir() and (root / name).is_dir()), None)
        roots = [root] if held_out is None else [root / "train", held_out]
        files = [_image_files(folder) for folder in roots]
        good = set(self._checked([file for part in files for file in part]))
        files = [[file for file in part if file in good] for part in files]
        classes = _classes(roots, files)
        datasets = [_Files(part, folder, classes, self.size, self.channels) for part, folder in zip(files, roots, strict=True)]
        if held_out is None:
            train, rest = split(len(datasets[0]))
            return Data(self._samples(datasets[0], train, self.flip), self._samples(datasets[0], rest, False), self.path)
        return Data(self._samples(datasets[0], None, self.flip), self._samples(datasets[1], None, False), self.path)

    def _samples(self, dataset: _Files, rows: Tensor | None, flip: bool) -> Samples:
        return in_memory_if_small(MapSamples(dataset, rows=rows, flip=flip, dequantize=self.dequantize, pure=True), self.memory)

    def _checked(self, files: list[Path]) -> list[Path]:
        """The files whose headers are those of images, of one size unless they will be resized."""
        from tqdm import tqdm

        decode = sum(file.stat().st_size for file in files) <= THOROUGH
        with ThreadPoolExecutor(16) as threads:
            work = tqdm(
                threads.map(partial(_header, decode=decode), files),
                total=len(files),
                desc="checking images",
                unit="image",
                disable=len(files) < 5000,
            )
            found = dict(zip(files, work, strict=True))
        bad = [f"{file} ({result})" for file, result in found.items() if isinstance(result, str)]
        if bad:
            message = f"{len(bad)} of {len(files)} files under {self.path} are not readable images: {'; '.join(bad[:3])}"
            if self.on_error == "refuse":
                raise ValueError(f"{message}; remove them, or pass on_error='skip'")
            warnings.warn(f"{message}; they are skipped", stacklevel=4)
        sizes = Counter(result for result in found.values() if not isinstance(result, str))
        if self.size is None and len(sizes) > 1:
            common = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sizes.most_common(3))
            raise ValueError(f"the images under {self.path} have {len(sizes)} sizes ({common}); pass size=, say size={min(min(sizes))}")
        if sum(sizes.values()) < 2:
            raise ValueError(
                f"{self.path} holds {sum(sizes.values())} readable images; give at least 2, one to train on and one to hold out"
            )
        return [file for file, result in found.items() if not isinstance(result, str)]


class _Files:
    """Decodes files; map-style."""

    def __init__(self, files: list[Path], root: Path, classes: list[str], size: int | None, channels: int) -> None:
        self.files, self.root, self.classes, self.size, self.channels = files, root, classes, size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        file = self.files[index]
        try:
            with Image.open(file) as image:
                pixels = image_to_bytes(image, size=self.size, channels=self.channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{file} cannot be decoded: {error}; replace or remove it") from error
        return (pixels, self.classes.index(file.relative_to(self.root).parts[0])) if self.classes else pixels


def _image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; an unreadable folder raises what the system says."""

    def refuse(error: OSError) -> None:
        raise PermissionError(f"cannot read the folder {error.filename!r}: {error.strerror}; change its permissions") from error

    found = [Path(where) / name for where, _, names in os.walk(folder, onerror=refuse, followlinks=True) for name in names]
    files = sorted(file for file in found if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    if not files:
        kinds = ", ".join(sorted({file.suffix or file.name for file in found})[:5]) or "nothing"
        raise ValueError(f"{folder} holds no images but {kinds}; give a folder with {', '.join(sorted(SUFFIXES))} files")
    return files


def _classes(roots: list[Path], files: list[list[Path]]) -> list[str]:
    """The names of the sub-folders, if every image lies in one and there are two or more."""
    parts = [file.relative_to(root).parts for root, part in zip(roots, files, strict=True) for file in part]
    names = sorted({names[0] for names in parts})
    return names if all(len(names) > 1 for names in parts) and len(names) > 1 else []


def _header(file: Path, *, decode: bool) -> tuple[int, int] | str:
    """Width and height, or what is wrong with the file."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            size = image.size
            image.load() if decode else image.verify()
        return size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).split(" '")[0]
