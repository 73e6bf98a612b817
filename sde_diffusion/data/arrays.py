"""The user's own arrays: points (n, d), signals (n, c, l), images (n, c, h, w) and volumes (n, c, d, h, w); and tables of numbers."""

from __future__ import annotations

import csv
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.data.base import Data, Source
from sde_diffusion.data.items import check_values
from sde_diffusion.data.order import split
from sde_diffusion.data.pixels import BYTE_LEVELS, Pixels
from sde_diffusion.data.tensors import TensorSamples, split_tensor, two_parts

SUFFIXES = (".npy", ".npz", ".pt")
MAPPED = 2**30  # bytes of a file from which on it is memory-mapped
ROWS = 4096  # read at once when an array is checked


@dataclass(frozen=True)
class Arrays(Source):
    """A .npy file, a .pt file with a tensor or a dictionary, or a .npz file.

    It holds points (n, d), signals (n, c, l), images (n, c, h, w) or volumes (n, c, d, h, w): floats, images in [-1, 1], or uint8; alone
    or named `train`, with `held_out`, `train_labels` and `held_out_labels` if there are any. Without `held_out`, a fifth is split off.

    Args:
        path: of the file; .npy and .pt files of a gigabyte or more are memory-mapped.
        flip: random flips of images along their last dimension.
        dequantize: uniform dequantisation of uint8, which likelihoods need.

    Raises on loading:
        ValueError: for wrong shapes, types and ranges, and NaNs.
        FileNotFoundError: for a missing file.
    """

    path: str
    _: KW_ONLY
    flip: bool = False
    dequantize: bool = False

    def load(self) -> Data:
        path = Path(self.path)
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{self.path!r} is not an array file; give a file that ends in {', '.join(SUFFIXES)}")
        if not path.exists():
            raise FileNotFoundError(f"no data file {self.path!r}; give the path of an existing .npy, .npz or .pt file")
        arrays = _read(path, mapped=path.stat().st_size >= MAPPED)
        train = _checked(arrays["train"], f"{path}: train")
        labels = _labels(arrays, "train", len(train))
        pixels = Pixels(BYTE_LEVELS if train.dtype == torch.uint8 else None, self.dequantize, self.flip)
        if "held_out" not in arrays:
            return split_tensor(str(path), train, labels, pixels=pixels)
        held_out = _checked(arrays["held_out"], f"{path}: held_out")
        if held_out.shape[1:] != train.shape[1:] or held_out.dtype != train.dtype:
            raise ValueError(
                f"{path}: train is {train.dtype} of shape {tuple(train.shape)} and held_out {held_out.dtype} of shape"
                f" {tuple(held_out.shape)}; samples of both must be alike"
            )
        held_out_labels = _labels(arrays, "held_out", len(held_out))
        if (labels is None) != (held_out_labels is None):
            raise ValueError(
                f"{path} has labels for one of train and held_out only; give both train_labels and held_out_labels, or neither"
            )
        known = [int(y.max()) + 1 for y in (labels, held_out_labels) if y is not None]
        classes = max(known, default=0)
        still = Pixels(pixels.levels, self.dequantize)
        return Data(
            TensorSamples(train, labels, pixels=pixels, classes=classes),
            TensorSamples(held_out, held_out_labels, pixels=still, classes=classes),
            str(path),
        )


@dataclass(frozen=True)
class Table(Source):
    """The numeric columns of a .csv file, standardised by their training mean and standard deviation.

    Args:
        path: of the file; a first line that holds no numbers names the columns.
        label: name or number (from 0) of the column of class labels, which may be words; None: there is none.
    """

    path: str
    _: KW_ONLY
    label: str | int | None = None

    def load(self) -> Data:
        if not Path(self.path).exists():
            raise FileNotFoundError(f"no table {self.path!r}; give the path of an existing .csv file")
        with open(self.path, newline="") as file:
            rows = [row for row in csv.reader(file) if row]
        named = bool(rows) and not any(map(_is_number, rows[0]))
        names = rows.pop(0) if named else [str(k) for k in range(len(rows[0]) if rows else 0)]
        if len(rows) < 2:
            raise ValueError(f"{self.path} holds {len(rows)} rows; give at least 2, one to train on and one to hold out")
        uneven = next((k for k, row in enumerate(rows) if len(row) != len(names)), None)
        if uneven is not None:
            raise ValueError(f"row {uneven} of {self.path} has {len(rows[uneven])} cells, and there are {len(names)} columns; complete it")
        label = None if self.label is None else str(self.label)
        if label is not None and label not in names:
            raise ValueError(f"no column {self.label!r} in {self.path}; its columns are {', '.join(names)}")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        words = columns.pop(label) if label is not None else None
        return standardised(self.path, columns, words)


def standardised(name: str, columns: dict[str, tuple], words: tuple | None) -> Data:
    """Data from columns of numbers, standardised by training mean and standard deviation, and class labels of any sortable type."""
    for column, cells in columns.items():
        bad = next((k for k, cell in enumerate(cells) if not _is_number(cell)), None)
        if bad is not None:
            raise ValueError(
                f"{name}: column {column!r} holds {cells[bad]!r} in row {bad}, not a number; drop the column, or name it as label"
            )
    x = torch.tensor([[float(cell) for cell in cells] for cells in columns.values()], dtype=torch.float64).T
    x = _checked(x, name)
    train, held_out = split(len(x))
    std = x[train].std(dim=0)
    x = (x - x[train].mean(dim=0)) / torch.where(std > 0, std, 1.0)
    kinds = {word: k for k, word in enumerate(sorted(set(words or ())))}
    labels = None if words is None else torch.tensor([kinds[word] for word in words])
    return two_parts(name, x.float(), labels, train, held_out, pixels=Pixels())


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _read(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        arrays = content if isinstance(content, dict) else {"train": content}
    else:
        loaded = np.load(path, allow_pickle=False, mmap_mode="c" if mapped else None)  # c: torch wants memory that it may write
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"train": torch.as_tensor(loaded)}
        alone = len(loaded.files) == 1
        arrays = {"train" if alone else name: torch.as_tensor(loaded[name]) for name in loaded.files}
    if not isinstance(arrays.get("train"), Tensor):
        raise ValueError(f"{path} holds {sorted(map(str, arrays))}; name the array to train on 'train'")
    return arrays


def _checked(x: Tensor, name: str) -> Tensor:
    """x as uint8 or floats, after all checks."""
    if not 2 <= x.ndim <= 5 or len(x) < 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; give points (n, d), signals (n, channels, length) or images (n, channels, h, w), n > 1"
            " (x[:, None] adds a channel)"
        )
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; give floats, or uint8 images, which are scaled to [-1, 1]")
    bad = sum(int((~part.isfinite()).sum()) for part in x.split(ROWS))
    if bad:
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite; remove them")
    for part in x.split(ROWS):
        check_values(part, name, image=x.ndim == 4)
    return x


def _labels(arrays: dict[str, Tensor], part: str, n: int) -> Tensor | None:
    labels = arrays.get(f"{part}_labels")
    if labels is None:
        return None
    if labels.shape != (n,) or labels.is_floating_point() or int(labels.min()) < 0:
        kind = f"{labels.dtype} of shape {tuple(labels.shape)}, the smallest {labels.min().item()}"
        raise ValueError(f"{part}_labels are {kind}; give integers >= 0 of shape ({n},)")
    return labels
