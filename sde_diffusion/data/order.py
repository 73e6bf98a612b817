"""In which order samples are visited, and which are held out: functions of seeds alone.

Samples are visited in the concatenated permutations of all epochs; that of epoch e depends on (seed, e) alone. So none is dropped,
none is favoured, a batch may be larger than the data, and position p of the sequence is known without those before it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 0.2  # share of the data that is never trained on
SPLIT_SEED = 0  # of the fixed split: numbers are comparable only on the same held-out set


def split(n: int) -> tuple[Tensor, Tensor]:
    """The fixed split of n samples by a seeded permutation: indices to train on (80 %), indices held out (20 %)."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = math.ceil(HELD_OUT * n)
    return order[:-held_out], order[-held_out:]


def permutation(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order (n,) in which an epoch visits n samples."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(2)
    return torch.randperm(n, generator=torch.Generator().manual_seed(int(words[0]) | int(words[1]) << 31))


class Order:
    """The concatenated permutations of all epochs; keeps the latest, so that reading forwards costs microseconds.

    Args:
        n: number of samples.
        seed: of the permutations, >= 0.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._epoch, self._latest = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, start: int, stop: int) -> Tensor:
        """The indices (stop - start,) at positions start..stop-1 of the sequence."""
        chosen = []
        while True:
            epoch, first = divmod(start, self.n)
            if epoch != self._epoch:
                self._epoch, self._latest = epoch, permutation(self.n, seed=self.seed, epoch=epoch)
            last = min(self.n, first + stop - start)
            chosen.append(self._latest[first:last])
            start += last - first
            if start >= stop:
                return chosen[0] if len(chosen) == 1 else torch.cat(chosen)


def chosen(n: int, limit: int | None, seed: int) -> Tensor:
    """All n indices in order, or `limit` different ones at random.

    Raises:
        ValueError: if there are fewer than `limit`.
    """
    if limit is None:
        return torch.arange(n)
    if not 0 <= limit <= n:
        raise ValueError(f"asked for {limit} samples of {n}; ask for at most {n}")
    return permutation(n, seed=seed, epoch=0)[:limit]
