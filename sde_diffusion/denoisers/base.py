"""A belief about the data behind a noisy state.

    x0_hat = E[x_0 | x_t]                                                                        (1)
    score  = (alpha x0_hat - x)/sigma^2,    eps = (x - alpha x0_hat)/sigma                       (2)
    v      = dx/dt of the probability-flow ODE = f x - g^2/2 score                               (3)

(2) is Tweedie's formula for x_t = alpha x_0 + sigma eps. Two affine processes of equal alpha/sigma carry the same information, so a
belief for one is a belief for every other: with log_snr'(t') = log_snr(t),

    x0_hat'(x', t') = x0_hat(x' alpha(t)/alpha'(t'), t)                                          (4)
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sde_diffusion.denoisers.jacobian import jacobian_trace
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.shapes import Time, as_time, expand

if TYPE_CHECKING:
    from sde_diffusion.denoisers.model_card import ModelCard
    from sde_diffusion.denoisers.network import NetworkDenoiser


class Prediction(NamedTuple):
    """x0_hat(x, cond) = skip x + out raw(x, cond) at a time that is fixed already.

    A sampler that needs x0_hat only as a part of a sum takes `raw` and adds the two weights to its own.
    """

    raw: Callable[[Tensor, Any], Tensor]
    skip: float = 0.0
    out: float = 1.0

    def __call__(self, x: Tensor, cond: Any = None) -> Tensor:
        return self.finish(x, self.raw(x, cond))

    def finish(self, x: Tensor, raw: Tensor) -> Tensor:
        """x0_hat from what `raw` returned at x."""
        x0_hat = raw * self.out
        return x0_hat.add_(x, alpha=self.skip) if self.skip else x0_hat


class Levels(NamedTuple):
    """Where states are: alpha, sigma and log(alpha/sigma), of one shape, and their times, which cost what only an exact denoiser pays."""

    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor
    time: Callable[[], Tensor]

    @staticmethod
    def at(sde: AffineSDE, t: Time) -> Levels:
        """The levels of a process at times t, of their shape."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return Levels(alpha, sigma, -torch.log(sigma / alpha), lambda: as_time(t))


class Predictions(NamedTuple):
    """x0_hat(x, cond) = skip_i x + out_i raw_i(into_i x, cond) at r rows of levels; into, skip and out, if None, are 1, 0 and 1."""

    raw: list[Callable[[Tensor, Any], Tensor]]
    into: Tensor | None = None
    skip: Tensor | None = None
    out: Tensor | None = None


