"""Pictures: grids of images, curves of losses and quality, films of noise turning into data, clouds of points.

Everything is drawn on explicit figures: matplotlib's global state, backend included, is left alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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


def training_curves(log: Path, path: Path) -> None:
    """Draws loss, norm of the gradient and learning rate of a training log (log.jsonl) against the step, those that it has."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = [name for name in ("loss", "gradient_norm", "lr") if any(line.get(name) is not None for line in lines)]
    figure = Figure(figsize=(6, 2.5 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
        known = [line for line in lines if line.get(name)]  # a rate of 0, at the end of a cosine, has no logarithm
        axes.plot([line["step"] for line in known], [line[name] for line in known])
        axes.set(ylabel=name.replace("_", " "), yscale="log", xlabel="step" if name == names[-1] else "")
    figure.savefig(path)


def loss_by_level(log: Path, path: Path, *, curves: int = 5) -> None:
    """Draws the loss at each noise level, over log_snr, at some steps of a training log (log.jsonl), from light (early) to dark (last).

    Args:
        log: whose lines have `loss_by_level`.
        path: of the picture.
        curves: how many steps, evenly spread over the run.

    Raises:
        ValueError: for a log without losses by level.
    """
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if line.get("loss_by_level")]
    if not lines:
        raise ValueError(f"{log} has no losses by noise level; train with this version to log them")
    chosen = sorted({round(i * (len(lines) - 1) / max(1, curves - 1)) for i in range(curves)} | {len(lines) - 1})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="log snr, noise to data", ylabel="loss", yscale="log", title="loss by noise level")
    for rank, line in enumerate((lines[i] for i in chosen), start=1):
        levels = line["loss_by_level"]
        loss = [math.nan if value is None else value for value in levels["loss"]]
        axes.stairs(loss, levels["edges"], baseline=None, color=str(0.9 * (1 - rank / len(chosen))), label=f"step {line['step']}")
    axes.legend()
    figure.savefig(path)


def film(states: Sequence[Tensor], path: Path, *, columns: int | None = None, zoom: int = ZOOM) -> None:
    """Saves a sequence of images (b, c, h, w), noise first, as an animated GIF that rests on its last frame."""
    frames = [tile(state, columns=columns, zoom=zoom).convert("P") for state in states]
    durations = [FRAME] * (len(frames) - 1) + [PAUSE]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def neighbours(samples: Tensor, nearest: Tensor, path: Path, *, zoom: int = ZOOM) -> None:
    """Saves samples, the top row, above the data nearest to each, the nearest first.

    Args:
        samples: (b, c, h, w).
        nearest: (b, k, c, h, w).
        path: of the picture.
        zoom: screen pixels per image pixel.
    """
    rows = torch.cat([samples[:, None].cpu(), nearest.cpu()], 1).transpose(0, 1)
    board = tile(rows.flatten(0, 1), columns=len(samples), zoom=zoom)
    top = (samples.shape[2] + GAP) * zoom  # the gap below the first row is white
    board.paste("white", (0, top, board.width, top + GAP * zoom))
    board.save(path)


def losses_by_level(log_snr: Sequence[float], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path) -> None:
    """Draws losses against lam = log(alpha/sigma), one curve (losses, errors) per name, and below them their ratios to the first.

    Bands are two standard errors wide.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.set(ylabel="weighted loss", yscale="log", title="loss by noise level")
    first, _ = next(iter(curves.values()))
    below.set(xlabel="log(alpha/sigma), noise to data", ylabel=f"over {next(iter(curves))}")
    for name, (losses, errors) in curves.items():
        (line,) = above.plot(log_snr, losses, ".-", label=name)
        ratios, spread = ([y / x for x, y in zip(first, ys, strict=True)] for ys in (losses, errors))
        below.plot(log_snr, ratios, ".-")
        low, high = ([r + side * 2 * e for r, e in zip(ratios, spread, strict=True)] for side in (-1, 1))
        below.fill_between(log_snr, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    above.legend()
    figure.savefig(path)


def quality_curve(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path, *, metric: str, floor: float | None = None) -> None:
    """Draws a metric against network calls, one curve of (calls, value) per solver, and the floor as a dashed line."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    values = [value for points in curves.values() for _, value in points]
    wide = 0 < 10 * min(values) < max(values)
    axes = figure.add_subplot(xlabel="network calls", ylabel=metric, xscale="log", yscale="log" if wide else "linear")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), ".-", label=name)
    if floor is not None:
        axes.axhline(floor, color="0.5", linestyle="--", label="real data")
    calls = [calls for calls, _ in max(curves.values(), key=len)]
    axes.set_xticks(calls, [str(c) for c in calls])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path)


def class_counts(counts: Sequence[int], expected: Sequence[float], path: Path) -> None:
    """Draws samples by class over the band expected +- 3 standard deviations, in which 997 of 1000 counts lie."""
    n = sum(counts)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="class", ylabel="samples", title="classes")
    axes.bar(range(len(counts)), counts, color="0.7", label="samples")
    spread = [3 * (e * (1 - e / n)) ** 0.5 for e in expected]
    axes.errorbar(range(len(counts)), expected, yerr=spread, fmt="_", color="C3", capsize=4, label="training data, 3 sigma")
    axes.set_xticks(range(len(counts)))
    axes.set_ylim(0, 1.25 * max(max(counts), *(e + s for e, s in zip(expected, spread, strict=True))))
    axes.legend(loc="upper center", ncols=2)
    figure.savefig(path)


def side_by_side(pictures: Mapping[str, Path], path: Path) -> None:
    """Saves picture files next to each other under their names, each scaled to the height of the highest."""
    figure = Figure(figsize=(4 * len(pictures), 4.3), layout="constrained")
    for axes, (name, file) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        with Image.open(file) as image:
            axes.imshow(image.convert("RGB"), interpolation="none")
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    figure.savefig(path, dpi=150)


def loss_curves(logs: Mapping[str, Path], path: Path) -> None:
    """Draws the losses of several training logs (log.jsonl) against the step."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log", title="denoising score matching")
    for name, log in logs.items():
        lines = [line for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
    axes.legend()
    figure.savefig(path)
