"""Samples that can only be read forwards: iterable data sets of torch and of Hugging Face, for ever.

    shards, in an order that depends on (seed, epoch)  ->  blocks of `buffer` samples  ->  each block permuted  ->  batches

A block is read whole, permuted by (seed, its position), and used up before the next. Unlike a sliding buffer, it can be made again from
the position where it began: a resumed run rereads at most `buffer` samples, and none is dropped or repeated.

A Hugging Face data set is divided over ranks, by whole shards if their number allows it, else by every ranks-th sample; then a rank reads
its own part only, and global batches depend on the number of ranks. Of another data set, every rank reads everything and uses its slice
of each global batch, which then does not depend on the number of ranks.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from sde_diffusion.data.base import Batch, Batches, Samples, slice_of_rank
from sde_diffusion.data.cursor import Block, Cursor, Found, Position, is_hugging_face, parts, permuted
from sde_diffusion.data.items import Item, Kind, as_item
from sde_diffusion.data.maps import SEEN
from sde_diffusion.data.pixels import TAKEN, Pixels

BUFFER = 2048  # samples in a block


class StreamSamples(Samples):
    """The samples of an iterable data set, which must give the same ones in the same order each time it is iterated.

    Args:
        dataset: a datasets.IterableDataset, or any iterable that starts anew each time, such as a torch.utils.data.IterableDataset.
        classes: number of classes, if the samples have labels; None: there are no labels, or they are not used.
        buffer: samples in a block; shuffling reaches no further.
        transform: makes x, (x, label) or a dictionary of what the data set gives; see items.as_item.
        flip: random horizontal flips in training batches.
        dequantize: uniform dequantisation of uint8.

    Raises:
        ValueError: if there are no samples, or they are of another kind.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        *,
        classes: int | None = None,
        buffer: int = BUFFER,
        transform: Callable[[Any], Any] | None = None,
        flip: bool = False,
        dequantize: bool = False,
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1 sample, got {buffer}")
        self.dataset, self.buffer, self.transform = dataset, buffer, transform
        first = next(iter(parts(dataset, seed=0, epoch=0, rank=0, ranks=1)[0]), None)
        if first is None:
            raise ValueError("the stream holds no samples; give at least one")
        item = self._as_item(first, 0)
        self.kind = Kind(tuple(item.x.shape), item.x.dtype == torch.uint8, classes or 0)
        self.kind.check(item, "the first sample of the stream")
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
            x = torch.stack([item.x for item, _ in itertools.islice(self._one_epoch(), SEEN)])
            self._range = x.min().item(), x.max().item()
        return self._range

    def __len__(self) -> int:
        raise TypeError("a stream has no length; ask for a number of samples")

    def take(self, n: int | None = None, *, seed: int = 0) -> Batch:
        """The first n of a shuffled epoch; one whole epoch, which must fit in memory, if n is None."""
        if n is None:
            found = list(self._one_epoch())
        else:
            found = self._first(n, seed)
            if len(found) < n:
                raise ValueError(f"asked for {n} samples of {len(found)}; ask for at most {len(found)}")
        return self.batch(found, seed=seed, step=TAKEN)

    def up_to(self, n: int, *, seed: int = 0) -> Batch:
        """The first n of a shuffled epoch, or all of it."""
        return self.batch(self._first(n, seed), seed=seed, step=TAKEN)

    def _first(self, n: int, seed: int) -> list[Found]:
        """The first n of a shuffled epoch, fewer if it is shorter."""
        found: list[Found] = []
        reader = Cursor(self.item, self.dataset, buffer=self.buffer, seed=seed, rank=0, ranks=1)
        while len(found) < n and reader.epoch == 0:
            found += permuted(reader.block())
        return found[:n]

    def batches(self, size: int, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0) -> Batches:
        """See Samples.batches. Reading begins at `start` by reading what comes before; with workers, one thread reads a block ahead."""
        return _StreamBatches(self, size, seed=seed, start=start, rank=rank, ranks=ranks, ahead=workers > 0)

    def item(self, sample: Any, index: int) -> Item:
        """One sample as it is stored."""
        return self.kind.check(self._as_item(sample, index), f"sample {index} of the stream")

    def batch(self, found: list[Found], *, seed: int, step: int, start: int = 0) -> Batch:
        """Samples of what was read."""
        stored, labels = self.kind.stack([item for item, _ in found])
        x = self.pixels(stored, seed=seed, step=step, start=start)
        return Batch(x, labels, torch.tensor([index for _, index in found], dtype=torch.int64))

    def _as_item(self, sample: Any, index: int) -> Item:
        return as_item(sample if self.transform is None else self.transform(sample), f"sample {index} of the stream")

    def _one_epoch(self) -> Iterator[Found]:
        return ((self.item(sample, k), k) for k, sample in enumerate(copy.copy(self.dataset)))


class _StreamBatches(Batches):
    def __init__(self, samples: StreamSamples, size: int, *, seed: int, start: int, rank: int, ranks: int, ahead: bool) -> None:
        self._samples, self._size, self._seed, self._rank, self._ranks = samples, size, seed, rank, ranks
        self._slice = slice_of_rank(size, rank, ranks)
        self._divided = is_hugging_face(samples.dataset)  # each rank reads its own part
        self._threads = ThreadPoolExecutor(1) if ahead else None
        self._go_to(start)

    def __next__(self) -> Batch:
        first, last = self._slice
        found = self._draw(last - first) if self._divided else self._draw(self._size)[first:last]
        self._step += 1
        return self._samples.batch(found, seed=self._seed, step=self._step - 1, start=first)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "block": None if self._block is None else list(self._block.start), "used": self._used}

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        if self._divided and len(states) != self._ranks:
            self._go_to(states[0]["step"])
            return
        state = states[self._rank if self._divided else 0]
        self._begin(None if state["block"] is None else Position(*state["block"]))
        self._step, used = state["step"], state["used"]
        if used:
            self._draw(used)

    def _go_to(self, step: int) -> None:
        """Reads from the beginning up to a step."""
        self._begin(None)
        first, last = self._slice
        for _ in range(step):
            self._draw(last - first if self._divided else self._size)
        self._step = step

    def _begin(self, position: Position | None) -> None:
        self._step, self._used = 0, 0
        self._block: Block | None = None
        self._items: list[Found] = []
        self._ahead: Future[Block] | None = None
        samples = self._samples
        share = {"rank": self._rank, "ranks": self._ranks} if self._divided else {"rank": 0, "ranks": 1}
        self._cursor = Cursor(samples.item, samples.dataset, buffer=samples.buffer, seed=self._seed, start=position, **share)

    def _draw(self, n: int) -> list[Found]:
        found: list[Found] = []
        while len(found) < n:
            if self._used == len(self._items):
                self._block, self._used = self._next_block(), 0
                self._items = permuted(self._block)
            part = self._items[self._used : self._used + n - len(found)]
            found, self._used = found + part, self._used + len(part)
        return found

    def _next_block(self) -> Block:
        if self._threads is None:
            return self._cursor.block()
        block = self._cursor.block() if self._ahead is None else self._ahead.result()
        self._ahead = self._threads.submit(self._cursor.block)
        return block
