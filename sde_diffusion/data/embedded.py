"""Data that come with scikit-learn or with a formula: nothing to download.

- Digits: 8x8 handwritten digits, 17 grey levels.
- Patches: colour patches of two photographs.
- Signals: waveforms (1, 64) of a known law.
- BreastCancer: a table of 30 numbers, standardised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sde_diffusion.data.base import Data, Source
from sde_diffusion.data.order import SPLIT_SEED, split
from sde_diffusion.data.pixels import BYTE_LEVELS, Pixels
from sde_diffusion.data.tensors import split_tensor, two_parts
from sde_diffusion.expressions import plain_floats

DIGIT_LEVELS = 17  # pixels are counts 0..16 of dark points in 4x4 cells


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """Scikit-learn's handwritten digits: train (1437, 1, 8, 8), held out (360, 1, 8, 8), pixel/8 - 1, labels 0..9.

    Args:
        flip: random horizontal flips; digits do not look like digits then.
        dequantize: uniform dequantisation of the 17 levels, which likelihoods need.
    """

    flip: bool = False
    dequantize: bool = False

    def load(self) -> Data:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        stored = torch.tensor(pixels, dtype=torch.uint8).reshape(-1, 1, 8, 8)
        return split_tensor("digits", stored, torch.tensor(labels), pixels=Pixels(DIGIT_LEVELS, self.dequantize, self.flip))


@dataclass(frozen=True, kw_only=True)
class Patches(Source):
    """Patches (3, size, size) of scikit-learn's two photographs (427 x 640), 8000 to train on, 2000 held out; the label is the photograph.

    Training patches lie in the left 80 % of a photograph, held-out patches in the rest: no pixel belongs to both.

    Args:
        size: side of a patch, 1..128 pixels.
        flip: random horizontal flips.
        dequantize: uniform dequantisation of the 256 levels.
    """

    size: int = 16
    flip: bool = False
    dequantize: bool = False

    def load(self) -> Data:
        from sklearn.datasets import load_sample_images

        photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2)
        border = round(0.8 * photographs.shape[-1])
        if not 1 <= self.size <= photographs.shape[-1] - border:
            raise ValueError(f"size must lie in 1..{photographs.shape[-1] - border}, the width of the held-out strip, got {self.size}")
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        parts, labels = [], []
        for region, n in ((photographs[..., :border], 8000), (photographs[..., border:], 2000)):
            windows = region.unfold(2, self.size, 1).unfold(3, self.size, 1)  # (2, 3, rows, columns, size, size), a view
            which, row, column = (torch.randint(k, (n,), generator=generator) for k in (2, windows.shape[2], windows.shape[3]))
            parts.append(windows[which, :, row, column])
            labels.append(which)
        rows = torch.arange(10_000)
        pixels = Pixels(BYTE_LEVELS, self.dequantize, self.flip)
        return two_parts("patches", torch.cat(parts), torch.cat(labels), rows[:8000], rows[8000:], pixels=pixels)


@dataclass(frozen=True, kw_only=True)
class Signals(Source):
    """Waveforms x (1, 64), 10 000 of them: a sinusoid of random phase plus autoregressive noise; the label k = 0..3 is its frequency.

        x_l = sqrt(2) a sin(2 pi 2^k l/64 + phase) + e_l,    e_l = rho e_{l-1} + std sqrt(1 - rho^2) z_l,  e_0 = std z_0

    Given k, the mean is 0 and cov(x_l, x_m) = a^2 cos(2 pi 2^k (l - m)/64) + std^2 rho^|l - m|.

    Args:
        a: root mean square of the sinusoid.
        std: of the noise.
        rho: correlation of neighbouring noise values, in (-1, 1).
    """

    a: float = 0.9
    std: float = 0.4
    rho: float = 0.9

    def __post_init__(self) -> None:
        plain_floats(self)
        if not -1 < self.rho < 1:
            raise ValueError(f"rho must lie in (-1, 1) for stationary noise, got {self.rho}")

    def load(self) -> Data:
        n, length = 10_000, 64
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        k = torch.randint(4, (n,), generator=generator)
        phase = 2 * math.pi * torch.rand(n, 1, generator=generator)
        waves = math.sqrt(2) * self.a * torch.sin(2 * math.pi / length * 2.0 ** k[:, None] * torch.arange(length) + phase)
        z = self.std * torch.randn(n, length, generator=generator)
        noise = [z[:, 0]]
        for l in range(1, length):
            noise.append(self.rho * noise[-1] + math.sqrt(1 - self.rho**2) * z[:, l])
        return split_tensor("signals", (waves + torch.stack(noise, dim=1))[:, None], k)


@dataclass(frozen=True, kw_only=True)
class BreastCancer(Source):
    """Scikit-learn's breast cancer table: 569 cases of 30 numbers, standardised by training mean and std; labels 0 malignant, 1 benign."""

    def load(self) -> Data:
        from sklearn.datasets import load_breast_cancer

        table, labels = load_breast_cancer(return_X_y=True)
        x = torch.tensor(table)
        train, held_out = split(len(x))
        x = (x - x[train].mean(dim=0)) / x[train].std(dim=0)
        return two_parts("table", x.float(), torch.tensor(labels), train, held_out, pixels=Pixels())
