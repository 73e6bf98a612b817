"""Data sets small enough to train on within minutes, the user's own arrays, and the order in which batches visit them.

- digits: scikit-learn's 8x8 digits, pixel/8 - 1 in [-1, 1], 17 grey levels, 1437 to train on and 360 held out.
- moons, ring, checkerboard: points in the plane.
- any .npy, .npz or .pt array by its path.

Batch k of epoch e holds the next entries of a permutation that depends on (seed, e) alone, so that the step alone
determines the batch and a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 0.2  # share of the data that is never trained on
SPLIT_SEED = 0  # of the fixed split: numbers are comparable only on the same held-out set
POINTS = 10_000  # drawn for a planar data set, before the split
IMAGE_RANGE = (-1.0, 1.0)


class Dataset(NamedTuple):
    """Training and held-out data (n, *d) float32, and class labels (n,) where there are any."""

    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, (*d,)."""
        return tuple(self.train.shape[1:])

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest training value."""
        return self.train.min().item(), self.train.max().item()


def _split(x: Tensor, labels: Tensor | None = None) -> Dataset:
    """The fixed split by a seeded permutation: the first 80 % train, the rest is held out."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = math.ceil(HELD_OUT * len(x))
    train, rest = order[:-held_out], order[-held_out:]
    if labels is None:
        return Dataset(x[train], x[rest])
    return Dataset(x[train], x[rest], labels[train], labels[rest])


def digits() -> Dataset:
    """Scikit-learn's handwritten digits: train (1437, 1, 8, 8), held-out (360, 1, 8, 8), pixel/8 - 1, labels 0..9."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return _split(torch.tensor(pixels / 8 - 1).float().reshape(-1, 1, 8, 8), torch.tensor(labels))


def moons(*, std: float = 0.1) -> Dataset:
    """Two interleaved half circles of radius 1 around (0, 0.25) and (1, 0.25), centred, with noise of the given std."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    angle = torch.rand(POINTS, generator=generator) * math.pi
    upper = torch.rand(POINTS, generator=generator) < 1 / 2
    x = torch.where(upper, angle.cos() - 1 / 2, 1 / 2 - angle.cos())
    y = torch.where(upper, angle.sin() - 1 / 4, 1 / 4 - angle.sin())
    points = torch.stack((x, y), dim=1)
    return _split(points + std * torch.randn(points.shape, generator=generator), (~upper).long())


def ring(*, modes: int = 8, radius: float = 1.0, std: float = 0.1) -> Dataset:
    """Gaussians of the given std, equally spaced on a circle, with equal weights; the label is the mode."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    mode = torch.randint(modes, (POINTS,), generator=generator)
    angle = 2 * math.pi * mode / modes
    centres = radius * torch.stack((angle.cos(), angle.sin()), dim=1)
    return _split(centres + std * torch.randn(centres.shape, generator=generator), mode)


def checkerboard(*, cells: int = 4) -> Dataset:
    """Uniform on the dark cells of a board of cells x cells squares that fills [-1, 1]^2; cells is even."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    row = torch.randint(cells, (POINTS,), generator=generator)
    column = 2 * torch.randint(cells // 2, (POINTS,), generator=generator) + row % 2
    inside = torch.rand(POINTS, 2, generator=generator)
    return _split((torch.stack((column, row), dim=1) + inside) * 2 / cells - 1)


NAMED = {"digits": digits, "moons": moons, "ring": ring, "checkerboard": checkerboard}


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content if isinstance(content, dict) else {"train": content}
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.lib.npyio.NpzFile):
        return {"train": torch.as_tensor(content)}
    if "train" not in content and len(content.files) != 1:
        raise ValueError(f"{path} holds the arrays {content.files}; name the one to train on 'train'")
    names = {"train": content.files[0]} if "train" not in content else {name: name for name in content.files}
    return {name: torch.as_tensor(content[key]) for name, key in names.items()}


def _checked(x: Tensor, name: str) -> Tensor:
    if x.dtype == torch.uint8:
        x = x.float() / 127.5 - 1
    if not x.is_floating_point():
        raise ValueError(f"{name} has dtype {x.dtype}; give floats, or uint8 images, which are scaled to [-1, 1]")
    if x.ndim not in (2, 4) or len(x) < 2:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; give points (n, d) or images (n, channels, h, w), n > 1 (x[:, None] adds a channel)"
        )
    if not x.isfinite().all():
        raise ValueError(f"{name} holds {int((~x.isfinite()).sum())} values that are NaN or infinite; remove them")
    low, high = x.min().item(), x.max().item()
    if x.ndim == 4 and (low < IMAGE_RANGE[0] or high > IMAGE_RANGE[1]):
        raise ValueError(f"{name} spans [{low:.4g}, {high:.4g}]; scale images to [-1, 1], say by 2 * x / {high:.4g} - 1")
    return x.float()


def load(name: str) -> Dataset:
    """The data set of that name, or the one in a file: .npy, .pt (tensor or dict) or .npz.

    A file holds points (n, d) or images (n, c, h, w) in [-1, 1] or uint8, alone or named `train`, with `held_out`,
    `train_labels` and `held_out_labels` if there are any; without `held_out`, a fifth is split off.
    Raises:
        ValueError: for unknown names, wrong shapes and ranges, and NaNs.
        FileNotFoundError: for a missing file.
    """
    if name in NAMED:
        return NAMED[name]()
    path = Path(name)
    if path.suffix not in (".npy", ".npz", ".pt"):
        raise ValueError(f"no data set {name!r}; use one of {', '.join(NAMED)}, or the path of a .npy, .npz or .pt file")
    if not path.exists():
        raise FileNotFoundError(f"no data file {name!r}; give the path of an existing .npy, .npz or .pt file")
    arrays = _read(path)
    train, labels = _checked(arrays["train"], f"{name}: train"), arrays.get("train_labels")
    if "held_out" not in arrays:
        return _split(train, labels)
    return Dataset(train, _checked(arrays["held_out"], f"{name}: held_out"), labels, arrays.get("held_out_labels"))


def batch_indices(n: int, batch_size: int, *, seed: int, step: int) -> Tensor:
    """The indices (batch_size,) that training step number `step` (from 0) visits among n samples.

    Samples are taken from the concatenated permutations of all epochs, so that none is dropped and none is favoured.
    """
    position, chosen = step * batch_size, []
    while batch_size > 0:
        epoch, start = divmod(position, n)
        words = np.random.SeedSequence([seed, epoch]).generate_state(2)
        generator = torch.Generator().manual_seed(int(words[0]) | int(words[1]) << 31)
        chosen.append(torch.randperm(n, generator=generator)[start : start + batch_size])
        position, batch_size = position + len(chosen[-1]), batch_size - len(chosen[-1])
    return torch.cat(chosen)
