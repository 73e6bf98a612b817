"""Upper bounds on -log p(x), by denoising alone: no divergence, no differential equation.

The reverse process of any affine SDE, run along a grid, is a latent-variable model whose bound has a prior's, the steps' and a decoder's
part (losses/variational.py, eqs 1 and 2). With more and more steps the middle one becomes, lam = log(alpha/sigma) and y = x_t,

    E int_{lam_1}^{lam_0} |eps - eps_hat(y, t)|^2 dlam = 1/2 E int SNR |x_0 - x0_hat|^2 dlog SNR                                (1)

(Kingma et al. 2021, arXiv 2107.00630), whatever the schedule between its two ends. It is also the bound of Song et al. 2021 (2101.09258),

    E[-log prior(x_1)] + 1/2 E int g^2 (|s - grad log q|^2 - |grad log q|^2) - 2 div f dt + offset,    q = N(alpha x_0, sigma^2 I)    (2)

for the drift f x: E|grad log q|^2 = d/sigma^2, and g^2/sigma^2 + 2 f = dlog sigma^2/dt (sdes/base.py, eq 2), so that the last two terms
integrate to -d log(sigma_1/sigma_0). E[-log prior(x_1)] is KL(q_1 || prior) + d/2 log(2 pi e sigma_1^2), and g^2/sigma^2 dt = -2 dlam turns
1/2 g^2 |s - grad log q|^2 dt into (1). What remains, d/2 log(2 pi e sigma_0^2), is taken away again by the offset, which puts there

    -log N(x_0; x0_hat, (sigma_0/alpha_0)^2 I)

: (2) is prior + (1) + GaussianDecoder(), and one function serves both.

Far below the scale of the data nobody can tell the noise: eps_hat = 0, and |eps - eps_hat|^2 has the variance 2d. It goes with |eps|^2,
whose mean is known, so that less of that remains in

    |eps - eps_hat|^2 - m^2 (|eps|^2 - d),    m = S^2/(S^2 + sigma^2/alpha^2)                                                   (3)

of the same mean; for Gaussian data of standard deviation S, m is the share of eps in eps - eps_hat. Likewise in a chain's steps, of which
one has 1/2 expm1(2 lam_s - 2 lam_t) |eps - eps_hat|^2, and in the decoder, of which GaussianDecoder has 1/2 |eps - eps_hat|^2. The second
term of (2) does this with m = 1. On a ring of 8 modes of width 0.1 a fifth of the variance remains (S = 0.05 to 1.4: 0.55 to 0.74 instead
of 2.82 nats^2 of one point, 60 samples, VPSDE()).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.chain_model import ChainModel
from sde_diffusion.likelihood.flow import check_data, check_start
from sde_diffusion.losses.decoders import Decoder, GaussianDecoder
from sde_diffusion.losses.variational import Variance, belief, prior_divergence, reconstruction, step_divergence
from sde_diffusion.noise import Noise, make_noise
from sde_diffusion.sdes import AffineSDE
from sde_diffusion.sdes.base import check_count, check_positive
from sde_diffusion.shapes import sum_event
from sde_diffusion.solvers.variance import ReconstructionError


class Bound(NamedTuple):
    """An upper bound on -log p of b samples, in nats.

    Args:
        nats: the estimate of the bound, (b,) float64.
        standard_error: of that estimate, (b,) float64; NaN if every term was drawn only once.
        prior: KL(q(x_1 | x_0) || prior), (b,).
        diffusion: the steps' part, (b,).
        reconstruction: the decoder's part, (b,).
        nfe: network calls of each sample.
    """

    nats: Tensor
    standard_error: Tensor
    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    nfe: int


def chain_bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    grid: Tensor | Sequence[float] | None = None,
    steps: int | None = None,
    draws: int = 2,
    variance: Variance = "posterior",
    errors: ReconstructionError | None = None,
    decoder: Decoder | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    data_std: float | None = 0.7,
    differentiable: bool = False,
) -> Bound:
    """The variational bound of the model that `Ancestral(variance)` samples from, with all its steps or some drawn at random.

        -log p(x_0) <= KL(q(x_1 | x_0) || N(0, p^2 I)) + sum_t E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - E log p(x_0 | x_first)

    Ho et al. 2020 (arXiv 2006.11239, eq 5). For any x0_hat it is a bound: guidance and clipping make other models, not wrong numbers.

    Args:
        denoiser: the belief; its `sde` is the process.
        x: data (b, *d), floating point.
        grid: decreasing times from t_max on, of which the last is 0 or the first with noise; by default the nodes of a chain. Some of its
            nodes are the respaced chain.
        steps: into how many equal parts the sum is divided, each with `draws` steps at random (stratified, Kingma et al. 2021); by default
            one part per step, so that none is left out.
        draws: noises per part; the standard error is that of their means and needs at least 2.
        variance: "posterior", "forward", "analytic" (with `errors`), "learned" (by the denoiser), or a function (sde, t, s) -> c^2.
        errors: the model's, for "analytic" only.
        decoder: what p(x_0 | x_first) is; by default GaussianDecoder(), a density: nats of discrete data need DiscretizedDecoder(width).
        noise: the source of randomness; or `generator` or `seeds`, one per sample.
        cond: condition handed to the denoiser.
        data_std: S of (3), > 0, the scale below which the noise cannot be told from the data; the mean is the same whatever it is. None:
            no such correction, which is better for data of few values, where the least noise is seen.
        differentiable: whether gradients flow to x and the parameters, at the cost of keeping all steps in memory.

    Raises:
        ValueError: for a process that is no chain without a grid, a grid that does not begin at t_max, an option out of range, data that
            are not floating point or not the decoder's, and a denoiser that has learned no variance where it should have.
    """
    chain = ChainModel.of(denoiser, x, grid, variance, errors, decoder, cond)
    sde, m, draw = denoiser.sde, len(chain.times) - 1, make_noise(noise, generator=generator, seeds=seeds)
    parts = m if steps is None else steps
    check_count(steps=parts, draws=draws)
    check_positive(**({} if data_std is None else {"data_std": data_std}))
    if parts > m:
        raise ValueError(f"steps={parts} parts of a sum of {m} steps would be empty; leave steps out to take them all")

    def step(share: Tensor) -> Tensor:
        i = (share * m).long().clamp(max=m - 1)
        t, s = chain.times[i + 1], chain.times[i]
        eps = draw(x)
        x0_hat, v = belief(denoiser, sde.perturb(x, t, eps), t, chain.variance, cond)
        size = 0.5 * torch.expm1(2 * (sde.log_snr(s) - sde.log_snr(t)))
        return m * (step_divergence(sde, x, x0_hat, t, s, variance=chain.variance, v=v) - size * _control(sde, t, eps, data_std))

    def decode(share: Tensor) -> Tensor:
        t, eps = chain.times[0].expand(len(x)), draw(x)
        return chain.decode(sde.perturb(x, t, eps), t) - 0.5 * _control(sde, t, eps, data_std, chain.decoder)

    with torch.set_grad_enabled(differentiable):
        diffusion, variance_1 = _stratified(step, parts, draws, draw, x, whole=parts == m)
        decoded, variance_2 = _stratified(decode, 1, draws, draw, x, whole=True)
        nfe = draws * (parts + (not chain.decoder.around_state))
        return _bound(sde, x, diffusion, decoded, variance_1 + variance_2, nfe)


def continuous_bound(
    denoiser: Denoiser,
    x: Tensor,
    *,
    samples: int = 100,
    draws: int = 2,
    t_min: float | None = None,
    decoder: Decoder | None = None,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    seeds: Iterable[int] | None = None,
    cond: Any = None,
    data_std: float | None = 0.7,
    differentiable: bool = False,
) -> Bound:
    """The variational bound in continuous time, of the reverse SDE of any affine process.

        -log p(x_0) <= KL(q(x_1 | x_0) || prior) + E int |eps - eps_hat|^2 dlam - E log p(x_0 | x_t0)

    by (1) of the module, lam = log(alpha/sigma); also the bound (2) of Song et al. 2021 (arXiv 2101.09258), there with t drawn in
    proportion to g^2/sigma^2, which is uniformly in lam. It holds for the reverse SDE's samples (`EulerMaruyama()` with many steps), not
    for those of the probability flow, to which `log_likelihood` refers; the two agree where the belief is exact.

    Args:
        denoiser: the belief; its `sde` is the process.
        x: data (b, *d), floating point.
        samples: into how many parts of equal log-SNR the integral is divided.
        draws: times and noises per part, independent; the standard error is that of their means and needs at least 2.
        t_min: t0, by default that of `log_likelihood`.
        decoder: what p(x_0 | x_t0) is; by default GaussianDecoder() with the standard deviation sigma/alpha. Discrete data take
            SoftmaxDecoder(width), at a t_min with sigma/alpha well below the width, or DiscretizedDecoder(width).
        noise: the source of randomness; or `generator` or `seeds`, one per sample.
        cond: condition handed to the denoiser.
        data_std: S of (3), as of `chain_bound`.
        differentiable: whether gradients flow to x and the parameters, those of a learned schedule included.

    Raises:
        ValueError: for a t_min without noise, an option out of range, and data that are not floating point or not the decoder's.
    """
    check_data(x)
    check_count(samples=samples, draws=draws)
    check_positive(**({} if data_std is None else {"data_std": data_std}))
    sde, draw = denoiser.sde, make_noise(noise, generator=generator, seeds=seeds)
    decoder = decoder or GaussianDecoder()
    decoder.check(x)
    with torch.no_grad():
        start = check_start(sde, x, t_min)
    ends = torch.tensor([start, sde.t_max], dtype=torch.float64, device=x.device)

    def rate(share: Tensor) -> Tensor:
        high, low = sde.log_snr(ends)
        t = _time(sde, high + (low - high) * share, ends)
        eps = draw(x)
        error = eps - denoiser.eps(sde.perturb(x, t, eps), t, cond)
        return (high - low) * (sum_event(error.double() ** 2) - _control(sde, t, eps, data_std))

    def decode(share: Tensor) -> Tensor:
        t = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
        eps = draw(x)
        y = sde.perturb(x, t, eps)
        nats = reconstruction(sde, x, y, y if decoder.around_state else denoiser(y, t, cond), t, decoder=decoder)
        return nats - 0.5 * _control(sde, t, eps, data_std, decoder)

    with torch.set_grad_enabled(differentiable):
        diffusion, variance_1 = _stratified(rate, samples, draws, draw, x)
        decoded, variance_2 = _stratified(decode, 1, draws, draw, x, whole=True)
        nfe = draws * (samples + (not decoder.around_state))
        return _bound(sde, x, diffusion, decoded, variance_1 + variance_2, nfe)


def _stratified(
    term: Callable[[Tensor], Tensor], parts: int, draws: int, draw: Noise, x: Tensor, *, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean (b,) of term(u), u ~ U(0, 1) (b,), by equal parts with `draws` each, and the variance of that mean.

    If the term is constant on each part as a function of u (`whole`), u is its middle and nothing need be drawn.
    """
    total, variance = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for _ in range(2))
    for k in range(parts):
        values = []
        for _ in range(draws):
            u = torch.full_like(total, 0.5) if whole else torch.special.ndtr(draw(total))
            values.append(term((k + u) / parts))
        found = torch.stack(values)
        total = total + found.mean(0) / parts
        variance = variance + spread(found) / draws / parts**2
    return total, variance


