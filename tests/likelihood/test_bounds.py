"""Bounds against exact densities. A noise source that gives quadrature nodes makes expectations exact: nothing is drawn."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.parameterizations import LearnedVariance
from sde_diffusion.likelihood import chain_bound, continuous_bound, importance_weighted_bound
from sde_diffusion.losses.decoders import DiscretizedDecoder, GaussianDecoder, SoftmaxDecoder
from sde_diffusion.losses.hybrid import VariationalLoss
from sde_diffusion.losses.variational import prior_divergence, step_divergence
from sde_diffusion.shapes import as_time
from sde_diffusion.solvers.variance import ReconstructionError

ENTROPY = 0.5 * math.log(2 * math.pi * math.e * 0.25)  # of N(m, 1/4)
SHORT = sd.DDPMChain(sd.linear_betas(25, 0.004, 0.5))
PROCESSES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.CosineVPSDE(), sd.DDPMChain(sd.linear_betas(1000))]


@dataclasses.dataclass(frozen=True)
class LinearLogSNR(sd.AffineSDE):
    """Kingma et al.'s process, sigma^2 = sigmoid(gamma) with gamma = -13.3 + 18.3 t^power, and the prior N(0, 1)."""

    power: float = 1.0
    t_min = 0.0

    @property
    def prior_std(self):
        return 1.0

    def gamma(self, t):
        return -13.3 + 18.3 * as_time(t) ** self.power

    def alpha(self, t):
        return torch.sigmoid(-self.gamma(t)).sqrt()

    def sigma(self, t):
        return torch.sigmoid(self.gamma(t)).sqrt()

    def f(self, t):
        return -0.5 * 18.3 * self.power * as_time(t) ** (self.power - 1) * torch.sigmoid(self.gamma(t))

    def g(self, t):
        return (-2 * self.f(t)).sqrt()

    def t_of_log_snr(self, lam):
        return ((-2 * as_time(lam) + 13.3) / 18.3) ** (1 / self.power)


