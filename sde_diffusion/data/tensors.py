"""Samples in memory, or memory-mapped: the hot path of small networks, where a batch must cost microseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sde_diffusion.data.base import Batch, Batches, Data, Samples, slice_of_rank
from sde_diffusion.data.order import Order, chosen, split
from sde_diffusion.data.pixels import TAKEN, Pixels


class TensorSamples(Samples):
    """The rows of a tensor.

    Args:
        stored: (n, *d); float32, or integers 0..levels-1 of any type, which become [-1, 1] batch by batch.
        labels: (n,) integers 0..classes-1, or None.
        rows: which rows are samples of this part; None: all.
        pixels: how stored numbers become samples.
        classes: number of classes; None: largest label + 1.
        range: smallest and largest value; None: measured.
    """

    def __init__(
        self,
        stored: Tensor,
        labels: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        pixels: Pixels = Pixels(),  # noqa: B008 (frozen)
        classes: int | None = None,
        range: tuple[float, float] | None = None,
    ) -> None:
        self.stored, self.pixels = stored, pixels.of(tuple(stored.shape[1:]))
        self.labels = None if labels is None else labels.long()
        self.rows = torch.arange(len(stored)) if rows is None else rows
        self._classes = classes if classes is not None else 0 if labels is None else int(labels.max()) + 1
        self._range = range

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.stored.shape[1:])

    @property
    def classes(self) -> int:
        return self._classes

    @property
    def levels(self) -> int | None:
        return self.pixels.levels

    @property
    def range(self) -> tuple[float, float]:
        if self._range is None:
            if self.pixels.dequantize:
                self._range = (-1.0, 1.0)
            else:
                parts = [self._batch(rows, seed=0, step=TAKEN).x.aminmax() for rows in torch.arange(len(self)).split(4096)]
                self._range = min(p.min.item() for p in parts), max(p.max.item() for p in parts)
        return self._range

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, n: int | None = None, *, seed: int = 0) -> Batch:
        return self._batch(chosen(len(self), n, seed), seed=seed, step=TAKEN)

    def batches(self, size: int, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0) -> Batches:
        return TensorBatches(self, size, seed=seed, start=start, slice_=slice_of_rank(size, rank, ranks))

    def _batch(self, indices: Tensor, *, seed: int, step: int, start: int = 0) -> Batch:
        rows = self.rows[indices]
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.pixels(self.stored[rows], seed=seed, step=step, start=start), labels, indices)


class TensorBatches(Batches):
    """Slices first..last-1 of the global batches of TensorSamples."""

    def __init__(self, samples: TensorSamples, size: int, *, seed: int, start: int, slice_: tuple[int, int]) -> None:
        self._samples, self._size, self._seed, self._step = samples, size, seed, start
        self._first, self._last = slice_
        self._order = Order(len(samples), seed)

    def __next__(self) -> Batch:
        base = self._step * self._size
        indices = self._order(base + self._first, base + self._last)
        batch = self._samples._batch(indices, seed=self._seed, step=self._step, start=self._first)
        self._step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        self._step = states[0]["step"]


def split_tensor(name: str, stored: Tensor, labels: Tensor | None = None, *, pixels: Pixels = Pixels()) -> Data:  # noqa: B008
    """Data from one tensor by the fixed split; the held-out part is never flipped."""
    train, held_out = split(len(stored))
    return two_parts(name, stored, labels, train, held_out, pixels=pixels)


def two_parts(name: str, stored: Tensor, labels: Tensor | None, train: Tensor, held_out: Tensor, *, pixels: Pixels) -> Data:
    """Data from the rows of one tensor."""
    still = Pixels(pixels.levels, dequantize=pixels.dequantize)
    return Data(TensorSamples(stored, labels, rows=train, pixels=pixels), TensorSamples(stored, labels, rows=held_out, pixels=still), name)
