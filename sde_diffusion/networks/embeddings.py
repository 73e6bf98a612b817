"""Embeddings that tell a network how noisy its input is, and which class is asked for.

The noise level arrives as one number c: log(sigma/alpha)/4 between about -1.2 and 1.3 (Karras et al. 2022, table 1), or the label that a
published network was trained with, such as DDPM's step 0..999. It is lifted to sines and cosines,

    e(c) = [cos(w_1 c), ..., cos(w_m c), sin(w_1 c), ..., sin(w_m c)],                                                (1)

of frequencies in geometric progression, upwards from 1 for logarithms and downwards from 1 for steps (Vaswani et al. 2017), or drawn from a
Gaussian (Tancik et al. 2020), and then goes through a two-layer perceptron.  Blocks read the result by FiLM (Perez et al. 2018):

    h -> h (1 + scale(e)) + shift(e).                                                                                 (2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Sines and cosines of c_noise, equation (1) with w_k from 1 up to max_frequency, always computed in float32 or better.

    Args:
        channels: number of features, even and at least 4.
        max_frequency: largest angular frequency; 64 separates noise levels that differ by about 10 %.

    Raises:
        ValueError: for an odd or smaller number of channels.
    """

    def __init__(self, channels: int, *, max_frequency: float = 64.0) -> None:
        super().__init__()
        _check_channels(channels)
        self.channels = channels
        exponents = torch.linspace(0.0, 1.0, channels // 2, dtype=torch.float64)
        self.register_buffer("frequencies", torch.exp(exponents * math.log(max_frequency)).float(), persistent=False)

    frequencies: Tensor

    def forward(self, c_noise: Tensor) -> Tensor:
        return _sines_and_cosines(c_noise, self.frequencies, False)


class PositionalFeatures(nn.Module):
    """Sines and cosines of a step's number, equation (1) with w_k from 1 down to about 1/10000, in float32 or better.

    Args:
        channels: number of features, even and at least 4.
        sine_first: DDPM's order, whose last frequency is 1/10000 itself; otherwise improved DDPM's and ADM's, cosines first, in which the
            step after the last frequency would be.

    Raises:
        ValueError: for an odd or smaller number of channels.
    """

    def __init__(self, channels: int, *, sine_first: bool) -> None:
        super().__init__()
        _check_channels(channels)
        self.channels = channels
        half = channels // 2
        exponents = torch.arange(half, dtype=torch.float32) / (half - 1 if sine_first else half)
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * exponents), persistent=False)
        self.sine_first = sine_first

    frequencies: Tensor

    def forward(self, c_noise: Tensor) -> Tensor:
        return _sines_and_cosines(c_noise, self.frequencies, self.sine_first)


class RandomFourierFeatures(nn.Module):
    """Sines and cosines of c_noise with frequencies 2 pi scale N(0, 1), drawn once and kept with the weights (Tancik et al. 2020).

    Args:
        channels: number of features, even and at least 4.
        scale: standard deviation of the frequencies in periods; 16 in NCSN++, for c = log(sigma).

    Raises:
        ValueError: for an odd or smaller number of channels.
    """

    def __init__(self, channels: int, *, scale: float = 16.0) -> None:
        super().__init__()
        _check_channels(channels)
        self.channels = channels
        self.register_buffer("periods", torch.randn(channels // 2) * scale)

    periods: Tensor

    def forward(self, c_noise: Tensor) -> Tensor:
        return _sines_and_cosines(c_noise, self.periods * (2 * math.pi), True)


def _check_channels(channels: int) -> None:
    if channels < 4 or channels % 2:
        raise ValueError(f"channels must be even and at least 4 (sines and cosines), got {channels}; round it up")


def _sines_and_cosines(c: Tensor, frequencies: Tensor, sine_first: bool) -> Tensor:
    c = c.to(torch.promote_types(c.dtype, torch.float32))
    angles = c[:, None] * frequencies.to(c.dtype)
    return torch.cat((angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin()), dim=1)


Features = FourierFeatures | PositionalFeatures | RandomFourierFeatures


class NoiseEmbedding(nn.Module):
    """Embeds c_noise (b,), and a class label (b,) where there are classes, into (b, width).

    Args:
        width: size of the embedding.
        features: what lifts c_noise to (b, features.channels); FourierFeatures of `width` channels if None.
        classes: number of classes; 0 makes an unconditional network. Index `classes` is the dedicated null class, which is also what
            cond=None means: class 0 is a real class (the digit zero).

    Raises:
        ValueError: when called with a label, if there are no classes.
    """

    def __init__(self, width: int, *, features: Features | None = None, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.features = features or FourierFeatures(width)
        self.perceptron = nn.Sequential(nn.Linear(self.features.channels, width), nn.SiLU(), nn.Linear(width, width))
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