def quadrature(n: int, mean: float = 0.0, std: float = 0.5):
    """Data (m, 1), a noise source that returns eps (m, 1) and the middle of the unit interval, and weights (m,)."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    w = w / w.sum()
    grid = torch.cartesian_prod(mean + std * z, z)
    return grid[:, :1], lambda like: grid[:, 1:] if like.ndim == 2 else torch.zeros_like(like), torch.cartesian_prod(w, w).prod(1)


def gaussian_errors(sde: sd.AffineSDE, std: float = 0.5, n: int = 400) -> ReconstructionError:
    lam = torch.linspace(float(sde.log_snr(1.0)), float(sde.log_snr(1 / sde.length)), n, dtype=torch.float64)
    r = torch.exp(-2 * lam)
    return ReconstructionError(tuple(lam.tolist()), tuple((std**2 * r / (std**2 + r)).tolist()))


# The chain's


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_the_chain_s_bound_is_the_mean_of_its_loss_and_the_prior_s_term(variance):
    x, noise, _ = quadrature(3)
    denoiser = sd.GaussianDenoiser(0.0, 0.5, SHORT)
    bound = chain_bound(denoiser, x, variance=variance, draws=1, noise=noise, data_std=None)
    loss = VariationalLoss(variance)
    terms = sum(loss(denoiser, x, t=i / 25, eps=noise(x)) for i in range(1, 26)) * math.log(2) / 25
    torch.testing.assert_close(bound.nats, terms + prior_divergence(SHORT, x), rtol=1e-12, atol=0)
    torch.testing.assert_close(bound.nats, bound.prior + bound.diffusion + bound.reconstruction, rtol=1e-12, atol=0)
    assert bound.nfe == 25
    assert bound.standard_error.isnan().all()


@pytest.mark.parametrize("n", [25, 200])
def test_the_best_variance_makes_the_chain_s_bound_the_entropy_of_gaussian_data_at_every_number_of_steps(n):
    # row A4 of the project's collection has 0.00000 nats more at 1000 steps; KL(p_1 || prior) is 5e-9 here or less
    chain = sd.DDPMChain(sd.linear_betas(n, 0.2 / n, 20 / n))
    x, noise, w = quadrature(3)
    denoiser, errors = sd.GaussianDenoiser(0.0, 0.5, chain), gaussian_errors(chain)
    bound = chain_bound(denoiser, x, variance="analytic", errors=errors, draws=1, noise=noise)
    assert float(bound.nats @ w) - ENTROPY == pytest.approx(0, abs=5e-6)


def test_steps_at_random_have_the_bound_as_their_mean_and_their_standard_error_as_their_spread():
    denoiser, n = sd.GaussianDenoiser(0.0, 0.5, SHORT), 4000
    point = torch.full((n, 1), 0.3, dtype=torch.float64)
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    exact = chain_bound(denoiser, torch.full((3, 1), 0.3).double(), draws=1, noise=lambda like: z[:, None] if like.ndim == 2 else 0 * like)
    exact = float(exact.nats @ w / w.sum())
    for steps, calls in ((None, 50), (24, 50), (5, 12)):
        got = chain_bound(denoiser, point, steps=steps, generator=torch.Generator().manual_seed(0))
        assert got.nfe == calls
        spread = float(got.nats.std())
        assert float(got.nats.mean()) == pytest.approx(exact, abs=4 * spread / math.sqrt(n))
        # the mean of unbiased squares; 10 % is four standard deviations of it, measured
        assert math.sqrt(float((got.standard_error**2).mean())) == pytest.approx(spread, rel=0.1)
    # One sample of one number has skewed terms; the mean of a batch has an error that covers.
    means, errors = got.nats.view(80, 50).mean(1), (got.standard_error.view(80, 50) ** 2).sum(1).sqrt() / 50
    assert 0.88 <= float(((means - exact).abs() < 2 * errors).double().mean()) < 1


def test_a_part_of_a_chain_s_nodes_has_the_bound_of_the_respaced_chain():
    chain = sd.DDPMChain(sd.linear_betas(1000))
    denoiser = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], [0.1, 0.1], None, chain)
    x = torch.tensor([[0.9], [-1.1]], dtype=torch.float64)
    grid = [1.0, 0.5, 0.2, 0.05, 0.01, 0.001, 0.0]
    a = chain_bound(denoiser, x, grid=grid, seeds=[0, 1])
    b = chain_bound(denoiser.under(chain.respaced([1, 10, 50, 200, 500, 1000])), x, seeds=[0, 1])
    torch.testing.assert_close(a.nats, b.nats, rtol=1e-9, atol=0)


def test_a_grid_gives_any_process_the_bound_of_its_ancestral_sampler():
    sde = sd.VPSDE()
    x, noise, w = quadrature(3)
    coarse, fine = (
        float(
            chain_bound(sd.GaussianDenoiser(0.0, 0.5, sde), x, grid=sd.uniform(sde, n), draws=1, noise=noise, variance="forward").nats @ w
        )
        for n in (20, 200)
    )
    assert coarse > fine > ENTROPY


# In continuous time


@pytest.mark.parametrize(("std", "expected"), [(0.5, 0.72580), (1.0, 1.418939)])
def test_kingma_s_process_has_the_bounds_of_systems_b14(std, expected):
    x, noise, w = quadrature(3, std=std)
    bound = continuous_bound(sd.GaussianDenoiser(0.0, std, LinearLogSNR()), x, samples=400, draws=1, t_min=0.0, noise=noise)
    digits = len(f"{expected}".split(".")[1])
    assert float(bound.nats @ w) == pytest.approx(expected, abs=0.6 * 10.0**-digits)


def diffusion_of(denoiser: sd.Denoiser, grid: torch.Tensor) -> float:
    """The steps' part of the mean bound over data N(0, 1/4), all steps in one batch."""
    x, noise, w = quadrature(3)
    t, s = (a.repeat_interleave(len(x)) for a in (grid[:-1], grid[1:]))
    x0, eps = x.repeat(len(grid) - 1, 1), noise(x).repeat(len(grid) - 1, 1)
    x0_hat = denoiser(denoiser.sde.perturb(x0, t, eps), t)
    return float((step_divergence(denoiser.sde, x0, x0_hat, t, s).view(-1, len(w)) @ w).sum())


def limit_of(denoiser: sd.Denoiser) -> float:
    x, noise, w = quadrature(3)
    return float(continuous_bound(denoiser, x, samples=200, draws=1, t_min=0.0, noise=noise).diffusion @ w)


