"""Samples that are read one by one when they are needed: image folders, memory-mapped tables, anybody's map-style data set.

The order of the samples comes from outside the workers that read them, and the scaling, flips and dequantisation are done to the
whole batch afterwards, so that no number depends on how many workers there are. While a sample is read, the generators of torch,
NumPy and Python are seeded by (seed, step, position in the global batch): the data set's own random transforms repeat, too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sde_diffusion.data.base import Batch, Batches, Samples, slice_of_rank
from sde_diffusion.data.items import Item, Kind, as_item
from sde_diffusion.data.order import Order, chosen
from sde_diffusion.data.pixels import TAKEN, Pixels

SEEN = 1000  # samples from which the range of lazily read floats is taken


class MapDataset(Protocol):
    """What has a length and gives samples by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class MapSamples(Samples):
    """The samples of a map-style data set, such as a torch.utils.data.Dataset.

    Args:
        dataset: gives x, (x, label) or {"x" or "image": ..., "label": ...}; x is uint8, or float32 (in [-1, 1] if it is an image).
        rows: which of its samples belong to this part; None: all.
        classes: number of classes; None: that of its attribute `classes`, `targets` or `labels`; samples must have labels then.
        flip: random horizontal flips in training batches.
        dequantize: uniform dequantisation of uint8.
        pure: a sample is always the same: nothing is seeded while it is read, and threads may read.

    Raises:
        ValueError: for samples of another kind, and when there are labels but the number of classes is not known.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        rows: Tensor | None = None,
        classes: int | None = None,
        flip: bool = False,
        dequantize: bool = False,
        pure: bool = False,
    ) -> None:
        self.dataset, self.pure = dataset, pure
        self.rows = torch.arange(len(dataset)) if rows is None else rows
        if len(self.rows) == 0:
            raise ValueError("the data set holds no samples; give at least one")
        with self._reading(0, TAKEN, 0):
            first = as_item(dataset[int(self.rows[0])], "the first sample")
        self.kind = Kind(tuple(first.x.shape), first.x.dtype == torch.uint8, _classes(dataset, first, classes))
        self.kind.check(first, "the first sample")
        self.pixels = Pixels(self.kind.levels, dequantize=dequantize, flip=flip).of(self.shape)
        self._range = self.kind.range

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kind.shape

    @property
    def classes(self) -> int:
        return self.kind.classes

    @property
    def levels(self) -> int | None:
        return self.pixels.levels

    @property
    def range(self) -> tuple[float, float]:
        if self._range is None:
            x = self.take(min(SEEN, len(self))).x
            self._range = x.min().item(), x.max().item()
        return self._range

    @property
    def nbytes(self) -> int:
        """Size of all samples in memory."""
        return len(self) * math.prod(self.shape) * (1 if self.kind.is_bytes else 4)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, n: int | None = None, *, seed: int = 0) -> Batch:
        indices = chosen(len(self), n, seed)
        stored, labels = self.read(indices, seed=seed)
        return Batch(self.pixels(stored, seed=seed, step=TAKEN), labels, indices)

    def batches(self, size: int, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0) -> Batches:
        return _MapBatches(self, size, seed=seed, start=start, slice_=slice_of_rank(size, rank, ranks), workers=workers)

    def read(self, indices: Tensor, *, seed: int = 0, step: int = TAKEN, start: int = 0) -> tuple[Tensor, Tensor | None]:
        """The samples of that number as they are stored, and their labels."""
        items = [self._item(index, seed=seed, step=step, position=start + k) for k, index in enumerate(indices.tolist())]
        return self.kind.stack(items)

    def _reading(self, *words: int) -> AbstractContextManager[None]:
        return nullcontext() if self.pure else _seeded(*words)

    def _item(self, index: int, *, seed: int, step: int, position: int) -> Item:
        with self._reading(seed, step, position):
            return self.kind.check(as_item(self.dataset[int(self.rows[index])], f"sample {index}"), f"sample {index}")


class _Plan:
    """What the workers are to read: the positions and samples of this rank's slice of each global batch from `start` on."""

    def __init__(self, order: Order, size: int, start: int, slice_: tuple[int, int]) -> None:
        self.order, self.size, self.start, self.slice = order, size, start, slice_

    def __iter__(self) -> Iterator[list[tuple[int, Tensor]]]:
        step, (first, last) = self.start, self.slice
        while True:
            yield [(step, self.order(step * self.size + first, step * self.size + last))]
            step += 1


class _Reader:
    """Reads slice after slice; lives in the workers."""

    def __init__(self, samples: MapSamples, seed: int, first: int) -> None:
        self.samples, self.seed, self.first = samples, seed, first

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, job: tuple[int, Tensor]) -> tuple[int, Tensor, Tensor | None, Tensor]:
        step, indices = job
        return step, *self.samples.read(indices, seed=self.seed, step=step, start=self.first), indices


class _MapBatches(Batches):
    def __init__(self, samples: MapSamples, size: int, *, seed: int, start: int, slice_: tuple[int, int], workers: int) -> None:
        self._samples, self._size, self._seed, self._slice, self._workers = samples, size, seed, slice_, workers
        self._step = start
        self._loader: Iterator[Any] | None = None

    def __next__(self) -> Batch:
        first, _ = self._slice
        if self._loader is None:
            plan = _Plan(Order(len(self._samples), self._seed), self._size, self._step, self._slice)
            reader = _Reader(self._samples, self._seed, first)
            # a generator of its own: a loader without one draws its workers' seed from torch's global generator
            self._loader = iter(
                torch.utils.data.DataLoader(
                    reader,  # type: ignore[arg-type]
                    batch_sampler=plan,
                    collate_fn=_only,
                    num_workers=self._workers,
                    generator=torch.Generator(),
                )
            )
        step, stored, labels, indices = next(self._loader)
        self._step = step + 1
        return Batch(self._samples.pixels(stored, seed=self._seed, step=step, start=first), labels, indices)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        self._step, self._loader = states[0]["step"], None


def _only(batch: list[Any]) -> Any:
    return batch[0]


def _classes(dataset: MapDataset, first: Item, classes: int | None) -> int:
    if first.label is None:
        return 0
    if classes is not None:
        return classes
    names = getattr(dataset, "classes", None)
    if names is not None:
        return len(names)
    for attribute in ("targets", "labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None:
            return int(torch.as_tensor(labels).max()) + 1
    raise ValueError("the samples have labels, but the data set does not say how many classes there are; pass MapSamples(..., classes=10)")


@contextmanager
def _seeded(*words: int) -> Iterator[None]:
    """The process's generators as a function of the words, and as they were afterwards."""
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    # the CPU's generator alone: torch.random.fork_rng and manual_seed would also visit those of a GPU
    generator, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(generator)
        np.random.set_state(numpy)
        random.setstate(python)
