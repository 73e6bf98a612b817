"""Row G1d: Langevin moves with an acceptance step keep p_t itself, at steps where unadjusted ones are far off."""

import math
from statistics import NormalDist

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.correctors import Level
from sde_diffusion.solvers.metropolis import MetropolisLangevin

VP = sd.VPSDE()
NORMAL = sd.GaussianDenoiser(0.0, 1.0, VP)  # p_t = N(0, 1) at every t
VE = sd.VESDE()
MIXTURE = sd.GaussianMixtureDenoiser([[1.0], [-0.6]], [0.1, 0.2], [0.4, 0.6], VE)
LEVEL = VE.t_of_log_snr(torch.tensor(-math.log(0.3), dtype=torch.float64)).item()


def run(corrector, denoiser, x, t, noise=None):
    move = corrector.corrector(denoiser, x, torch.tensor([t], dtype=torch.float64), noise or sd.Stream(torch.Generator().manual_seed(1)))
    return move(x, t)


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def acceptance(e: float) -> float:
    """E min(1, exp(-e/4 (x'^2 - x^2))) for x ~ N(0, 1) and its proposal, summed over a grid."""
    u = torch.linspace(-8, 8, 1201, dtype=torch.float64)
    p = torch.exp(-(u**2) / 2) / torch.exp(-(u**2) / 2).sum()
    new = (1 - e) * u[:, None] + (2 * e) ** 0.5 * u
    return (p[:, None] * p * torch.exp((-e / 4 * (new**2 - u[:, None] ** 2)).clamp(max=0))).sum().item()


@pytest.mark.parametrize(("e", "unadjusted"), [(0.5, 4 / 3), (1.0, 2.0)])
@pytest.mark.parametrize("density", ["exact", "trapezoid"])
def test_the_variance_of_a_normal_law_is_kept_where_unadjusted_moves_widen_it(e, unadjusted, density):
    n, rates = 20_000, []
    solver = MetropolisLangevin((e / 2) ** 0.5 / VP.sigma(0.5).item(), 20, density, record=lambda t, rate: rates.append((t, rate)))
    x, calls = run(solver, NORMAL, normal(n), 0.5)
    assert calls == 21
    four_errors = 4 * (2 / n) ** 0.5
    assert x.var().item() == pytest.approx(1, abs=four_errors)
    assert abs(1 - unadjusted) > 5 * four_errors
    assert [t for t, _ in rates] == [0.5] * 20
    assert all(rate.shape == (n,) for _, rate in rates)
    measured = torch.stack([rate for _, rate in rates]).mean().item()
    assert 0 < measured < 1
    assert measured == pytest.approx(acceptance(e), abs=0.005)


@pytest.mark.parametrize("density", ["exact", "simpson", "lobatto"])
def test_the_law_of_a_mixture_is_kept(density):
    # moments and the weight of the right mode from a fine sum over p_t; Langevin at this step is off by .10 in the fourth moment
    n = 20_000
    x = VE.perturb(MIXTURE.sample_data(n, generator=torch.Generator().manual_seed(0)), LEVEL, normal(n, 5))
    u = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    p = MIXTURE.log_prob(u, LEVEL).softmax(0)
    x, _ = run(MetropolisLangevin(0.5, 20, density), MIXTURE, x, LEVEL)
    for f in (lambda v: v, lambda v: v**2, lambda v: v**4, lambda v: (v > 0.3).double()):
        truth = (p * f(u)[:, 0]).sum()
        error = ((p * f(u)[:, 0] ** 2).sum() - truth**2).div(n).sqrt()
        assert (f(x).mean() - truth).abs() < 4 * error