def test_a_chain_s_bound_tends_to_that_of_continuous_time_like_one_over_its_steps():
    denoiser = sd.GaussianDenoiser(0.0, 0.5, LinearLogSNR())
    limit = limit_of(denoiser)
    for n, excess in ((10, "9.77"), (100, "0.530"), (1000, "0.0502"), (10_000, "0.0050")):  # row B14
        grid = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        assert f"{diffusion_of(denoiser, grid) - limit:.{len(excess) - 2}f}" == excess
    x, noise, w = quadrature(3)
    bound = chain_bound(denoiser, x, grid=torch.linspace(1, 0, 11, dtype=torch.float64), draws=1, noise=noise)
    assert float(bound.diffusion @ w) - limit == pytest.approx(9.77, abs=0.005)


def test_the_bound_does_not_depend_on_the_speed_of_the_process():
    # row B14: 5.9612 for squared times and 5.9610 at 10^4 steps; equal to the last digit in continuous time
    steady, warped = (sd.GaussianDenoiser(0.0, 0.5, LinearLogSNR(power)) for power in (1.0, 2.0))
    grid = torch.linspace(1, 0, 10_001, dtype=torch.float64)
    assert f"{diffusion_of(steady, grid):.4f} {diffusion_of(warped, grid):.4f}" == "5.9610 5.9612"
    assert limit_of(warped) == pytest.approx(limit_of(steady), rel=1e-12)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_the_bound_of_an_exact_belief_is_the_likelihood_up_to_the_prior(sde):
    # E over data is entropy + KL(p_1 || prior), but for what the decoder ignores of the posterior, (sigma/alpha/std)^2/4 or less
    x, noise, w = quadrature(3, mean=1.0)
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sde)
    bound = continuous_bound(denoiser, x, samples=300, draws=1, noise=noise)
    alpha, variance = float(sde.alpha(sde.t_max)), float(sde.alpha(sde.t_max)) ** 2 / 4 + float(sde.sigma(sde.t_max)) ** 2
    ratio = variance / sde.prior_std**2
    mismatch = 0.5 * (ratio - 1 - math.log(ratio) + (alpha / sde.prior_std) ** 2)
    assert float(bound.nats @ w) == pytest.approx(ENTROPY + mismatch, abs=3e-4)


def test_it_is_the_bound_of_song_et_al():
    # a transcription of their formula: Gauss-Legendre in log t, the mean over eps by 3 nodes (all integrands are quadratic in eps)
    sde, t_min = sd.VPSDE(), 1e-4
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    z, w = z[:, None], w / w.sum()
    x = torch.full_like(z, 0.8)
    nodes, weights = np.polynomial.legendre.leggauss(120)
    low = math.log(t_min)
    for denoiser in (sd.GaussianDenoiser(0.0, 0.5, sde), sd.GaussianDenoiser(0.3, 0.9, sde)):
        integral = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            t = torch.tensor(math.exp(low * (1 - node) / 2), dtype=torch.float64)
            g2, f = sde.g(t) ** 2, sde.f(t)
            y = sde.perturb(x, t, z)
            grad = -z / sde.sigma(t)
            rate = 0.5 * g2 * ((denoiser.score(y, t) - grad) ** 2 - grad**2).sum(1) - f * x[0].numel()
            integral += float(rate @ w) * float(t) * -low / 2 * weight
        alpha, sigma = float(sde.alpha(t_min)), float(sde.sigma(t_min))
        y = sde.perturb(x, t_min, z)
        recon = (y + sigma**2 * denoiser.score(y, t_min)) / alpha
        p_entropy = 0.5 * math.log(2 * math.pi * sigma**2 / alpha**2) + 0.5 * float(((x - recon) ** 2).sum(1) @ w) * alpha**2 / sigma**2
        q_entropy = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
        theirs = -float(sde.prior_log_prob(sde.perturb(x, 1.0, z)) @ w) + integral + p_entropy - q_entropy
        ours = continuous_bound(
            denoiser, x, t_min=t_min, samples=400, draws=1, noise=lambda like: z if like.ndim == 2 else torch.zeros_like(like)
        )
        assert float(ours.nats @ w) == pytest.approx(theirs, abs=2e-5)


def test_the_bound_of_an_exact_score_is_the_likelihood_of_every_point():
    # KL gap 0 +- 0.01 on a ring of 8 modes (row C4), point by point within the standard error
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    ring = sd.GaussianMixtureDenoiser(torch.stack([angle.cos(), angle.sin()], 1), 0.1, None, sd.VPSDE())
    generator = torch.Generator().manual_seed(0)
    x = ring.sample_data(1000, generator=generator)
    bound = continuous_bound(ring, x, samples=100, generator=generator)
    gap = bound.nats + ring.log_prob(x, 0.0)
    error = float((bound.standard_error**2).sum().sqrt()) / 1000
    assert error < 0.02
    assert float(gap.mean()) == pytest.approx(0, abs=3 * error)
    assert 0.9 < float(((gap / bound.standard_error).abs() < 2).double().mean()) < 0.98


