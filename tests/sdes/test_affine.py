"""What every affine process must satisfy, whatever its formulas."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import solve_ivp

import sde_diffusion as sd


def times(sde: sd.AffineSDE, n: int = 41) -> torch.Tensor:
    """Times in the open interval, off and on the nodes of a chain; at t = 0 the derivative of a square root may be infinite."""
    t = torch.linspace(sde.t_min, sde.t_max, n, dtype=torch.float64)
    return torch.cat([t[t > 0], torch.tensor([1e-5, 1e-4, 3e-3], dtype=torch.float64)])


def derivative(function, t: torch.Tensor) -> torch.Tensor:
    t = t.clone().requires_grad_()
    y = function(t)
    return torch.autograd.grad(y.sum(), t)[0] if y.requires_grad else torch.zeros_like(t)


def test_f_is_the_logarithmic_derivative_of_alpha(sde):
    t = times(sde)
    torch.testing.assert_close(sde.f(t), derivative(lambda u: sde.alpha(u).log(), t), rtol=1e-9, atol=1e-9)


def test_g_squared_is_what_the_growth_of_sigma_needs(sde):
    t = times(sde)
    growth = derivative(lambda u: sde.sigma(u) ** 2, t)
    torch.testing.assert_close(sde.g(t) ** 2, growth - 2 * sde.f(t) * sde.sigma(t) ** 2, rtol=1e-9, atol=1e-12)


def pieces(sde: sd.AffineSDE) -> list[tuple[float, float]]:
    """Where f and g are smooth: the whole interval, or some segments of a chain."""
    if sde.length is None:
        return [(0.0, sde.t_max)]
    return [((i - 1) / sde.length, i / sde.length) for i in (1, 2, sde.length // 2, sde.length)]


def test_alpha_and_sigma_solve_the_moment_equations_of_f_and_g(sde):
    tolerance = 1e-11  # what DOP853 at rtol 1e-13 reaches; the integrated coefficients themselves promise 1e-10
    for start, end in pieces(sde):
        inside = 0 if sde.length is None else 1e-9 * (end - start)

        def moments(t, y, start=start, end=end, inside=inside):
            t = min(max(t, start + inside), end - inside)  # at a chain's node f belongs to the segment before
            f, g = sde.f(t).item(), sde.g(t).item()
            return [f, 2 * f * y[1] + g**2]

        y0 = [sde.alpha(start).log().item(), sde.sigma(start).item() ** 2]
        middle = 0.3 * start + 0.7 * end
        solution = solve_ivp(moments, (start, end), y0, "DOP853", t_eval=[middle, end], rtol=1e-13, atol=1e-16, max_step=(end - start) / 4)
        t = torch.tensor([middle, end], dtype=torch.float64)
        np.testing.assert_allclose(sde.alpha(t), np.exp(solution.y[0]), rtol=tolerance)
        np.testing.assert_allclose(sde.sigma(t) ** 2, solution.y[1], rtol=tolerance)


def test_t_of_log_snr_inverts_log_snr(sde):
    t = times(sde, 301)
    t = t[t >= sde.t_min]
    torch.testing.assert_close(sde.t_of_log_snr(sde.log_snr(t)), t, rtol=0, atol=1e-9)
    one = torch.tensor(0.37, dtype=torch.float64)
    torch.testing.assert_close(sde.t_of_log_snr(sde.log_snr(one).item()), one, rtol=0, atol=1e-9)


def test_log_snr_decreases(sde):
    t = torch.linspace(0, sde.t_max, 500, dtype=torch.float64)
    assert (sde.log_snr(t).diff() < 0).all()


def test_transitions_compose_as_chapman_and_kolmogorov_say(sde):
    r, s, t = (c * sde.t_max for c in torch.rand(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(0).values)
    (a1, q1), (a2, q2), (a, q) = sde.transition(r, s), sde.transition(s, t), sde.transition(r, t)
    torch.testing.assert_close(a1 * a2, a, rtol=1e-12, atol=0)
    torch.testing.assert_close(a2**2 * q1 + q2, q, rtol=1e-10, atol=0)


def test_the_transition_from_the_start_is_the_kernel(sde):
    t = times(sde)
    a, q = sde.transition(0.0, t)
    torch.testing.assert_close(a * sde.alpha(0.0), sde.alpha(t), rtol=1e-14, atol=0)
    torch.testing.assert_close(q + (a * sde.sigma(0.0)) ** 2, sde.sigma(t) ** 2, rtol=1e-12, atol=0)


def test_the_transition_over_no_time_is_the_identity(sde):
    a, q = sde.transition(times(sde), times(sde))
    torch.testing.assert_close(a, torch.ones_like(a), rtol=0, atol=0)
    torch.testing.assert_close(
        q, torch.zeros_like(q), rtol=0, atol=1e-15 * max(1.0, sde.sigma(1.0).item() ** 2) if sde.t_max == 1 else 1e-15
    )


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.21), (0.05, 0.6), (0.5, 0.9)])
def test_the_posterior_is_bayes_rule(sde, s, t):
    x0, x_t = 0.7, -0.4
    scale, variance = (v.item() for v in sde.transition(s, t))
    alpha, sigma = sde.alpha(s).item(), sde.sigma(s).item()
    # p(x_s | x_t, x_0) ~ p(x_t | x_s) p(x_s | x_0) on a grid; the trapezoidal rule is spectrally accurate for it
    guess = sde.posterior(s, t)
    center, width = (guess.x * x_t + guess.x0 * x0).item(), min(sigma, math.sqrt(variance) / scale)
    x_s = np.linspace(center - 12 * width, center + 12 * width, 4001)
    log_p = -0.5 * ((x_t - scale * x_s) ** 2 / variance + ((x_s - alpha * x0) / sigma) ** 2)
    p = np.exp(log_p - log_p.max())
    mean = (p * x_s).sum() / p.sum()
    assert center == pytest.approx(mean, rel=1e-9, abs=1e-10)
    assert guess.variance.item() == pytest.approx((p * (x_s - mean) ** 2).sum() / p.sum(), rel=1e-9)


def test_float32_times_keep_six_digits_near_the_data(sde):
    t = torch.tensor([1e-5, 2e-4, 1.3e-3, 2.6e-3], dtype=torch.float32)  # off the nodes, where g jumps
    for formula in (sde.alpha, sde.sigma, sde.f, sde.g):
        value = formula(t)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), formula(t.double()).double(), rtol=2e-6, atol=1e-6 * abs(float(sde.f(0.01))))


def test_a_float_a_scalar_and_a_batch_of_times_agree(sde):
    t = torch.tensor([0.15, 0.62], dtype=torch.float64)
    for formula in (
        sde.alpha,
        sde.sigma,
        sde.f,
        sde.g,
        sde.log_snr,
        lambda u: sde.transition(0.1, u).variance,
        lambda u: sde.posterior(0.1, u).x,
    ):
        batch = formula(t)
        assert batch.shape == (2,)
        assert batch.dtype == torch.float64
        for i in range(2):
            for one in (formula(t[i]), formula(t[i].item())):
                assert one.shape == ()
                assert one.dtype == torch.float64
                torch.testing.assert_close(one, batch[i], rtol=1e-14, atol=1e-15)


def test_integer_times_are_times(sde):
    if sde.t_max == 1:
        assert sde.alpha(torch.tensor(1)).item() == sde.alpha(1.0).item()
        assert sde.sigma(torch.tensor([0, 1])).tolist() == sde.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()


def test_perturb_and_drift_broadcast_times_over_data_in_the_dtype_of_the_data(sde, generator):
    x0, eps = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    x = sde.perturb(x0, t, eps)
    assert x.dtype == torch.float32
    for i in range(2):
        torch.testing.assert_close(x[i], sde.alpha(t[i]).float() * x0[i] + sde.sigma(t[i]).float() * eps[i])
        torch.testing.assert_close(sde.perturb(x0, t[i], eps)[i], x[i])
        torch.testing.assert_close(sde.drift(x, t)[i], sde.f(t[i]).float() * x[i])
    torch.testing.assert_close(sde.diffusion(t), sde.g(t))


def test_times_that_fit_no_batch_are_refused(sde):
    for t in (torch.full((2, 1), 0.5), torch.full((3,), 0.5)):
        with pytest.raises(ValueError, match=r"times must have shape \(\) or \(2,\)"):
            sde.perturb(torch.zeros(2, 2), t, torch.zeros(2, 2))


def test_the_prior_is_the_gaussian_it_says(sde, generator):
    x = sde.prior_std * torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    expected = scipy.stats.norm.logpdf(x.numpy(), scale=sde.prior_std).sum((1, 2))
    np.testing.assert_allclose(sde.prior_log_prob(x), expected, rtol=1e-13)
    draws = sde.prior_sample((20000, 2), generator=generator, dtype=torch.float64)
    assert draws.std().item() == pytest.approx(sde.prior_std, rel=4 / math.sqrt(2 * 40000))
    assert sde.prior_std == pytest.approx(sde.sigma(sde.t_max).item(), rel=4e-3)


def test_discretize_keeps_the_marginals_of_any_process():
    for sde in (sd.SubVPSDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.AffineSDE.from_coefficients(lambda t: -t, lambda t: 1 + t)):
        chain = sde.discretize(7)
        nodes = torch.arange(8, dtype=torch.float64) / 7
        torch.testing.assert_close(chain.alpha(nodes), sde.alpha(nodes * sde.t_max), rtol=1e-12, atol=0)
        torch.testing.assert_close(chain.sigma(nodes), sde.sigma(nodes * sde.t_max), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            chain.transition(nodes[2], nodes[5]).variance, sde.transition(2 / 7 * sde.t_max, 5 / 7 * sde.t_max).variance, rtol=1e-10, atol=0
        )


def test_a_chain_of_one_step_is_refused():
    for sde in (sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.CosineVPSDE()):
        with pytest.raises(ValueError, match="at least 2 steps, got n=1"):
            sde.discretize(1)


def test_a_prior_sample_depends_on_its_seed_alone():
    sde = sd.VESDE()
    whole = sde.prior_sample((4, 3), seeds=[3, 1, 4, 1])
    torch.testing.assert_close(whole[1:3], sde.prior_sample((2, 3), seeds=[1, 4]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="noise and seeds each name a source"):
        sde.prior_sample((4, 3), sd.PerSample(range(4)), seeds=[1, 2, 3, 4])


def test_the_signal_at_a_log_snr_is_that_at_its_time(sde):
    t = torch.linspace(sde.t_min, sde.t_max, 41, dtype=torch.float64)[1:-1]
    lam = sde.log_snr(t)
    torch.testing.assert_close(sde.alpha_of_log_snr(lam), sd.AffineSDE.alpha_of_log_snr(sde, lam), rtol=1e-12, atol=1e-12)
    assert sde.alpha_of_log_snr(lam.float()).dtype == torch.float32
