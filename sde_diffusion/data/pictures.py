"""One PIL image as bytes: upright, grey or RGB, its central square resized.

The centre is cut to the shorter side and resized with Lanczos' kernel, which PIL widens where it shrinks: nothing aliases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = {1: "L", 3: "RGB"}
GREY = ("1", "L", "LA")  # PIL's modes without colour


def image_to_bytes(image: Any, *, size: int | None = None, channels: int | None = None) -> Tensor:
    """A PIL image as (channels, h, w) uint8.

    Args:
        image: of any mode with up to 8 bits per channel; transparency is dropped.
        size: side of the square in pixels; None: the image as it is.
        channels: 1 (grey) or 3 (RGB); None: as the image has colour or not.

    Raises:
        ValueError: for more than 8 bits per channel, which a conversion would clip.
    """
    from PIL import Image, ImageOps

    if image.mode[0] in "IF":
        raise ValueError(f"the image has mode {image.mode!r}, more than 8 bits per channel; save it as 8-bit grey or RGB")
    channels = channels or (1 if image.mode in GREY else 3)
    image = ImageOps.exif_transpose(image).convert(CHANNELS[channels])
    if size is not None and image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def check_image_options(size: int | None, channels: int) -> None:
    """ValueError for sizes and channels that images cannot have."""
    if channels not in CHANNELS:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