def test_a_move_is_accepted_by_the_ratio_of_metropolis_and_hastings():
    # p(x') q(x|x')/(p(x) q(x'|x)) with the exact densities and the uniform number Phi(z'), written out
    x, z, u = normal(500), normal(500, 1), normal(500, 2)[:, 0]
    e = 2 * (0.8 * 0.3) ** 2

    def proposal(v: torch.Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(v + e * MIXTURE.score(v, LEVEL), math.sqrt(2 * e))

    new = proposal(x).mean + math.sqrt(2 * e) * z
    there, back = proposal(x).log_prob(new)[:, 0], proposal(new).log_prob(x)[:, 0]
    log_r = MIXTURE.log_prob(new, LEVEL) + back - MIXTURE.log_prob(x, LEVEL) - there
    accept = torch.distributions.Normal(0.0, 1.0).cdf(u).log() < log_r
    seen = []
    got, _ = run(MetropolisLangevin(0.8, density="exact", record=lambda _, r: seen.append(r)), MIXTURE, x, LEVEL, sd.Replay([z, u]))
    torch.testing.assert_close(got, torch.where(accept[:, None], new, x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen[0], log_r.exp().clamp(max=1), rtol=1e-8, atol=1e-10)
    assert 0 < accept.double().mean() < 1


@pytest.mark.parametrize(("density", "order"), [("trapezoid", 3), ("simpson", 5), ("lobatto", 7)])
def test_the_line_integral_is_as_accurate_as_its_rule(density, order):
    # error of log p(x') - log p(x) against the length of the move
    x, z = normal(1000), normal(1000, 1).clamp(-1.5, 1.5)
    t = torch.tensor([LEVEL], dtype=torch.float64)
    level = Level(MIXTURE, MIXTURE.at(t, x)[0], LEVEL, 1.0, VE.sigma(t).item())

    def log_ratio(new: torch.Tensor, density: str) -> torch.Tensor:
        scores = level.score(x, None), level.score(new, None)
        return MetropolisLangevin(density=density).log_density_ratio(level, x, new, *scores, None)

    def error(length: float) -> float:
        new = x + length * z
        return (log_ratio(new, density) - log_ratio(new, "exact")).square().mean().sqrt().item()

    assert math.log2(error(0.05) / error(0.025)) == pytest.approx(order, abs=0.3)  # moves short of the 0.3 over which p_t changes


@pytest.mark.parametrize("snr", [0.15, 0.25])
def test_in_many_dimensions_the_acceptance_rate_is_that_of_roberts_and_rosenthal(snr):
    # on N(0, sigma^2 I), log r is nearly N(-v/2, v) with v = D e^3/(2 sigma^6) = 4 D snr^6, so E min(1, r) = 2 Phi(-sqrt(v)/2)
    d, rates = 1000, []
    point = sd.GaussianDenoiser(torch.zeros(d), 0.0, VE)
    x = 0.3 * torch.randn(1000, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run(MetropolisLangevin(snr, density="trapezoid", record=lambda _, rate: rates.append(rate)), point, x, LEVEL)
    expected = 2 * NormalDist().cdf(-(snr**3) * d**0.5)
    assert rates[0].mean().item() == pytest.approx(expected, abs=0.01)


def test_calls_are_counted_as_they_are_made():
    for density, per_move in {"trapezoid": 1, "simpson": 2, "lobatto": 3}.items():
        counter, steps = sd.NFECounter(MIXTURE), []
        solver = sd.PredictorCorrector(sd.DDIM(), MetropolisLangevin(steps=4, density=density))
        sd.sample(counter, solver, shape=(3, 1), steps=5, seeds=range(3), grid=sd.uniform(t_min=0.1), callback=steps.append)
        assert steps[-1].nfe == counter.nfe == 5 + 5 * (1 + 4 * per_move)


def test_the_recorder_is_no_part_of_what_the_corrector_is():
    plain, recording = MetropolisLangevin(0.3), MetropolisLangevin(0.3, record=lambda t, rate: None)
    assert plain == recording
    assert hash(plain) == hash(recording)
    assert repr(plain) == repr(recording) == "MetropolisLangevin(snr=0.3, steps=1, density='simpson')"


def test_wrong_options_are_refused_with_their_value():
    with pytest.raises(ValueError, match="got 'euler'"):
        MetropolisLangevin(density="euler")
    with pytest.raises(ValueError, match="snr must be a positive number"):
        MetropolisLangevin(0.0)
    with pytest.raises(ValueError, match="NFECounter has no log_prob; use MetropolisLangevin"):
        run(MetropolisLangevin(density="exact"), sd.NFECounter(NORMAL), normal(3), 0.5)