class Denoiser(nn.Module, abc.ABC):
    """x0_hat (1) and what follows from it.

    Args:
        sde: the process whose states are denoised.

    Attributes:
        fitted: tables fitted to this denoiser (`FittedSolver`), by the number of network calls; "auto" prefers them. They are neither
            parameters nor saved with them, and another denoiser made of this one, such as by `under`, has none.
    """

    sde: AffineSDE
    fitted: Mapping[int, Any]

    def __init__(self, sde: AffineSDE) -> None:
        super().__init__()
        self.sde = sde
        self.fitted = {}

    @abc.abstractmethod
    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        """x0_hat at states x (b, *d), times t () or (b,) and condition `cond`; shape and dtype of x."""

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        """x0_hat and v, both (b, *d), of one network call: v = 0..1 leads from the posterior's to the forward process' log-variance.

        Raises:
            ValueError: if the denoiser has learned no variance.
        """
        raise ValueError(
            f"{type(self).__name__} has learned no variance; use a NetworkDenoiser with the parameterization LearnedVariance(...), "
            "or Ancestral with variance='posterior', 'forward' or 'analytic'"
        )

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        """The prediction at each of the times (r,), with all arithmetic on times done beforehand.

        Args:
            times: float64 on the CPU.
            like: a tensor of the dtype, device and shape of the states to come.
        """

        def fix(t: Tensor) -> Prediction:
            return Prediction(lambda x, cond: self(x, t, cond))

        return [fix(t) for t in times.to(like.device).unbind()]

    def at_each(self, levels: Levels, like: Tensor) -> Predictions:
        """The predictions at r rows of levels, one per sample, with the arithmetic on them done for all rows at once.

        Args:
            levels: of shape (r, b, 1, ...), so that a row multiplies states, on their device.
            like: a tensor of the dtype, device and shape of the states to come, (b, *d).
        """

        def fix(t: Tensor) -> Callable[[Tensor, Any], Tensor]:
            return lambda x, cond: self(x, t, cond)

        return Predictions([fix(t) for t in levels.time().flatten(1).unbind()])

    def score(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        """nabla_x log p_t(x) by (2)."""
        t = as_time(t, x)
        return (expand(self.sde.alpha(t), x) * self(x, t, cond) - x) / expand(self.sde.sigma(t), x) ** 2

    def eps(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        """The noise in x by (2)."""
        t = as_time(t, x)
        return (x - expand(self.sde.alpha(t), x) * self(x, t, cond)) / expand(self.sde.sigma(t), x)

    def v(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        """The velocity (3) of the probability-flow ODE, in the direction of growing t."""
        t = as_time(t, x)
        return self.sde.drift(x, t) - 0.5 * expand(self.sde.g(t), x) ** 2 * self.score(x, t, cond)

    def check_density(self, cond: Any = None) -> None:
        """Raises ValueError, with the cure, where the predictions under `cond` are not those of one law, so that there is no density."""

    def jacobian_trace(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        """x0_hat (b, *d) and the trace of its Jacobian dx0_hat/dx, (b,) float64, by d vector-Jacobian products, several at once.

        Differentiable where gradients are recorded, such as for the gradient of a likelihood.
        """
        return jacobian_trace(lambda z: self(z, t, cond), x)

    def under(self, sde: AffineSDE) -> Denoiser:
        """The same belief as a denoiser for another affine process, by the change of variables (4)."""
        return ChangeOfVariables(self, sde)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        card: ModelCard | None = None,
        network: str | None = None,
        names: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Writes the denoiser with its weights, fitted tables and a model card into a folder; see denoisers/pretrained.py."""
        from sde_diffusion.denoisers.pretrained import save_pretrained

        return save_pretrained(self, folder, card=card, network=network, names=names, overwrite=overwrite)

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        names: Mapping[str, Any] | None = None,
    ) -> NetworkDenoiser:
        """The denoiser of a folder that `save_pretrained` wrote, or of "user/name" on the hub; see denoisers/pretrained.py."""
        from sde_diffusion.denoisers.pretrained import load_pretrained

        return load_pretrained(source, revision=revision, device=device, names=names)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        network: str | None = None,
        names: Mapping[str, Any] | None = None,
        private: bool = False,
        token: str | None = None,
        message: str = "Upload a denoiser",
    ) -> str:
        """Uploads what `save_pretrained` writes to the hub and returns the model's URL; see denoisers/pretrained.py."""
        from sde_diffusion.denoisers.pretrained import push_to_hub

        return push_to_hub(self, repo_id, card=card, network=network, names=names, private=private, token=token, message=message)

    @property
    def like(self) -> Tensor:
        """An empty tensor with the device and dtype of the first floating-point parameter or buffer (float32 at least)."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return torch.empty(0, device=tensor.device, dtype=torch.promote_types(tensor.dtype, torch.float32))
        return torch.empty(0)


class ChangeOfVariables(Denoiser):
    """A denoiser used for another process (4); made by `denoiser.under(sde)`.

    Times outside [0, 1] of the inner process, where the other one is noisier or cleaner than it ever is, are clamped to it.
    """

    def __init__(self, inner: Denoiser, sde: AffineSDE) -> None:
        super().__init__(sde)
        self.inner = inner

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        t, scale = self._inside(as_time(t, x))
        return self.inner(x * expand(scale, x), t, cond)

    def _inside(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The inner process' time t', and alpha(t)/alpha'(t'), of (4)."""
        inner = self.inner.sde.t_of_log_snr(self.sde.log_snr(t)).clamp(0, 1)
        return inner, self.inner.sde.alpha(inner) / self.sde.alpha(t)

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        t, scale = self._inside(as_time(t, x))
        return self.inner.with_variance(x * expand(scale, x), t, cond)

    def check_density(self, cond: Any = None) -> None:
        self.inner.check_density(cond)

    def jacobian_trace(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        t, scale = self._inside(as_time(t, x))
        x0_hat, trace = self.inner.jacobian_trace(x * expand(scale, x), t, cond)
        return x0_hat, scale.to(trace) * trace

    def at(self, times: Tensor, like: Tensor) -> list[Prediction]:
        inner_times, scaled = self._inside(times)
        scales = scaled.tolist()

        def fix(inner: Prediction, scale: float) -> Prediction:
            return Prediction(lambda x, cond: inner.raw(x * scale, cond), inner.skip * scale, inner.out)

        return [fix(p, s) for p, s in zip(self.inner.at(inner_times, like), scales, strict=True)]

    def at_each(self, levels: Levels, like: Tensor) -> Predictions:
        sde = self.inner.sde
        t = sde.t_of_log_snr(levels.log_snr.double()).clamp(0, 1)
        inner = Levels(sde.alpha(t), sde.sigma(t), levels.log_snr, lambda: t)
        raw, into, skip, out = self.inner.at_each(inner, like)
        scale = inner.alpha / levels.alpha
        return Predictions(raw, scale if into is None else into * scale, None if skip is None else skip * scale, out)


class NFECounter(Denoiser):
    """Hands every call on to another denoiser and counts it in `nfe`."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.sde)
        self.inner = inner
        self.fitted = inner.fitted  # the very same belief
        self.nfe = 0

    def forward(self, x: Tensor, t: Time, cond: Any = None) -> Tensor:
        self.nfe += 1
        return self.inner(x, t, cond)

    def with_variance(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        self.nfe += 1
        return self.inner.with_variance(x, t, cond)

    def check_density(self, cond: Any = None) -> None:
        self.inner.check_density(cond)

    def jacobian_trace(self, x: Tensor, t: Time, cond: Any = None) -> tuple[Tensor, Tensor]:
        self.nfe += 1
        return self.inner.jacobian_trace(x, t, cond)
