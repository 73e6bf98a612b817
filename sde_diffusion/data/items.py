"""One sample as a data set gives it: what forms are understood, and what is refused before a network sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.data.pictures import image_to_bytes
from sde_diffusion.data.pixels import BYTE_LEVELS

VALUE_KEYS, LABEL_KEYS = ("x", "image", "img"), ("label", "labels", "y")  # of samples that are dictionaries
IMAGE_RANGE = (-1.0, 1.0)


class Item(NamedTuple):
    """One sample as it is stored, and its class."""

    x: Tensor
    label: int | None


def as_item(sample: Any, where: str) -> Item:
    """Reads x, (x, label) or {"x" or "image": ..., "label": ...}, where x is a tensor, an array or a PIL image.

    Raises:
        ValueError: for other samples, for integers other than uint8, for NaNs, and for images outside [-1, 1].
    """
    label = None
    if isinstance(sample, Mapping):
        keys = [key for key in VALUE_KEYS if key in sample]
        if not keys:
            raise ValueError(f"{where} has the keys {list(sample)}; name its values one of {', '.join(VALUE_KEYS)}")
        label = next((sample[key] for key in LABEL_KEYS if key in sample), None)
        sample = sample[keys[0]]
    elif isinstance(sample, tuple | list):
        if not 1 <= len(sample) <= 2:
            raise ValueError(f"{where} is a sequence of {len(sample)} things; give x, or (x, label)")
        sample, label = sample if len(sample) == 2 else (sample[0], None)
    if hasattr(sample, "getbands"):  # a PIL image, without importing PIL
        sample = image_to_bytes(sample)
    x = torch.as_tensor(sample)
    return Item(check_values(x, where, image=x.ndim == 3), None if label is None else int(label))


def check_values(x: Tensor, where: str, *, image: bool) -> Tensor:
    """x as uint8 or float32, or ValueError for other types, NaNs and images outside [-1, 1]."""
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise ValueError(f"{where} has dtype {x.dtype}; give floats, or uint8 images, which are scaled to [-1, 1]")
    if x.numel() and not x.sum().isfinite() and not x.isfinite().all():
        raise ValueError(f"{where} holds {int((~x.isfinite()).sum())} values that are NaN or infinite; remove them")
    if image and x.numel():
        low, high = (end.item() for end in x.aminmax())
        if low < IMAGE_RANGE[0] or high > IMAGE_RANGE[1]:
            raise ValueError(f"{where} spans [{low:.4g}, {high:.4g}]; scale images to [-1, 1], say by 2 * x / {high:.4g} - 1")
    return x.float()


@dataclass(frozen=True)
class Kind:
    """What all samples of a part have in common.

    Args:
        shape: of one sample.
        is_bytes: uint8, else float32.
        classes: number of classes; 0: labels are not used.
    """

    shape: tuple[int, ...]
    is_bytes: bool
    classes: int

    @property
    def levels(self) -> int | None:
        """Number of grey levels."""
        return BYTE_LEVELS if self.is_bytes else None

    @property
    def range(self) -> tuple[float, float] | None:
        """That of images; None: it is to be measured."""
        return IMAGE_RANGE if self.is_bytes or len(self.shape) == 3 else None

    def check(self, item: Item, where: str) -> Item:
        """The item, or ValueError if it is unlike the first one."""
        if item.x.shape != self.shape or (item.x.dtype == torch.uint8) != self.is_bytes:
            raise ValueError(
                f"{where} is {item.x.dtype} of shape {tuple(item.x.shape)}, but the first has shape {self.shape}"
                f" and {'is' if self.is_bytes else 'is not'} uint8; make all samples alike"
            )
        if self.classes and (item.label is None or not 0 <= item.label < self.classes):
            raise ValueError(f"{where} has the label {item.label}; there are {self.classes} classes, 0..{self.classes - 1}")
        return item

    def stack(self, items: list[Item]) -> tuple[Tensor, Tensor | None]:
        """The stored numbers (b, *d) and the labels (b,)."""
        x = torch.stack([item.x for item in items]) if items else torch.empty(0, *self.shape)
        return x, torch.tensor([item.label for item in items], dtype=torch.int64) if self.classes else None