def test_the_correction_for_the_noise_changes_the_spread_and_not_the_mean():
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    ring = sd.GaussianMixtureDenoiser(torch.stack([angle.cos(), angle.sin()], 1), 0.1, None, sd.VPSDE())
    x = ring.sample_data(400, generator=torch.Generator().manual_seed(0))
    plain, corrected = (continuous_bound(ring, x, samples=60, data_std=s, generator=torch.Generator().manual_seed(1)) for s in (None, 0.7))
    errors = [float((b.standard_error**2).mean()) for b in (plain, corrected)]
    assert errors[1] < errors[0] / 3.5  # measured: a fifth
    assert float((plain.nats - corrected.nats).mean()) == pytest.approx(0, abs=3 * math.sqrt(sum(errors) / 400))
    x, noise, w = quadrature(3)
    for bound, denoiser in (
        (continuous_bound, sd.GaussianDenoiser(0.0, 0.5, sd.VPSDE())),
        (chain_bound, sd.GaussianDenoiser(0.0, 0.5, SHORT)),
    ):
        values = [float(bound(denoiser, x, draws=1, noise=noise, data_std=s).nats @ w) for s in (None, 0.1, 3.0)]
        assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_the_bound_of_a_wrong_score_is_above_the_entropy_by_the_distance_of_the_two():
    # int SNR E|x0_hat - E[x_0 | x_t]|^2 dlam, for a belief of 4/5 of the right one: E|E[x_0 | x_t]|^2 = s^4/(s^2 + r)
    class Shrunk(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return 0.8 * exact(x, t)

    sde = sd.VPSDE()
    exact = sd.GaussianDenoiser(0.0, 0.5, sde)
    x, noise, w = quadrature(3)
    wrong, right = (continuous_bound(d, x, t_min=0.01, samples=400, draws=1, noise=noise) for d in (Shrunk(sde), exact))
    lam = torch.linspace(float(sde.log_snr(1.0)), float(sde.log_snr(0.01)), 20_001, dtype=torch.float64)
    r = torch.exp(-2 * lam)
    assert float((wrong.diffusion - right.diffusion) @ w) == pytest.approx(
        float(torch.trapezoid(0.04 * 0.0625 / (0.25 + r) / r, lam)), rel=1e-4
    )
    assert float(wrong.nats @ w) > ENTROPY


def test_the_bound_of_a_model_of_another_gaussian_is_that_gaussian_s_density():
    x = torch.tensor([[0.0], [0.4], [2.0]], dtype=torch.float64)
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    many, eps = x.repeat_interleave(3, 0), z.repeat(3)[:, None]
    model = sd.GaussianDenoiser(0.1, 0.7, sd.VPSDE())
    bound = continuous_bound(model, many, samples=400, draws=1, noise=lambda like: eps if like.ndim == 2 else torch.zeros_like(like))
    torch.testing.assert_close(bound.nats.view(3, 3) @ (w / w.sum()), -model.log_prob(x, 0.0), rtol=0, atol=3e-4)


def test_discrete_data_of_equal_frequency_have_the_logarithm_of_their_number():
    data = torch.tensor([[-1.0], [-0.5], [0.5], [1.0]], dtype=torch.float64)
    sde = sd.VPSDE()
    model, t_min = sd.EmpiricalDenoiser(data, sde), float(sde.t_of_log_snr(torch.tensor(3.0, dtype=torch.float64)))  # sigma/alpha = 0.05
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(30))
    eps = z.repeat(4)[:, None]
    bound = continuous_bound(
        model,
        data.repeat_interleave(30, 0),
        t_min=t_min,
        samples=200,
        draws=1,
        decoder=SoftmaxDecoder(0.5),
        noise=lambda like: eps if like.ndim == 2 else torch.zeros_like(like),
    )
    torch.testing.assert_close(bound.nats.view(4, 30) @ (w / w.sum()), torch.full((4,), math.log(4)).double(), rtol=0, atol=2e-3)
    assert bound.nfe == 200


# Whole trajectories


