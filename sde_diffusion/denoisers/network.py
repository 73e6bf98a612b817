"""A neural network as a denoiser: x0_hat = c_skip x + c_out F(c_in x, c_noise)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers.base import Denoiser, Levels, Prediction, Predictions
from sde_diffusion.denoisers.conditioning import Conditioning, LogNoise
from sde_diffusion.denoisers.parameterizations import Parameterization, Scalings
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import Time, as_time, expand


class NetworkDenoiser(Denoiser):
    """Any module with `forward(x, c_noise)`, or `forward(x, c_noise, cond)` where a condition is used, and its parameterization.

    The scalars are computed in float64 (on devices that have it) and applied in the dtype of x; the network sees states of its own
    dtype, under autocast too, and its output returns to that of x. c_noise is float32 at least: bfloat16 cannot tell 999 from 1000.

    Args:
        network: takes states (b, *d) and c_noise (b,); returns the shape of x, or (b, 2C, ...) for states (b, C, ...) where the
            parameterization is a LearnedVariance.
        sde: the process it was or will be trained for.
        parameterization: what it predicts.
        conditioning: what c_noise is, log(sigma/alpha)/4 by default.

    Raises:
        TypeError: for a process that is not affine.
        ValueError: at the first call, if the network returns another shape.
    """

    def __init__(
        self, network: nn.Module, sde: AffineSDE, parameterization: Parameterization, conditioning: Conditioning = LogNoise()
    ) -> None:
        super().__init__(sde)
        if not isinstance(sde, AffineSDE):
            raise TypeError(f"a belief about x_0 needs an AffineSDE, got {sde!r}; take ScoreNetwork(network, sde) and SlicedScoreMatching")
        self.network = network
        self.parameterization = parameterization
        self.conditioning = conditioning

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        return self._predict(x, t, cond)[0]

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        if not self.parameterization.learns_variance:
            return super().with_variance(x, t, cond)
        x0_hat, rest = self._predict(x, t, cond)
        return x0_hat, (rest + 1) / 2

    def check_density(self, cond: Any = None) -> None:
        classes = next((c for m in self.network.modules() if isinstance(c := getattr(m, "classes", 0), int) and c), 0)
        if classes and cond is None:
            raise ValueError(
                f"the network knows {classes} classes and was given no cond; pass the labels (b,), or {classes}, its null class, for what"
                " it believes without one"
            )

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        # not by way of x0_hat, which the small noise of float32 states drowns in: alpha c_skip - 1 is taken in float64
        t = as_time(t, x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        (c_skip, c_out, _, _), y = self._raw(x, t, cond)
        return expand((alpha * c_skip - 1) / sigma**2, x) * x + expand(alpha * c_out / sigma**2, x) * y[:, : x.shape[1]]

    def eps(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        t = as_time(t, x)
        return -expand(self.sde.sigma(t), x) * self.score(x, t, cond)

    def _predict(self, x: Tensor, t: Time, cond: Any) -> tuple[Tensor, Tensor]:
        """x0_hat and what the network returns in further channels."""
        (c_skip, c_out, _, _), y = self._raw(x, as_time(t, x), cond)
        return expand(c_skip, x) * x + expand(c_out, x) * y[:, : x.shape[1]], y[:, x.shape[1] :]

    def _raw(self, x: Tensor, t: Tensor, cond: Any) -> tuple[Scalings, Tensor]:
        """The four scalars and what the network returns."""
        scalings = _, _, c_in, c_noise = self.parameterization.scalings(self.sde, t, self.conditioning)
        dtype = self._network_dtype(x)
        noises = c_noise.to(x.device, _at_least_float32(dtype)).expand(len(x))
        scaled = (expand(c_in, x) * x).to(dtype)
        y: Tensor = self.network(scaled, noises) if cond is None else self.network(scaled, noises, cond)
        _check_shape(y, x, self.parameterization)
        return scalings, y.to(x.dtype)

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        skip, out, into, noise = _scalings(self.parameterization, self.conditioning, self.sde, tuple(times.tolist()))
        dtype = self._network_dtype(like)
        noises = torch.tensor(noise, device=like.device, dtype=_at_least_float32(dtype))[:, None].expand(-1, len(like)).unbind()
        cast, network, parameterization = dtype != like.dtype, self.network, self.parameterization

        def fix(c_skip: float, c_out: float, c_in: float, c_noise: Tensor) -> Prediction:
            def raw(x: Tensor, cond: Any) -> Tensor:
                scaled = x if c_in == 1 else x * c_in
                if cast:
                    scaled = scaled.to(dtype)
                y: Tensor = network(scaled, c_noise) if cond is None else network(scaled, c_noise, cond)
                if parameterization.learns_variance:
                    _check_shape(y, x, parameterization)
                    y = y[:, : x.shape[1]]
                return y if y.dtype is x.dtype else y.to(x.dtype)

            return Prediction(raw, c_skip, c_out)

        predictions = [fix(*c) for c in zip(skip, out, into, noises, strict=True)]
        return [predictions[0]._replace(raw=_keeps_shape(predictions[0].raw)), *predictions[1:]] if predictions else []

    def at_each(self, levels: Levels, like: Tensor) -> Predictions:
        skip, out, into = self.parameterization.x0_weights(levels.alpha, levels.sigma)
        dtype, network, parameterization = self._network_dtype(like), self.network, self.parameterization

        def fix(c_noise: Tensor) -> Callable[[Tensor, Any], Tensor]:
            def raw(x: Tensor, cond: Any) -> Tensor:
                scaled = x if x.dtype is dtype else x.to(dtype)
                y: Tensor = network(scaled, c_noise) if cond is None else network(scaled, c_noise, cond)
                _check_shape(y, x, parameterization)
                if parameterization.learns_variance:
                    y = y[:, : x.shape[1]]
                return y if y.dtype is x.dtype else y.to(x.dtype)

            return raw

        c_noise = self.conditioning.label(levels).to(like.device, _at_least_float32(dtype)).flatten(1)
        return Predictions([fix(row) for row in c_noise.unbind()], into, skip, out)

    def _network_dtype(self, x: Tensor) -> torch.dtype:
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x.dtype)


@functools.lru_cache(maxsize=64)  # as the tables of solvers: a sampler's twenty operations on a few numbers
def _scalings(
    parameterization: Parameterization, conditioning: Conditioning, sde: AffineSDE, times: tuple[float, ...]
) -> tuple[tuple[float, ...], ...]:
    """c_skip, c_out, c_in and c_noise at each of the times; tuples, so that no caller can change what is remembered."""
    return tuple(tuple(c.tolist()) for c in parameterization.scalings(sde, torch.tensor(times, dtype=torch.float64), conditioning))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _keeps_shape(raw: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """A call that is checked: the first of a sampler's, for the check costs as much as an addition."""

    def checked(x: Tensor, cond: Any) -> Tensor:
        y = raw(x, cond)
        _check_shape(y, x)
        return y

    return checked


def _check_shape(y: Tensor, x: Tensor, parameterization: Parameterization | None = None) -> None:
    """Raises ValueError unless a network's output has the shape of x, or twice its channels where it learns the variance too."""
    if parameterization is not None and parameterization.learns_variance:
        if y.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"the network returned shape {tuple(y.shape)} for states of shape {tuple(x.shape)}; "
                f"{parameterization} needs twice the channels, {2 * x.shape[1]}"
            )
    elif y.shape != x.shape:
        raise ValueError(f"the network returned shape {tuple(y.shape)} for states of shape {tuple(x.shape)}; it must keep the shape")
