"""Langevin moves that are longer where the data are wider.

    x <- x + e M^2 score(x, t) + sqrt(2 e) M z                                                   (1)

For any fixed positive M this is Langevin's equation in the coordinates x/M, so it has the same stationary law (Roberts & Stramer 2002,
"Langevin diffusions and Metropolis-Hastings algorithms"). With

    M^2 = alpha^2 std^2 + sigma^2                                                                (2)

x/M has unit variance in every coordinate: narrow ones no longer dictate the step of wide ones. M depends on the level and not on the
state, where a term div M^2 would be missing from (1). Ma et al. 2022 (arXiv 2207.02196) precondition the predictor too; that changes the
law it samples and is not done here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from sde_diffusion.expressions import plain_floats
from sde_diffusion.noise import Noise
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.solvers.correctors import Corrector, Level
from sde_diffusion.solvers.langevin import langevin_move


@dataclasses.dataclass(frozen=True)
class PreconditionedLangevin(Corrector):
    """Langevin moves (1) with the diagonal preconditioner (2) and e = 2 snr^2; std = 0 makes it `Langevin(snr)`.

    On Gaussian data with independent coordinates of these stds every coordinate forgets its start at the same rate, 1 - e per move, and
    has 1/(1 - e/2) times its variance, whatever the ratio of their widths.

    Args:
        std: standard deviation of the data: one number, or D of them in the order of x[0].flatten(), each >= 0.
        snr: ratio of the lengths of the score's move and the noise's, > 0, measured in x/M.
        steps: moves per noise level.

    Raises:
        ValueError: for a std that is negative, a snr or a number of steps that is not positive; while sampling, if there are neither one
            nor D numbers in `std`.
    """

    std: tuple[float, ...] = (1.0,)
    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        plain_floats(self)
        object.__setattr__(self, "std", tuple(torch.as_tensor(self.std, dtype=torch.float64).flatten().tolist()))
        check_positive(snr=self.snr)
        check_count(steps=self.steps)
        for i, std in enumerate(self.std):
            if not (std >= 0 and math.isfinite(std)):
                raise ValueError(f"std must be at least 0 and finite, got std[{i}]={std}")

    @classmethod
    def from_data(cls, x: Tensor, *, snr: float = 0.16, steps: int = 1) -> PreconditionedLangevin:
        """The same with the standard deviation of each coordinate of data x (n, *d), n >= 2."""
        if x.ndim < 2 or len(x) < 2:
            raise ValueError(f"data must have shape (n, *d) with n >= 2, for a standard deviation, got {tuple(x.shape)}")
        return cls(tuple(x.double().std(0).flatten().tolist()), snr=snr, steps=steps)

    def moves(self, level: Level, x: Tensor, noise: Noise, cond: Any) -> tuple[Tensor, int]:
        step = 2 * self.snr**2 * ((level.alpha * _widths(self.std, x.shape[1:], x.dtype, x.device)) ** 2 + level.sigma**2)
        for _ in range(self.steps):
            x = langevin_move(x, level.score(x, cond), noise(x), step)
        return x, self.steps


@functools.lru_cache(maxsize=16)  # a copy to the device at each level would wait for it
def _widths(std: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if len(std) not in (1, math.prod(shape)):
        raise ValueError(f"std has {len(std)} numbers for states of shape (b, {', '.join(map(str, shape))}); pass 1 or {math.prod(shape)}")
    widths = torch.tensor(std, dtype=dtype, device=device)
    return widths if len(std) == 1 else widths.reshape(shape)
