"""What a data set is: two parts, train and held out; each part gives random samples, and batches that the step alone determines.

Global batch k (from 0) of a part is a function of (seed, k) alone. Its samples, their order, flips and dequantisation noise are the
same on 1, 2 or 4 ranks and with any number of workers: rank r of R holds the r-th contiguous slice of it. Streams, which can only be
read forwards, promise less; see streams.py.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Samples x (b, *d) float32, class labels (b,) int64 where there are any, and indices (b,) int64 that name the samples."""

    x: Tensor
    labels: Tensor | None
    indices: Tensor


class Batches(abc.ABC, Iterator[Batch]):
    """One rank's slice of each global batch, for ever."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position, in what JSON can hold: after loading it, the next batch is the one that would have come next."""

    @abc.abstractmethod
    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes to the position that all ranks had, given their states in the order of the ranks."""


class Samples(abc.ABC):
    """One part of a data set."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one sample, (*d,)."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """Number of classes; the labels are 0..classes-1. 0: there are no labels."""

    @property
    @abc.abstractmethod
    def range(self) -> tuple[float, float]:
        """Smallest and largest value; of lazily read images, those that a pixel can have."""

    @property
    @abc.abstractmethod
    def levels(self) -> int | None:
        """Number of grey levels of each coordinate, where the data are quantised."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of samples; TypeError for streams."""

    @abc.abstractmethod
    def take(self, n: int | None = None, *, seed: int = 0) -> Batch:
        """Different samples, chosen at random, without flips; all of them, in their order, if n is None.

        Raises:
            ValueError: if there are fewer than n.
        """

    def up_to(self, n: int, *, seed: int = 0) -> Batch:
        """All samples if there are no more than n, else n of them as by `take`."""
        return self.take(None if len(self) <= n else n, seed=seed)

    @abc.abstractmethod
    def batches(self, size: int, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0) -> Batches:
        """The global batches of `size` samples from number `start` on, of each of which this rank gets size/ranks samples.

        Args:
            size: samples in a global batch, over all ranks; may exceed the number of samples.
            seed: of the order, the flips and the dequantisation.
            start: number of the first batch.
            rank: which slice, in 0..ranks-1.
            ranks: number of slices.
            workers: processes that read ahead; 0 reads when asked. In memory, there is nothing to read and it is ignored.

        Raises:
            ValueError: if size is not divisible by ranks.
        """


@dataclass(frozen=True, eq=False)
class Data:
    """Samples to train on, and samples that are never trained on."""

    train: Samples
    held_out: Samples
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, (*d,)."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """Number of classes; 0: there are no labels."""
        return self.train.classes

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest training value."""
        return self.train.range

    @property
    def levels(self) -> int | None:
        """Number of grey levels of each coordinate, where the data are quantised."""
        return self.train.levels

    def require_labels(self) -> Data:
        """This data set, or ValueError if it has no class labels."""
        if self.classes == 0:
            raise ValueError(f"{self.name} has no class labels (classes is 0); train without conditions, or add labels to the data")
        return self


class Source(abc.ABC):
    """A description of a data set, small enough for a configuration; final subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def load(self) -> Data:
        """Reads the data set."""


def slice_of_rank(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """First and one past the last position of this rank's slice of a global batch."""
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must lie in 0..{ranks - 1}, got {rank}; give the number of this process among {ranks}")
    if size < 1 or size % ranks:
        nearest = max(ranks, size - size % ranks)
        raise ValueError(
            f"a global batch of {size} samples cannot be divided evenly over {ranks} ranks; use a multiple of {ranks}, such as {nearest}"
        )
    part = size // ranks
    return rank * part, (rank + 1) * part
