"""One small record of how good samples are, and the plain-text table that prints several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sde_diffusion.evaluation.frechet import frechet_distance, real_floor
from sde_diffusion.evaluation.two_sample import class_histogram, one_nn_accuracy


@dataclass(frozen=True)
class Quality:
    """How samples compare with held-out data.

    Args:
        frechet: Fréchet distance to the held-out data.
        floor: that of training data, at the same sample sizes.
        accuracy: of the 1-NN two-sample test; 0.5 is ideal.
        counts: class histogram; None where the data have no labels.
        p_value: of the chi-square test of the histogram.
    """

    frechet: float
    floor: float
    accuracy: float
    counts: tuple[int, ...] | None = None
    p_value: float | None = None

    @property
    def ratio(self) -> float:
        """frechet/floor; 1 is ideal."""
        return self.frechet / self.floor

    def cells(self) -> tuple[str, ...]:
        """What the columns QUALITY_COLUMNS show."""
        classes = ("-", "-")
        if self.counts is not None:
            classes = (f"{min(self.counts)}-{max(self.counts)}", f"{self.p_value:.2g}")
        return (f"{self.frechet:.3f}", f"{self.ratio:.2f}", f"{self.accuracy:.3f}", *classes)


QUALITY_COLUMNS = ("Frechet", "x floor", "1-NN acc", "per class", "chi2 p")


def quality(samples: Tensor, train: Tensor, held_out: Tensor, *, labels: Tensor | None = None) -> Quality:
    """Compares samples (n, *d) with held_out (m, *d), taking train (k, *d) as the real reference.

    Args:
        labels: (k,) classes of the training data, where they have any.

    Raises:
        ValueError: when the samples are not shaped like the data or not finite.
    """
    if samples.shape[1:] != held_out.shape[1:]:
        raise ValueError(
            f"samples have shape {tuple(samples.shape[1:])}, the data {tuple(held_out.shape[1:])};"
            " compare samples with the data their model was trained on"
        )
    if not samples.isfinite().all():
        raise ValueError(f"{int((~samples.isfinite()).sum())} values of the samples are not finite; sample with more steps")
    counts, p_value = (None, None) if labels is None else class_histogram(samples, train, labels)
    return Quality(
        frechet=frechet_distance(samples, held_out),
        floor=real_floor(train, held_out, len(samples)),
        accuracy=one_nn_accuracy(samples, held_out),
        counts=None if counts is None else tuple(counts),
        p_value=p_value,
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))

    return "\n".join([line(columns), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])
