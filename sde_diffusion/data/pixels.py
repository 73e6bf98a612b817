"""From stored numbers to what a network sees: scaling, dequantisation, flips.

A coordinate with L grey levels k = 0..L-1 becomes

    x = 2 k / (L - 1) - 1                in [-1, 1]                                                       (1)
    x = 2 (k + u) / L - 1,  u ~ U[0, 1)  in [-1, 1), with `dequantize`                                    (2)

Likelihoods need (2): discrete data have no density, and one fitted to (1) rises without bound (Theis, van den Oord & Bethge 2016,
arXiv:1511.01844). The grey level is recovered as k = floor(L (x + 1) / 2), and -log2 p(k) <= E_u[-log2 p(x)] + d log2(L/2).

The numbers u and the coin of a flip at position p of global batch k come from Philox, a counter-based generator
(Salmon et al. 2011, doi:10.1145/2063384.2063405), with key (seed, k) and a counter that starts at p: a rank draws its own slice
of the numbers of the global batch without those before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BYTE_LEVELS = 256  # of uint8
BLOCK = 8  # float32 numbers that one Philox counter gives: 256 bits
DEQUANTIZE, FLIP = 0, 1  # words of the counter that keep the two purposes apart
BELOW_ONE = 1 - 2**-14  # largest u: with more, float32 would round (k + u) / 256 up to the next level
TAKEN = 2**64 - 1  # the step number of samples that are taken, not trained on: no step reaches it


def uniform(purpose: int, n: int, *, seed: int, step: int, start: int, rows: int) -> np.ndarray:
    """Numbers (rows, n) in [0, 1) float32 of the positions start..start+rows-1 of a global batch."""
    blocks = -(-n // BLOCK)
    key = np.array([seed, step], dtype=np.uint64)
    philox = np.random.Philox(key=key, counter=np.array([start * blocks, 0, 0, purpose], dtype=np.uint64))
    return np.random.Generator(philox).random((rows, blocks * BLOCK), dtype=np.float32)[:, :n]


@dataclass(frozen=True)
class Pixels:
    """How stored numbers become samples.

    Args:
        levels: grey levels of the stored integers, formula (1); None: the stored numbers are samples already.
        dequantize: formula (2) in place of (1).
        flip: mirrors each image left to right with probability 1/2; in training batches only.

    Raises:
        ValueError: for `dequantize` without levels.
    """

    levels: int | None = None
    dequantize: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        if self.dequantize and self.levels is None:
            raise ValueError("dequantize=True needs quantised data (uint8), and these are floats; store them as uint8, or leave it out")

    def of(self, shape: tuple[int, ...]) -> Pixels:
        """These options, or ValueError if samples of that shape cannot have them."""
        if self.flip and len(shape) != 3:
            raise ValueError(f"flip=True is for images (channels, h, w), and samples have shape {shape}; leave it out")
        return self

    def __call__(self, stored: Tensor, *, seed: int, step: int, start: int = 0) -> Tensor:
        """Samples (b, *d) float32 of stored numbers at the positions start..start+b-1 of global batch number `step`."""
        x = stored.float()
        if self.dequantize and self.levels is not None:
            u = uniform(DEQUANTIZE, x[0].numel(), seed=seed, step=step, start=start, rows=len(x))
            np.minimum(u, BELOW_ONE, out=u)
            x = (x + torch.from_numpy(np.ascontiguousarray(u)).view_as(x)).mul_(2 / self.levels).sub_(1)
        elif self.levels is not None:
            x = (x / ((self.levels - 1) / 2)).sub_(1)
        if self.flip and step != TAKEN:
            coin = torch.from_numpy(uniform(FLIP, 1, seed=seed, step=step, start=start, rows=len(x)) < 1 / 2)
            x = torch.where(coin.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        return x
