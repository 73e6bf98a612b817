"""Analytic and learned reverse variances; on Gaussian data e = s^2 rho^2/(s^2 + rho^2), rho = sigma/alpha, in closed form."""

import math

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.parameterizations import LearnedVariance
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal
from sde_diffusion.solvers.variance import ReconstructionError, reverse_variance, step_divergence

PROCESSES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100))]


def gaussian_errors(log_snr: torch.Tensor, std: float = 0.5) -> ReconstructionError:
    rho2, levels = torch.exp(-2 * log_snr.sort().values), log_snr.sort().values
    return ReconstructionError(tuple(levels.tolist()), tuple((std**2 * rho2 / (std**2 + rho2)).tolist()))


def noisy(grid: torch.Tensor, sde: sd.AffineSDE) -> torch.Tensor:
    return grid[sde.sigma(grid) > 0]


def w2_to_the_truth(sde: sd.AffineSDE, grid: torch.Tensor, errors: ReconstructionError) -> float:
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sde)
    mean, variance = gaussian_law(sd.Ancestral("analytic", errors).tableau(sde, grid), denoiser, mean=0, std=sde.prior_std)
    true_mean, true_std = marginal(denoiser, float(grid[-1]))
    return math.hypot(mean - true_mean, variance.sqrt() - true_std)


@pytest.mark.parametrize("n", [10, 20, 50, 100, 200, 1000])
def test_on_gaussian_data_analytic_ddpm_is_exact_at_every_number_of_steps(n):
    # table O1 of the project's oracle collection: W2 = 1.1e-5, what the prior N(0, 1) is away from p_1
    sde = sd.VPSDE()
    grid = sd.uniform(sde, n)
    assert f"{w2_to_the_truth(sde, grid, gaussian_errors(sde.log_snr(grid))):.1e}" == "1.1e-05"


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_one_step_with_the_analytic_variance_keeps_the_marginals_of_gaussian_data(sde):
    # x_s = w_x x_t + w_0 x0_hat + c z has the variance of p_s when x_t has that of p_t
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sde)
    for t, s in ((1.0, 0.5), (0.5, 0.4), (0.4, 0.01), (0.11, 0.1)):
        grid = torch.tensor([min(t, sde.t_max), s], dtype=torch.float64)
        mean, std = marginal(denoiser, float(grid[0]))
        solver = sd.Ancestral("analytic", gaussian_errors(sde.log_snr(torch.tensor([grid[0], 0.3, 0.2], dtype=torch.float64))))
        got_mean, got_variance = gaussian_law(solver.tableau(sde, grid), denoiser, mean=mean, std=std)
        expected_mean, expected_std = marginal(denoiser, s)
        torch.testing.assert_close(got_mean, expected_mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got_variance, expected_std**2, rtol=1e-10, atol=1e-12)


def test_the_analytic_variance_is_the_forward_one_for_unit_data_and_the_posterior_one_for_a_point():
    # row A5 of the collection: the two extremes of Ho et al. 2020
    chain = sd.DDPMChain(sd.linear_betas(100))
    grid = noisy(sd.uniform(chain, 100), chain)
    t, s = grid[:-1], grid[1:]
    for std, extreme in ((1.0, "forward"), (0.0, "posterior")):
        analytic = reverse_variance(chain, t, s, "analytic", gaussian_errors(chain.log_snr(grid), std))
        torch.testing.assert_close(analytic, reverse_variance(chain, t, s, extreme), rtol=1e-9, atol=0)


