"""The pictures of a report: samples, their neighbours in the training data, losses, quality against cost, classes."""

from pathlib import Path

import torch
from torch import Tensor

from sde_diffusion import plotting
from sde_diffusion.evaluation.report import CLASSES, CURVE, LOSSES, Report

SHOWN = 64  # samples in the picture
SCATTERED = 2000  # points in a picture
NEIGHBOURS = (10, 4)  # samples, and their nearest neighbours
SIDE = 48  # screen pixels of an image among its neighbours, at least


def draw_pictures(report: Report, out: Path, samples: Tensor | None, train: Tensor, held_out: Tensor, log: Path) -> list[tuple[str, str]]:
    """Draws what the report has numbers for.

    Args:
        report: of the samples.
        out: folder of the pictures.
        samples: (n, *d); images, points in the plane, or data that have no picture; None: there are none.
        train: (k, *d), among which neighbours are looked for.
        held_out: (m, *d), shown behind points.
        log: of the training run; may be missing.

    Returns:
        Titles and file names.
    """
    made = []
    image = samples is not None and samples.ndim == 4 and samples.shape[1] in (1, 3)
    if samples is not None and (image or (samples.ndim == 2 and samples.shape[1] == 2)):
        plotting.picture(samples[: SHOWN if image else SCATTERED], out / "samples.png", reference=held_out[:SCATTERED])
        made.append(("Samples", "samples.png"))
    if samples is not None and image:
        count, k = NEIGHBOURS
        nearest = _nearest(samples[:count], train, min(k, len(train)))
        plotting.neighbours(samples[:count], train[nearest], out / "neighbours.png", zoom=max(1, SIDE // samples.shape[3]))
        made.append(("Samples, and below them the training data nearest to each", "neighbours.png"))
    if report.losses is not None:
        curves = {"training data": (report.losses.train, report.losses.train_error)}
        curves["held-out data"] = (report.losses.held_out, report.losses.held_out_error)
        plotting.losses_by_level(report.losses.log_snr, curves, out / "loss_by_level.png")
        made.append((LOSSES, "loss_by_level.png"))
    if report.curve:
        lines: dict[str, list[tuple[int, float]]] = {}
        for point in report.curve:
            lines.setdefault(point.solver, []).append((point.nfe, point.value))
        plotting.quality_curve(lines, out / "curve.png", metric=report.curve[0].metric, floor=report.curve[0].floor)
        made.append((CURVE, "curve.png"))
    if report.classes is not None:
        plotting.class_counts(report.classes.counts, report.classes.expected, out / "classes.png")
        made.append((CLASSES, "classes.png"))
    if (log).exists():
        plotting.loss_curves({"training": log}, out / "loss.png")
        made.append(("Training loss", "loss.png"))
    return made


def _nearest(samples: Tensor, train: Tensor, k: int) -> Tensor:
    """Indices (b, k) of the k training samples nearest to each sample, in pixels, nearest first."""
    parts = [torch.cdist(samples.flatten(1), part.flatten(1)) for part in train.split(SCATTERED)]
    return torch.cat(parts, 1).topk(k, largest=False).indices
