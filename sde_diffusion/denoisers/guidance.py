"""Classifier-free guidance: what a condition changes in a prediction, times a scale.

    x0_hat = x0_hat(x, null) + scale (x0_hat(x, c) - x0_hat(x, null))                            (1)

The weights sum to 1, so that (1) holds as well for eps and for the score, which are x0_hat and x combined: Ho & Salimans 2022 (arXiv
2207.12598) write eps~ = (1 + w) eps(z, c) - w eps(z), which is scale = 1 + w. For exact beliefs it is the score of

    p_t(x) (p_t(x | c)/p_t(x))^scale = p_t(x) p_t(c | x)^scale up to a factor                    (2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.denoisers.base import Denoiser, Levels, Prediction, Predictions
from sde_diffusion.shapes import Time, as_time


class ClassifierFreeGuidance(Denoiser):
    """Moves the prediction beyond the one for the condition, away from the one for none, (1).

    Where both conditions are tensors, or tuples or dicts of tensors, of equal shape and with a row per sample, both predictions are one
    network call on twice the batch; otherwise they are two calls. With scale 1, or if no condition is given, there is one call, on the
    condition or on null.

    Args:
        denoiser: was trained with the condition and, now and then, with null instead.
        scale: guidance weight: 1 is none, 0 ignores the condition, finite.
        null: what stands for no condition, for one sample (1, ...) or the batch: a tensor, a tuple or dict of tensors like the condition,
            a number (the label of a class that means none), or None, which the network then is given.

    Raises:
        ValueError: for a scale that is not finite.
    """

    def __init__(self, denoiser: Denoiser, scale: float, null: Any = None) -> None:
        super().__init__(denoiser.sde)
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}; 1 is no guidance")
        self.inner = denoiser
        self.scale = float(scale)
        self.null = null

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        def once(x: Tensor, cond: Any) -> Tensor:
            return self.inner(x, t, cond)

        def twice(x: Tensor, cond: Any) -> Tensor:
            times = as_time(t, x)
            return self.inner(x, times if times.numel() == 1 else _twice(times), cond)

        return self._guided(once, twice)(x, cond)

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        null, conditional = self._conditions(cond, x)
        x0_hat, v = self.inner.with_variance(x, t, conditional)
        if self.scale == 1 or cond is None:
            return x0_hat, v
        return torch.lerp(self.inner(x, t, null), x0_hat, self.scale), v

    def check_density(self, cond: Any = None) -> None:
        if self.scale != 1 and cond is not None:
            raise ValueError(
                f"guidance is on (scale={self.scale:g}): guided scores are not those of one law at all times, so that their flow has not"
                " the density that the guidance means; ask the denoiser inside, `guided.inner`, or use scale=1"
            )
        self.inner.check_density(self.null if cond is None else cond)

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        double = self.inner.at(times, _twice(like))
        pairs = zip(self.inner.at(times, like), double, strict=True)
        return [once._replace(raw=self._guided(once.raw, twice.raw)) for once, twice in pairs]

    def at_each(self, levels: Levels, like: Tensor) -> Predictions:
        def both(a: Tensor) -> Tensor:
            return torch.cat([a, a], 1)

        once = self.inner.at_each(levels, like)
        double = Levels(both(levels.alpha), both(levels.sigma), both(levels.log_snr), lambda: both(levels.time()))
        twice = self.inner.at_each(double, _twice(like))
        return once._replace(raw=[self._guided(*pair) for pair in zip(once.raw, twice.raw, strict=True)])

    def _guided(self, once: Callable[[Tensor, Any], Tensor], twice: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
        """(1) of any linear function of x0_hat and x, called on the batch or on twice the batch."""

        def guided(x: Tensor, cond: Any) -> Tensor:
            null, conditional = self._conditions(cond, x)
            if self.scale == 1 or cond is None:
                return once(x, conditional)
            if null is not None and _alike(null, conditional, len(x)):
                without, told = twice(_twice(x), _join(null, conditional)).chunk(2)
            else:
                without, told = once(x, null), once(x, conditional)
            return torch.lerp(without, told, self.scale)

        return guided

    def _conditions(self, cond: Any, x: Tensor) -> tuple[Any, Any]:
        """null and the condition, each with a row per sample."""
        null = self.null
        if isinstance(null, int | float):
            null = torch.full_like(cond, null) if isinstance(cond, Tensor) else torch.full((len(x),), null, device=x.device)
        null = _rows(null, x)
        return null, null if cond is None else _rows(cond, x)


def _twice(a: Tensor) -> Tensor:
    return torch.cat([a, a])


def _rows(value: Any, x: Tensor) -> Any:
    """A condition with a row per sample of x, on its device: one row is for all."""
    if isinstance(value, Tensor):
        return (value.expand(len(x), *value.shape[1:]) if len(value) == 1 else value).to(x.device) if value.ndim else value
    if isinstance(value, Mapping):
        return {key: _rows(item, x) for key, item in value.items()}
    return _like(value, [_rows(item, x) for item in value]) if isinstance(value, tuple) else value


def _alike(a: Any, b: Any, n: int) -> bool:
    """Whether two conditions for n samples can be one batch."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape[:1] == (n,) and a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key], n) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_alike(*pair, n) for pair in zip(a, b, strict=True))
    return a is None and b is None


def _join(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.cat([a, b])
    if isinstance(a, Mapping):
        return {key: _join(a[key], b[key]) for key in a}
    return None if a is None else _like(a, list(map(_join, a, b)))


def _like(a: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    """The items as a tuple, or as a named tuple of the same fields."""
    return type(a)(*items) if hasattr(a, "_fields") else tuple(items)
