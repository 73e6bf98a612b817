"""The exact law of a tableau's output on Gaussian data: no Monte Carlo, so no error bars.

On Gaussian data the exact denoiser is affine, x0_hat = m + G (x - alpha m) with G = alpha s^2/(alpha^2 s^2 + sigma^2), and so is every
row of a tableau: the vector S = (x, p_0, ..., p_{k-1}) becomes M_i S + c_i + noise_i z e_x. With the output's sensitivity to S,

    v_r = e_x,    v_{i-1} = v_i M_i                                                              (1)

propagated from the last row to the first, mean = v_0 S_0 + sum_i v_i c_i and variance = v_0 cov_0 v_0 + sum_i (v_i e_x noise_i)^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sde_diffusion.denoisers import GaussianDenoiser
from sde_diffusion.solvers import Tableau


def gaussian_law(tableau: Tableau, denoiser: GaussianDenoiser, *, mean: Tensor | float, std: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean and variance of what a tableau makes of a start N(mean, std^2), by (1), in microseconds per row.

    Args:
        tableau: `solver.tableau(sde, grid)`.
        denoiser: of data (b, d) with independent coordinates.
        mean: of the start, () or (d,); the prior's is 0, the marginal's `marginal(denoiser, t)[0]`.
        std: of the start, () or (d,); the prior's is `sde.prior_std`.

    Returns:
        Mean and variance per coordinate, (d,) each in float64.
    """
    return gaussian_laws([tableau], [denoiser], [mean], [std])[0]


def gaussian_laws(
    tableaus: Sequence[Tableau],
    denoisers: Sequence[GaussianDenoiser],
    means: Sequence[Tensor | float],
    stds: Sequence[Tensor | float],
) -> list[tuple[Tensor, Tensor]]:
    """The same for several tables of one shape at once: one solver on several processes, in the time of one.

    Raises:
        ValueError: if the tables differ in shape.
    """
    if len({table.p.shape for table in tableaus}) != 1:
        raise ValueError(f"tables propagated together must have one shape, got {[tuple(table.p.shape) for table in tableaus]}")
    sizes = [denoiser.means.shape[1] for denoiser in denoisers]
    width = tableaus[0].p.shape[1]

    def spread(values: Sequence[Tensor | float]) -> Tensor:
        return torch.cat([torch.as_tensor(v, dtype=torch.float64).expand(d) for v, d in zip(values, sizes, strict=True)])

    def column(name: str) -> Tensor:  # (r, all coordinates)
        return torch.cat([getattr(table, name)[:, None].expand(-1, d) for table, d in zip(tableaus, sizes, strict=True)], 1)

    gain, offset = (torch.cat(parts, 1) for parts in zip(*map(_affine, tableaus, denoisers), strict=True))
    p_x, p_x0, x, noise = (column(name) for name in ("p_x", "p_x0", "x", "noise"))
    p = torch.cat([table.p[:, None].expand(-1, d, -1) for table, d in zip(tableaus, sizes, strict=True)], 1)
    slope, constants = p_x + p_x0 * gain, p_x0 * offset
    keeps = ((p_x != 0) | (p_x0 != 0)).any(1)
    matrices = torch.zeros(*x.shape, 1 + width, 1 + width, dtype=torch.float64)
    matrices[:, :, 0, 0] = x + p[..., 0] * slope
    matrices[:, :, 0, 1:-1] = p[..., 1:]
    matrices[:, :, 1, 0] = slope
    for j in range(2, 1 + width):
        matrices[:, :, j, j - 1] = 1  # the predictions grow older
    if not keeps.all():
        matrices[~keeps] = torch.eye(1 + width, dtype=torch.float64)
        matrices[~keeps, :, 0] = torch.cat([x[..., None], p], 2)[~keeps]
    v = torch.zeros(x.shape[1], 1, 1 + width, dtype=torch.float64)
    v[:, 0, 0] = 1
    sensitivities = [v]
    for matrix in reversed(matrices.unbind()):
        v = torch.bmm(v, matrix)
        sensitivities.append(v)
    v = torch.stack(sensitivities[-2::-1])[:, :, 0]  # of the state after each row, (r, all coordinates, 1 + width)
    through = v[..., 0] * p[..., 0] + v[..., 1]  # of p_0 as it is remembered
    first = sensitivities[-1][:, 0, 0]
    mean = first * spread(means) + (through * constants).sum(0)
    variance = (first * spread(stds)) ** 2 + ((v[..., 0] * noise) ** 2).sum(0)
    return list(zip(mean.split(sizes), variance.split(sizes), strict=True))


def _affine(tableau: Tableau, denoiser: GaussianDenoiser) -> tuple[Tensor, Tensor]:
    """(gain, offset) of x0_hat = gain x + offset in each row, (r, d) each."""
    centers, variances = denoiser.means[0], denoiser.variances[0]
    times = tableau.t.nan_to_num(denoiser.sde.t_max)  # a row that makes no prediction has no use for its gain
    alpha, sigma = (a(times)[:, None] for a in (denoiser.sde.alpha, denoiser.sde.sigma))
    gain = alpha * variances / (alpha**2 * variances + sigma**2)
    return gain, centers - gain * alpha * centers


def marginal(denoiser: GaussianDenoiser, t: float) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of x_t, (d,) each."""
    alpha, sigma = denoiser.sde.alpha(t), denoiser.sde.sigma(t)
    return alpha * denoiser.means[0], torch.sqrt(alpha**2 * denoiser.variances[0] + sigma**2)
