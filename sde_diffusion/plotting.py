"""Pictures: grids of images, the loss curve, films of noise turning into data, clouds of points.

Everything is drawn on explicit figures: matplotlib's global state, backend included, is left alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

ZOOM = 6  # screen pixels per image pixel: 8x8 digits become readable
GAP = 1  # image pixels between two images
FRAME = 60  # milliseconds per frame of a film
PAUSE = 2000  # milliseconds on the last frame


def tile(images: Tensor, *, columns: int | None = None, zoom: int = ZOOM) -> Image.Image:
    """Lays images (b, c, h, w) in [-1, 1], c = 1 or 3, out on a grid, row by row; values outside are clipped.

    Args:
        images: (b, c, h, w).
        columns: images per row; None for a square.
        zoom: screen pixels per image pixel.

    Raises:
        ValueError: for another number of channels.
    """
    b, c, h, w = images.shape
    if c not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, got images of shape {tuple(images.shape)}; save them as .npz instead")
    columns = columns or math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    pixels = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    board = torch.full((c, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP), 64, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        board[:, top : top + h, left : left + w] = image
    picture = Image.fromarray(board.permute(1, 2, 0).squeeze(2).numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def scatter(points: Tensor, *, reference: Tensor | None = None) -> Figure:
    """Points (b, 2) over reference points (m, 2), on equal axes."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    if reference is not None:
        axes.plot(*reference.detach().cpu().T, ".", markersize=2, color="0.8", label="data")
    axes.plot(*points.detach().cpu().T, ".", markersize=2, label="samples")
    axes.legend(loc="upper right")
    return figure


def picture(samples: Tensor, path: Path, *, reference: Tensor | None = None) -> None:
    """Saves images (b, c, h, w) as a grid and points (b, 2) as a scatter plot.

    Raises:
        ValueError: for data of another shape, which have no picture.
    """
    if samples.ndim == 4:
        tile(samples).save(path)
    elif samples.ndim == 2 and samples.shape[1] == 2:
        scatter(samples, reference=reference).savefig(path)
    else:
        raise ValueError(f"samples of shape {tuple(samples.shape)} have no picture; save them as .npz instead")


def loss_curve(log: Path, path: Path) -> None:
    """Draws the losses of a training log (log.jsonl) against the step."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log", title="denoising score matching")
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines])
    figure.savefig(path)


def film(states: Sequence[Tensor], path: Path, *, columns: int | None = None, zoom: int = ZOOM) -> None:
    """Saves a sequence of images (b, c, h, w), noise first, as an animated GIF that rests on its last frame."""
    frames = [tile(state, columns=columns, zoom=zoom).convert("P") for state in states]
    durations = [FRAME] * (len(frames) - 1) + [PAUSE]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
