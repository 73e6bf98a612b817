"""A variance-preserving process whose schedule is a table.

    lam(t) = log(alpha/sigma),    gamma = -2 lam,    alpha^2 = sigmoid(-gamma),    sigma^2 = sigmoid(gamma)                    (1)
    f = -1/2 sigmoid(gamma) gamma',    g^2 = sigmoid(gamma) gamma'                                                            (2)

Between values at t = 0, 1/n, ..., 1 lam is the cubic polynomial with the slopes at both ends that fourth-order differences give, of error
h^4, but no steeper than three times either chord beside it, which makes the cubic monotone (Fritsch & Carlson 1980). f and g are those of
the polynomial, and so exact. Kingma et al. 2021 (arXiv 2107.00630) for (1) and (2).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import math

import torch
from torch import Tensor

from sde_diffusion.sdes.base import AffineSDE, check_times
from sde_diffusion.shapes import Time, as_time

_FEWEST = 5  # values, which a fourth-order difference needs
_BISECTIONS = 60


class LogSNRSDE(AffineSDE):
    """A variance-preserving process given by gamma(t) and its derivative: (1) and (2)."""

    @abc.abstractmethod
    def _gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and d gamma/dt > 0 at float64 times."""

    def gamma(self, t: Time) -> tuple[Tensor, Tensor]:
        """gamma = log(sigma^2/alpha^2) and its derivative at times t, float64."""
        return self._gamma(as_time(t).double())

    @property
    def prior_std(self) -> float:
        return 1.0

    def alpha(self, t: Time) -> Tensor:
        return torch.sigmoid(-self.gamma(t)[0]).sqrt().to(as_time(t).dtype)

    def sigma(self, t: Time) -> Tensor:
        return torch.sigmoid(self.gamma(t)[0]).sqrt().to(as_time(t).dtype)

    def f(self, t: Time) -> Tensor:
        gamma, slope = self.gamma(t)
        return (-0.5 * torch.sigmoid(gamma) * slope).to(as_time(t).dtype)

    def g(self, t: Time) -> Tensor:
        gamma, slope = self.gamma(t)
        return (torch.sigmoid(gamma) * slope).sqrt().to(as_time(t).dtype)

    def log_snr(self, t: Time) -> Tensor:
        return (-0.5 * self.gamma(t)[0]).to(as_time(t).dtype)

    def alpha_of_log_snr(self, lam: Time) -> Tensor:
        return torch.sigmoid(2 * as_time(lam)).sqrt()

    @torch.no_grad()
    def t_of_log_snr(self, lam: Time) -> Tensor:
        """The time at which log(alpha/sigma) is `lam`, without gradients; 0 or t_max beyond the ends."""
        lam = as_time(lam)
        target = -2 * lam.double()
        low, high = torch.zeros_like(target), torch.full_like(target, self.t_max)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            above = self.gamma(middle)[0] > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high)).to(lam.dtype)


@dataclasses.dataclass(frozen=True)
class TabulatedVPSDE(LogSNRSDE):
    """The variance-preserving process with the log(alpha/sigma) of a table.

    Args:
        log_snrs: log(alpha/sigma) at t = 0, 1/n, ..., 1; five at least, decreasing.
        t_min: where sampling stops; 0, as there is noise at t = 0 already.

    Raises:
        ValueError: for too few values, and for such as are not finite or do not decrease.
    """

    log_snrs: tuple[float, ...]
    t_min: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.log_snrs)
        object.__setattr__(self, "log_snrs", values)
        check_times(self.t_min, self.t_max, zero=True)
        if len(values) < _FEWEST:
            raise ValueError(f"log_snrs must be {_FEWEST} numbers at least, got {len(values)}; tabulate the schedule more finely")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"log_snrs must be finite, got {values[0]} to {values[-1]}; start where there is a little noise")
        if not all(a > b for a, b in itertools.pairwise(values)):
            raise ValueError("log_snrs must decrease, from the data at t = 0 to the noise at t = 1; reverse them?")

    @functools.cached_property
    def _knots(self) -> Tensor:
        """gamma and its slopes per panel at the knots, (2, n + 1)."""
        gamma = -2 * torch.tensor(self.log_snrs, dtype=torch.float64)
        chords = gamma.diff()
        slopes = torch.empty_like(gamma)
        slopes[2:-2] = (8 * (gamma[3:-1] - gamma[1:-3]) - gamma[4:] + gamma[:-4]) / 12
        ends = torch.tensor([[-25, 48, -36, 16, -3], [-3, -10, 18, -6, 1]], dtype=torch.float64) / 12  # one-sided, of the same order
        slopes[:2], slopes[-2:] = ends @ gamma[:5], (-ends @ gamma[-5:].flip(0)).flip(0)
        steepest = 3 * torch.minimum(torch.cat([chords[:1], chords]), torch.cat([chords, chords[-1:]]))
        return torch.stack([gamma, slopes.clamp(min=0).minimum(steepest)])

    def _gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = self._knots.to(t.device)
        n = len(values) - 1
        i = (t.detach() * n).long().clamp(0, n - 1)
        u, rise, left, right = t * n - i, values[i + 1] - values[i], slopes[i], slopes[i + 1]
        # Hermite's cubic: left at u = 0 and right at u = 1 are its slopes
        square, cube = 3 * rise - 2 * left - right, left + right - 2 * rise
        return values[i] + u * (left + u * (square + u * cube)), n * (left + u * (2 * square + u * 3 * cube))
