"""Reading a stream from any position: shards in an order that depends on (seed, epoch), and blocks that can be read again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sde_diffusion.data.items import Item

Found = tuple[Item, int]
"""An item that was read, and its index."""


class Position(NamedTuple):
    """Where a cursor stands: the epoch, the part of it, samples read from that part, samples read from the epoch, the part's own state."""

    epoch: int = 0
    part: int = 0
    within: int = 0
    read: int = 0
    inner: Any = None


class Block(NamedTuple):
    """What was read, and from where."""

    items: list[Found]
    start: Position
    seed: int


def permuted(block: Block) -> list[Found]:
    """A block's samples in an order that depends on the seed and on where it begins."""
    order = np.random.default_rng([block.seed, block.start.epoch, block.start.read]).permutation(len(block.items))
    return [block.items[k] for k in order]


class Cursor:
    """Reads one rank's part of a stream, block by block, epoch by epoch.

    Args:
        read: makes an item of what the data set gives and its number in the epoch.
        dataset: the stream.
        buffer: samples in a block.
        seed: of the order of shards and samples.
        rank: which part.
        ranks: number of parts.
        start: where to begin.
    """

    def __init__(
        self,
        read: Callable[[Any, int], Item],
        dataset: Any,
        *,
        buffer: int,
        seed: int,
        rank: int,
        ranks: int,
        start: Position | None = None,
    ) -> None:
        self.read, self.dataset, self.buffer = read, dataset, buffer
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.position = start or Position()
        self._parts = self._of_epoch()
        self._open(self.position.inner, self.position.within)

    @property
    def epoch(self) -> int:
        """That of the next block."""
        return self.position.epoch

    def block(self) -> Block:
        """The next samples: `buffer` of them, or as many as the epoch still has."""
        start = self.position
        items: list[Found] = []
        epoch, part, within, index, _ = start
        while len(items) < self.buffer and epoch == start.epoch:
            sample = next(self._iterator, _END)
            if sample is not _END:
                items.append((self.read(sample, index), index * self.ranks + self.rank))
                within, index = within + 1, index + 1
                continue
            part, within = part + 1, 0
            if part == len(self._parts):
                if index == 0:
                    raise ValueError(f"the stream holds no samples for rank {self.rank} of {self.ranks}; use fewer ranks")
                epoch, part, index = epoch + 1, 0, 0
                self.position = Position(epoch)
                self._parts = self._of_epoch()
            self.position = Position(epoch, part, within, index)
            self._open(None, 0)
        # of others, a state may be shared by all who read them; a shard of Hugging Face is the cursor's own
        inner = self._parts[part].state_dict() if is_hugging_face(self.dataset) else None
        self.position = Position(epoch, part, within, index, copy.deepcopy(inner))
        return Block(items, start, self.seed) if items else self.block()

    def _of_epoch(self) -> list[Any]:
        return parts(self.dataset, seed=self.seed, epoch=self.epoch, rank=self.rank, ranks=self.ranks)

    def _open(self, inner: Any, within: int) -> None:
        part = self._parts[self.position.part]
        if inner is not None:
            part.load_state_dict(inner)
        self._iterator = iter(part)
        if inner is None:
            next(itertools.islice(self._iterator, within, within), None)  # skips what was read


_END = object()


def is_hugging_face(dataset: Any) -> bool:
    """Whether it is a datasets.IterableDataset, told without importing that library."""
    return all(hasattr(dataset, name) for name in ("num_shards", "shard", "state_dict", "load_state_dict"))


def parts(dataset: Any, *, seed: int, epoch: int, rank: int, ranks: int) -> list[Any]:
    """What a rank reads in an epoch, one after the other."""
    if not is_hugging_face(dataset):
        return [dataset]
    from datasets.distributed import split_dataset_by_node

    n = dataset.num_shards
    order = np.random.default_rng([seed, epoch]).permutation(n)
    if n % ranks == 0:
        return [dataset.shard(n, int(k)) for k in order[rank::ranks]]
    return [split_dataset_by_node(dataset.shard(n, int(k)), rank, ranks) for k in order]