def _time(sde: AffineSDE, lam: Tensor, ends: Tensor) -> Tensor:
    """The times (b,) where log(alpha/sigma) is lam; where this has a gradient (a learned schedule), that of the implicit function."""
    t = sde.t_of_log_snr(lam.detach()).clamp(*ends)
    if not lam.requires_grad:
        return t
    miss = sde.log_snr(t) - lam  # 0, but for its gradient; dt/dlam = -2 sigma^2/g^2
    return t + 2 * (sde.sigma(t) / sde.g(t)).detach() ** 2 * (miss - miss.detach())


def _control(sde: AffineSDE, t: Tensor, eps: Tensor, data_std: float | None, decoder: Decoder | None = None) -> Tensor:
    """m^2 (|eps|^2 - d) of (3), (b,), whose mean is 0; nothing for a decoder whose nats are no square of eps."""
    if data_std is None or not (decoder is None or isinstance(decoder, GaussianDecoder)):
        return torch.zeros_like(t)
    share = 1 / (1 + torch.exp(-2 * sde.log_snr(t)) / data_std**2)
    return share**2 * (sum_event(eps.double() ** 2) - eps[0].numel())


def spread(values: Tensor) -> Tensor:
    """The variance of each column (b,) of draws (k, b), NaN for one draw."""
    values = values.detach()
    return values.var(0) if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _bound(sde: AffineSDE, x: Tensor, diffusion: Tensor, decoded: Tensor, variance: Tensor, nfe: int) -> Bound:
    prior = prior_divergence(sde, x)
    return Bound(prior + diffusion + decoded, variance.sqrt(), prior, diffusion, decoded, nfe)