def test_every_trajectory_of_an_exact_model_weighs_the_density():
    denoiser, x = sd.GaussianDenoiser(0.0, 0.5, SHORT), torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    for k in (1, 3):
        bound = importance_weighted_bound(
            denoiser, x, trajectories=k, variance="analytic", errors=gaussian_errors(SHORT), generator=torch.Generator().manual_seed(k)
        )
        # what is left is log N(x_1; 0, 1) - log p_1(x_1), 3/8 alpha^2 (x_1^2 - 1), alpha^2 = 5e-4
        torch.testing.assert_close(bound.nats, -denoiser.log_prob(x, 0.0), rtol=0, atol=2e-3)
        assert bound.nfe == 25 * k


def test_more_trajectories_come_closer_to_the_likelihood_of_the_model():
    # the samples of DDPM's chain with c_0^2 from the exact belief of N(0, 1/4) are N(0, variance): a recursion
    denoiser, variance = sd.GaussianDenoiser(0.0, 0.5, SHORT), torch.tensor(1.0, dtype=torch.float64)
    grid = torch.arange(25, 0, -1, dtype=torch.float64) / 25
    for t, s in zip(grid, [*grid[1:], None], strict=True):
        gain = 0.25 * SHORT.alpha(t) / (0.25 * SHORT.alpha(t) ** 2 + SHORT.sigma(t) ** 2)
        w_x, w_0, c2 = (0.0, 1.0, torch.exp(-2 * SHORT.log_snr(t))) if s is None else SHORT.posterior(s, t)
        variance = (w_x + w_0 * gain) ** 2 * variance + c2
    truth = float(0.5 * (0.3**2 / variance + torch.log(2 * math.pi * variance)))
    x = torch.full((200, 1), 0.3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    one, many = (importance_weighted_bound(denoiser, x, trajectories=k, generator=generator) for k in (1, 16))
    plain = chain_bound(denoiser, x, generator=generator)
    assert float(one.nats.mean()) == pytest.approx(float(plain.nats.mean()), abs=4 * float(one.nats.std()) / 14)
    torch.testing.assert_close(one.nats, one.prior + one.diffusion + one.reconstruction)
    assert truth < float(many.nats.mean()) < truth + 0.1 < float(plain.nats.mean())


# Networks


class Half(nn.Module):
    """Predicts noise x/2, and the same v everywhere."""

    def __init__(self, v: float) -> None:
        super().__init__()
        self.gain, self.v = nn.Parameter(torch.tensor(0.5, dtype=torch.float64)), nn.Parameter(torch.tensor(v, dtype=torch.float64))

    def forward(self, x, c_noise):
        return torch.cat([self.gain * x, (2 * self.v - 1).expand_as(x)], 1)


@pytest.mark.parametrize(("v", "named"), [(0.0, "posterior"), (1.0, "forward")])
def test_a_learned_variance_at_its_ends_is_the_named_one(v, named):
    x = torch.tensor([[0.3], [0.1]], dtype=torch.float64)
    model = sd.NetworkDenoiser(Half(v), SHORT, LearnedVariance())
    learned, other = (chain_bound(model, x, variance=variance, seeds=[0, 1]) for variance in ("learned", named))
    torch.testing.assert_close(learned.diffusion, other.diffusion)
    assert not torch.equal(learned.reconstruction, other.reconstruction)


@pytest.mark.parametrize("bound", [chain_bound, continuous_bound, importance_weighted_bound])
def test_gradients_flow_where_they_are_asked_for_and_cost_nothing_where_not(bound):
    model = sd.NetworkDenoiser(Half(0.3), SHORT, LearnedVariance())
    x = torch.tensor([[0.3], [0.1]], dtype=torch.float64, requires_grad=True)
    options = {
        chain_bound: {"variance": "learned"},
        continuous_bound: {"samples": 10},
        importance_weighted_bound: {"variance": "learned", "trajectories": 2},
    }[bound]
    plain, graph = (bound(model, x, seeds=[0, 1], differentiable=d, **options) for d in (False, True))
    assert not plain.nats.requires_grad
    torch.testing.assert_close(plain.nats, graph.nats.detach())
    graph.nats.sum().backward()
    assert x.grad.isfinite().all()
    assert model.network.gain.grad != 0
    assert bound is continuous_bound or model.network.v.grad != 0
    assert graph.nats.dtype == torch.float64


def test_the_gradient_of_a_learned_schedule_is_that_of_its_ends_alone():
    # E|eps - eps_hat|^2 = a/(1 + a), a = s^2 alpha^2/sigma^2, and its integral over lam = -gamma/2 has it as derivative at either end
    sde = sd.LearnedVPSDE(2.0, -1.0, hidden=2)
    x, noise, w = quadrature(3)
    bound = continuous_bound(sd.GaussianDenoiser(0.0, 0.5, sde), x, samples=50, draws=1, t_min=0.0, noise=noise, differentiable=True)
    ends, centers = torch.autograd.grad(bound.diffusion @ w, [sde.ends, sde.centers])
    a = 0.25 * torch.exp(-sde.ends.detach())
    # the middles of 50 parts stand for their means; measured: off by 7e-4
    torch.testing.assert_close(ends, torch.tensor([-0.5, 0.5]) * a / (1 + a), rtol=1e-3, atol=0)
    assert centers.abs().max() < 1e-4


def test_pictures_in_float32_have_a_bound_with_their_own_values():
    model = sd.NetworkDenoiser(Half(0.5).float(), SHORT, LearnedVariance())
    x = torch.randint(0, 17, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 8 - 1
    for decoder in (DiscretizedDecoder(0.125), SoftmaxDecoder(0.125), GaussianDecoder()):
        bound = chain_bound(model, x, variance="learned", decoder=decoder, steps=4, seeds=range(3))
        again = chain_bound(model, x[1:2], variance="learned", decoder=decoder, steps=4, seeds=[1])
        assert bound.nats.isfinite().all()
        assert (bound.standard_error > 0).all()
        torch.testing.assert_close(again.nats, bound.nats[1:2])


POINT = torch.full((2, 1), 0.1)
GAUSS = sd.GaussianDenoiser(0.0, 1.0, SHORT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: chain_bound(GAUSS.under(sd.VPSDE()), POINT),
            r"VPSDE\(.*is no chain.*pass grid=uniform\(sde, n\), or use continuous_bound",
        ),
        (lambda: chain_bound(GAUSS, POINT, variance="learned"), "has learned no variance; use a NetworkDenoiser"),
        (lambda: chain_bound(GAUSS, POINT, variance="beta"), "or 'learned', got 'beta'"),
        (lambda: chain_bound(GAUSS, POINT, variance="analytic"), "pass errors=ReconstructionError.estimate"),
        (lambda: chain_bound(GAUSS, POINT, errors=gaussian_errors(SHORT)), "errors are for variance='analytic'"),
        (lambda: chain_bound(GAUSS, POINT, decoder=DiscretizedDecoder(0.25)), "0.1 is none of the 9 values -1, -0.75, ..., 1"),
        (lambda: continuous_bound(GAUSS, POINT, decoder=SoftmaxDecoder(0.25)), "0.1 is none of the 9 values"),
        (lambda: importance_weighted_bound(GAUSS, POINT, decoder=SoftmaxDecoder(0.25)), "0.1 is none of the 9 values"),
        (lambda: chain_bound(GAUSS, POINT, steps=25), "steps=25 parts of a sum of 24 steps"),
        (lambda: chain_bound(GAUSS, POINT, draws=0), "draws must be a whole number, at least 1, got 0"),
        (lambda: chain_bound(GAUSS, POINT, grid=[0.0, 0.5, 1.0]), r"pass grid.flip\(0\)"),
        (lambda: chain_bound(GAUSS, POINT, grid=[0.9, 0.5, 0.0]), "must begin at t_max=1, where the prior is, got 0.9"),
        (lambda: chain_bound(GAUSS, POINT, grid=[1.0, 0.0]), "must have a step between two times with noise"),
        (lambda: chain_bound(GAUSS, POINT.long()), "x must be floating point"),
        (lambda: chain_bound(GAUSS, POINT, generator=torch.Generator(), seeds=[0, 1]), "each name a source of randomness"),
        (lambda: continuous_bound(GAUSS, POINT, t_min=0.0), "t_min=0 has sigma/alpha=0"),
        (lambda: continuous_bound(GAUSS, POINT, data_std=0.0), "data_std must be a positive number, got 0.0"),
        (lambda: continuous_bound(GAUSS, POINT, samples=0), "samples must be a whole number, at least 1, got 0"),
        (lambda: importance_weighted_bound(GAUSS, POINT, trajectories=0), "trajectories must be a whole number"),
    ],
)
def test_wrong_bounds_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