def test_the_analytic_variance_stays_within_baos_bounds_for_a_model_worse_than_none():
    sde = sd.VPSDE()
    grid = sd.uniform(sde, 20)
    t, s = grid[:-1], grid[1:]
    levels = sde.log_snr(grid)
    bad = ReconstructionError(tuple(levels.tolist()), tuple((1000 * torch.exp(-2 * levels)).tolist()))
    A, Q = sde.transition(s, t)
    torch.testing.assert_close(reverse_variance(sde, t, s, "analytic", bad), Q / A**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_baos_gamma_gives_the_same_variance_where_the_belief_is_exact(sde):
    # Analytic-DPM, as published: sigma*^2 = beta-tilde + w_0^2 (sigma_t/alpha_t)^2 (1 - Gamma), Gamma = E|eps_hat|^2; here the exact moment
    grid = noisy(sd.uniform(sde, 10), sde)
    t, s = grid[:-1], grid[1:]
    total = sde.alpha(t) ** 2 * 0.25 + sde.sigma(t) ** 2
    gamma = sde.sigma(t) ** 2 / total  # eps_hat = sigma (x - alpha m)/total, E(x - alpha m)^2 = total
    _, w_0, posterior = sde.posterior(s, t)
    bao = posterior + w_0**2 * (sde.sigma(t) / sde.alpha(t)) ** 2 * (1 - gamma)
    got = reverse_variance(sde, t, s, "analytic", gaussian_errors(sde.log_snr(grid)))
    torch.testing.assert_close(got, bao, rtol=1e-9, atol=0)


def test_the_analytic_variance_minimises_the_divergence():
    sde = sd.VPSDE()
    t, s = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    errors = ReconstructionError((float(sde.log_snr(t)), 1.0), (0.03, 0.01))
    _, w_0, posterior = sde.posterior(s, t)
    best = reverse_variance(sde, t, s, "analytic", errors)
    c2 = best * torch.exp(torch.linspace(-1, 1, 2001, dtype=torch.float64))
    divergence = 0.5 * (posterior / c2 - 1 - torch.log(posterior / c2) + w_0**2 * 0.03 / c2)  # KL of two Gaussians, mean over the data
    assert int(divergence.argmin()) == 1000
    torch.testing.assert_close(step_divergence(sde, t, s, errors, "analytic"), divergence[1000:1001], rtol=1e-9, atol=0)


def test_errors_are_exact_where_measured_and_interpolated_to_four_digits_from_fifty_levels():
    levels, between = torch.linspace(-6, 6, 50, dtype=torch.float64), torch.linspace(-9, 9, 1001, dtype=torch.float64)
    errors = gaussian_errors(levels)
    torch.testing.assert_close(errors.at(levels), torch.tensor(errors.error, dtype=torch.float64), rtol=1e-14, atol=0)
    rho2 = torch.exp(-2 * between)
    torch.testing.assert_close(errors.at(between), 0.25 * rho2 / (0.25 + rho2), rtol=5e-4, atol=0)


def test_an_estimate_is_the_mean_square_error_of_the_model_and_not_of_the_exact_belief():
    # half of the exact x0_hat - 1: e = s^2 rho^2/(s^2 + rho^2) + (gain^2/4) (s^2 + rho^2) with gain = s^2/(s^2 + rho^2)
    class Half(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return 1 + (exact(x, t) - 1) / 2

    sde = sd.VPSDE()
    exact = sd.GaussianDenoiser(1.0, 0.5, sde)
    generator = torch.Generator().manual_seed(0)
    data, times = exact.sample_data(100_000, generator=generator), [0.2, 0.8, 0.5]
    got = ReconstructionError.estimate(Half(sde), data, times=times, generator=generator, batch_size=33_333)
    levels = torch.tensor(got.log_snr, dtype=torch.float64)
    torch.testing.assert_close(levels, sde.log_snr(torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64)), rtol=0, atol=0)
    total = 0.25 + torch.exp(-2 * levels)
    expected = 0.25 - 0.25**2 / total + 0.25**2 / total / 4
    # the square of a normal number has the variance 2: six standard deviations of the mean are 6 sqrt(2/n)
    torch.testing.assert_close(torch.tensor(got.error, dtype=torch.float64), expected, rtol=6 * math.sqrt(2 / len(data)), atol=0)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_errors_are_measured_from_t_max_to_the_last_noise_by_default(sde):
    denoiser = sd.GaussianDenoiser([0.0, 1.0], 0.5, sde)
    data = denoiser.sample_data(20, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([sde.t_max, sde.t_min if sde.length is None else 1 / sde.length], dtype=torch.float64)
    for times, count in ((None, 100), (7, 7)):
        errors = ReconstructionError.estimate(denoiser, data, times=times, generator=torch.Generator().manual_seed(0))
        assert len(errors.error) == count
        assert (errors.log_snr[0], errors.log_snr[-1]) == pytest.approx(sde.log_snr(ends).tolist())


def test_an_estimate_hands_each_sample_its_condition():
    class Told(sd.Denoiser):
        def forward(self, x, t, cond=None):
            return cond

    data = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    errors = ReconstructionError.estimate(Told(sd.VPSDE()), data, times=2, cond=data, batch_size=4)
    assert errors.error == (0.0, 0.0)


def test_errors_and_the_solver_that_has_them_hash_print_save_and_load(tmp_path):
    errors = gaussian_errors(torch.linspace(-3, 3, 5))
    assert hash(sd.Ancestral("analytic", errors)) == hash(sd.Ancestral("analytic", gaussian_errors(torch.linspace(-3, 3, 5))))
    names = {"ReconstructionError": ReconstructionError, "Ancestral": sd.Ancestral}
    assert sd.build(repr(sd.Ancestral("analytic", errors)), names) == sd.Ancestral("analytic", errors)
    errors.save(tmp_path / "errors.json")
    assert ReconstructionError.load(tmp_path / "errors.json") == errors
    with pytest.raises(FileExistsError):
        errors.save(tmp_path / "errors.json")
    (tmp_path / "other.json").write_text('{"log_snr": [0, 1]}')
    with pytest.raises(ValueError, match=r"other.json holds no reconstruction error.*error"):
        ReconstructionError.load(tmp_path / "other.json")


# Learned: log c^2 = v log Q + (1 - v) log c_0^2. A stub network knows the v of Gaussian data.


def optimal_v(chain: sd.AffineSDE, t: torch.Tensor, s: torch.Tensor, std: float = 0.5) -> torch.Tensor:
    low, high, best = (
        reverse_variance(chain, t, s, v, gaussian_errors(chain.log_snr(t), std)) for v in ("posterior", "forward", "analytic")
    )
    return (best / low).log() / (high / low).log()


class Stub(nn.Module):
    """Predicts the noise of data N(1, 0.25) exactly, and the best v of a chain's own steps."""

    def __init__(self, chain: sd.DDPMChain) -> None:
        super().__init__()
        self.exact = sd.GaussianDenoiser(1.0, 0.5, chain)
        t = torch.arange(1, chain.length + 1, dtype=torch.float64) / chain.length
        self.v = torch.cat([torch.zeros(1), optimal_v(chain, t[1:], t[:-1])])

    def forward(self, x, c_noise):
        chain = self.exact.sde
        t = chain.t_of_log_snr(-4 * c_noise.double())
        v = self.v[(t * chain.length).round().long() - 1]
        return torch.cat([self.exact.eps(x, t), (2 * v - 1)[:, None].expand_as(x)], 1)


def test_the_best_v_on_gaussian_data():
    # row B4 of the collection: .995 .766 .266 .250 at steps 10, 100, 500, 1000 of DDPM's chain
    t = torch.tensor([10.0, 100.0, 500.0, 1000.0], dtype=torch.float64) / 1000
    v = optimal_v(sd.DDPMChain(sd.linear_betas(1000)), t, t - 1e-3)
    assert [f"{value:.3f}" for value in v.tolist()] == ["0.995", "0.766", "0.266", "0.250"]


def test_a_network_that_learned_the_best_variance_samples_gaussian_data_as_the_analytic_one():
    # the loop on basis vectors reads off the affine map that it is: one draw per step but the last
    chain = sd.VPSDE().discretize(40)
    denoiser = sd.NetworkDenoiser(Stub(chain), chain, LearnedVariance())
    grid = sd.uniform(chain, 40)
    basis = torch.zeros(2 + 39, 1, dtype=torch.float64)
    basis[1] = 1
    draws = [torch.zeros_like(basis).index_fill_(0, torch.tensor(2 + j), 1.0) for j in range(39)]
    end = sd.sample(denoiser, sd.Ancestral("learned"), x=basis, grid=grid, noise=sd.Replay(draws))
    a, b, c = end[0], end[1] - end[0], end[2:] - end[0]
    analytic = sd.Ancestral("analytic", gaussian_errors(chain.log_snr(grid[:-1]))).tableau(chain, grid)
    mean, variance = gaussian_law(analytic, sd.GaussianDenoiser(1.0, 0.5, chain), mean=0, std=1)
    torch.testing.assert_close(a, mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(b**2 + (c**2).sum(0), variance, rtol=1e-9, atol=0)


def test_the_learned_variance_is_that_of_each_element():
    class Ends(nn.Module):
        def forward(self, x, c_noise):
            return torch.cat([torch.zeros_like(x), torch.tensor([-1.0, 1.0]).expand_as(x)], 1)  # v = 0 and v = 1

    sde = sd.VPSDE()
    denoiser, grid = sd.NetworkDenoiser(Ends(), sde, LearnedVariance(sd.X0())), sd.uniform(sde, 5)
    learned, low, high = (
        sd.sample(denoiser, solver, shape=(3, 2), grid=grid, seeds=[0, 1, 2])
        for solver in (sd.Ancestral("learned"), sd.Ancestral("posterior"), sd.Ancestral("forward"))
    )
    torch.testing.assert_close(learned, torch.stack([low[:, 0], high[:, 1]], 1))


class Same(nn.Module):
    def forward(self, x, c_noise):
        return x


def test_other_solvers_and_correctors_run_on_a_network_that_learned_a_variance():
    chain = sd.VPSDE().discretize(40)
    plain, learned = sd.GaussianDenoiser(1.0, 0.5, chain), sd.NetworkDenoiser(Stub(chain), chain, LearnedVariance(sd.Epsilon()))
    x = torch.randn(4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(learned(x, 0.5), plain(x, 0.5), rtol=1e-9, atol=1e-12)
    ddim = (sd.sample(denoiser, sd.DDIM(), x=x, grid=sd.uniform(chain, 40)) for denoiser in (plain, learned))
    torch.testing.assert_close(*ddim, rtol=1e-9, atol=1e-9)
    corrected = sd.Ancestral("learned").solve(learned, x, sd.uniform(chain, 40), torch.zeros_like, corrector=lambda x, t: (x, 2))
    assert [step.nfe for step in corrected] == list(range(3, 121, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sd.Ancestral("analytic"), "pass errors=ReconstructionError.estimate"),
        (lambda: sd.Ancestral("beta"), "'posterior', 'forward', 'analytic' or 'learned', got 'beta'"),
        (
            lambda: sd.Ancestral("forward", gaussian_errors(torch.arange(3.0))),
            "errors are for variance='analytic', got them with 'forward'",
        ),
        (lambda: sd.Ancestral("learned").tableau(sd.VPSDE(), sd.uniform(sd.VPSDE(), 3)), "no table; use variance='analytic'"),
        (
            lambda: sd.sample(sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE()), sd.Ancestral("learned"), shape=(2, 1), steps=3),
            "GaussianDenoiser has learned no variance",
        ),
        (
            lambda: sd.sample(sd.NetworkDenoiser(Same(), sd.VPSDE(), sd.X0()), sd.Ancestral("learned"), shape=(2, 1), steps=3),
            "NetworkDenoiser has learned no variance",
        ),
        (
            lambda: sd.sample(sd.NetworkDenoiser(Same(), sd.VPSDE(), LearnedVariance()), sd.DDIM(), shape=(2, 3), steps=3),
            r"returned shape \(2, 3\) for states of shape \(2, 3\).*twice the channels, 6",
        ),
        (lambda: LearnedVariance(LearnedVariance()), "inner must be a parameterization without variance"),
        (lambda: ReconstructionError((1.0, 0.0), (0.1, 0.2)), r"must increase, got log_snr\[0\]=1.0"),
        (lambda: ReconstructionError((0.0,), (0.1,)), "at least 2, got 1 and 1"),
        (lambda: ReconstructionError((0.0, 1.0), (0.1, -0.2)), "cannot be negative, got -0.2"),
        (lambda: ReconstructionError((0.0, math.inf), (0.1, 0.2)), "log_snr must be finite"),
        (lambda: ReconstructionError.estimate(sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE()), torch.zeros(0, 1)), "n >= 1, got"),
        (lambda: ReconstructionError.estimate(sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE()), torch.zeros(2, 1), times=1), "at least 2, got 1"),
        (
            lambda: ReconstructionError.estimate(sd.GaussianDenoiser(0.0, 1.0, sd.VPSDE()), torch.zeros(2, 1), times=[1.0, 0.0]),
            "no noise or no signal.*leave it out",
        ),
    ],
)
def test_wrong_variances_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
