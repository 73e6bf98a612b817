"""The exact law of a tableau's output on Gaussian data: no Monte Carlo, so no error bars.

On Gaussian data the exact denoiser is affine, x0_hat = m + G (x - alpha m) with G = alpha s^2/(alpha^2 s^2 + sigma^2), and so is every
row of a tableau. The vector S = (x, x_base, x0_hat_0, ..., x0_hat_{k-1}) therefore stays Gaussian, and row by row

    S <- M S + c + noise_i z e_x,    mean <- M mean + c,    cov <- M cov M^T + noise_i^2 e_x e_x^T                         (1)
"""

from __future__ import annotations

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
    centers, variances = denoiser.means[0], denoiser.variances[0]
    d, width = len(centers), tableau.x0.shape[1]
    alpha, sigma = (a(tableau.t)[:, None] for a in (denoiser.sde.alpha, denoiser.sde.sigma))
    gains = alpha * variances / (alpha**2 * variances + sigma**2)
    offsets = centers - gains * alpha * centers
    state = torch.zeros(d, 2 + width, dtype=torch.float64)
    state[:, :2] = torch.as_tensor(mean, dtype=torch.float64).expand(d)[:, None]
    cov = torch.zeros(d, 2 + width, 2 + width, dtype=torch.float64)
    cov[:, :2, :2] = (torch.as_tensor(std, dtype=torch.float64).expand(d) ** 2)[:, None, None]
    keep = torch.eye(2 + width, dtype=torch.float64)
    for i in range(len(tableau)):
        if not tableau.t[i].isnan():
            shift = torch.zeros(d, 2 + width, 2 + width, dtype=torch.float64)
            shift[:, 0, 0] = shift[:, 1, 1] = 1
            shift[:, 2, 0] = gains[i]
            for j in range(3, 2 + width):
                shift[:, j, j - 1] = 1
            state, cov = torch.einsum("dij,dj->di", shift, state), shift @ cov @ shift.mT
            state[:, 2] += offsets[i]
        row = keep.clone()
        row[0] = torch.cat([tableau.x[i : i + 1], tableau.base[i : i + 1], tableau.x0[i]])
        if not tableau.ends[i].isnan():
            row[1] = row[0]
        state, cov = state @ row.T, row @ cov @ row.T
        fresh = slice(0, 1) if tableau.ends[i].isnan() else slice(0, 2)
        cov[:, fresh, fresh] += tableau.noise[i] ** 2
    return state[:, 0], cov[:, 0, 0]


def marginal(denoiser: GaussianDenoiser, t: float) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of x_t, (d,) each."""
    alpha, sigma = denoiser.sde.alpha(t), denoiser.sde.sigma(t)
    return alpha * denoiser.means[0], torch.sqrt(alpha**2 * denoiser.variances[0] + sigma**2)
