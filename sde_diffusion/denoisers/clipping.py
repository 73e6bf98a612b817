"""Predictions kept inside the range of the data, for images -1..1.

    clipped      x0_hat <- min(max(x0_hat, low), high)                                           (1)
    dynamic      x0_hat <- min(max(x0_hat, -s), s) limit/s,   s = the quantile of |x0_hat| in each sample, at least limit    (2)

Ho et al. 2020 (arXiv 2006.11239) sample with (1); (2) is Saharia et al. 2022 (2205.11487), for large guidance weights, under which (1)
saturates the image. eps and the score follow from what is returned, so that a solver keeps to one belief; some samplers keep the eps of
before instead, diffusers' DDIM for one (its option `use_clipped_model_output=True` is what happens here).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.base import Denoiser, Levels, Prediction, Predictions
from sde_diffusion.sdes.base import check_less, check_positive
from sde_diffusion.shapes import Time


class Bounded(Denoiser):
    """Another denoiser's x0_hat, brought into a range."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.sde)
        self.inner = denoiser

    @abc.abstractmethod
    def bound(self, x0_hat: Tensor) -> Tensor:
        """x0_hat (b, *d) inside the range."""

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        return self.bound(self.inner(x, t, cond))

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        x0_hat, v = self.inner.with_variance(x, t, cond)
        return self.bound(x0_hat), v

    def check_density(self, cond: Any = None) -> None:
        self.inner.check_density(cond)

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        def fix(inner: Prediction) -> Prediction:
            return Prediction(lambda x, cond: self.bound(inner(x, cond)))

        return [fix(inner) for inner in self.inner.at(times, like)]

    def at_each(self, levels: Levels, like: Tensor) -> Predictions:
        raw, into, skip, out = self.inner.at_each(levels, like)

        def fix(i: int) -> Callable[[Tensor, Any], Tensor]:
            def bounded(x: Tensor, cond: Any) -> Tensor:
                x0_hat = raw[i](x if into is None else x * into[i].to(x), cond)
                x0_hat = x0_hat if out is None else x0_hat * out[i].to(x)
                return self.bound(x0_hat if skip is None else x0_hat + x * skip[i].to(x))

            return bounded

        return Predictions([fix(i) for i in range(len(raw))])


class Clipped(Bounded):
    """x0_hat cut off at both ends of the data's range, (1).

    Args:
        denoiser: what predicts.
        low: smallest value of the data.
        high: largest.

    Raises:
        ValueError: unless low < high.
    """

    def __init__(self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(denoiser)
        check_less(low=low, high=high)
        self.low = float(low)
        self.high = float(high)

    def bound(self, x0_hat: Tensor) -> Tensor:
        return x0_hat.clamp(self.low, self.high)


class DynamicThreshold(Bounded):
    """x0_hat cut off where few of its values are, and shrunk to the data's range -limit..limit, (2).

    Args:
        denoiser: what predicts.
        quantile: part of the values of a sample that stay as they are but for the shrinking, in (0, 1].
        limit: largest absolute value of the data, > 0.
        largest: what s is at most, >= limit: values beyond are cut off whatever their number (diffusers' `sample_max_value`).

    Raises:
        ValueError: for options outside their ranges.
    """

    def __init__(self, denoiser: Denoiser, quantile: float = 0.995, limit: float = 1.0, *, largest: float = math.inf) -> None:
        super().__init__(denoiser)
        check_positive(limit=limit)
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {quantile}; 0.995 is Saharia et al.'s kind of value, not 99.5")
        if not largest >= limit:
            raise ValueError(f"largest must be at least limit={limit}, got {largest}; swap them?")
        self.quantile = float(quantile)
        self.limit = float(limit)
        self.largest = float(largest)

    def bound(self, x0_hat: Tensor) -> Tensor:
        values = x0_hat.flatten(1).abs()
        # torch.quantile sorts all of them and refuses more than 2^24
        position = self.quantile * (values.shape[1] - 1)
        low = math.floor(position)
        top = values.topk(values.shape[1] - low).values
        s = torch.lerp(top[:, -1], top[:, max(-2, -top.shape[1])], position - low).clamp(self.limit, self.largest)
        s = s.reshape(-1, *[1] * (x0_hat.ndim - 1))
        return torch.clamp(x0_hat, -s, s) * (self.limit / s)
