"""Embeddings that tell a network how noisy its input is, and which class is asked for.

The noise level arrives as c_noise = log(sigma/alpha)/4 (Karras et al. 2022, table 1), a number between about -1.2 and 1.3.
It is lifted to sines and cosines of geometrically spaced frequencies,

    e(c) = [cos(w_1 c), ..., cos(w_m c), sin(w_1 c), ..., sin(w_m c)],      w_k from 1 to max_frequency             (1)

(Vaswani et al. 2017), and then through a two-layer perceptron.  Blocks read the result by FiLM (Perez et al. 2018):

    h -> h (1 + scale(e)) + shift(e).                                                                                 (2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Sines and cosines of c_noise, equation (1), always computed in float32 or better.

    Args:
        channels: number of features, even and at least 4.
        max_frequency: largest angular frequency; 64 separates noise levels that differ by about 10 %.

    Raises:
        ValueError: for an odd or smaller number of channels.
    """

    def __init__(self, channels: int, *, max_frequency: float = 64.0) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"channels must be even and at least 4 (sines and cosines), got {channels}; round it up")
        exponents = torch.linspace(0.0, 1.0, channels // 2, dtype=torch.float64)
        self.register_buffer("frequencies", torch.exp(exponents * math.log(max_frequency)).float(), persistent=False)

    frequencies: Tensor

    def forward(self, c_noise: Tensor) -> Tensor:
        c = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))
        angles = c[:, None] * self.frequencies.to(c.dtype)
        return torch.cat((angles.cos(), angles.sin()), dim=1)


class NoiseEmbedding(nn.Module):
    """Embeds c_noise (b,), and a class label (b,) where there are classes, into (b, width).

    Args:
        width: size of the embedding.
        classes: number of classes; 0 makes an unconditional network. Index `classes` is the dedicated null class, which is also what
            cond=None means: class 0 is a real class (the digit zero).

    Raises:
        ValueError: when called with a label, if there are no classes.
    """

    def __init__(self, width: int, *, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.features = FourierFeatures(width)
        self.perceptron = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        e = self.perceptron(self.features(c_noise).to(self.perceptron[0].weight.dtype))
        if self.labels is None:
            if cond is not None:
                raise ValueError("cond was given to a network without classes; build it with classes=10, say")
            return nn.functional.silu(e)
        if cond is None:
            cond = torch.full(c_noise.shape, self.classes, device=c_noise.device)
        return nn.functional.silu(e + self.labels(cond))
