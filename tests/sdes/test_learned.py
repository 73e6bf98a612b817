import copy
import math

import pytest
import test_affine
import torch

import sde_diffusion as sd
from sde_diffusion.sdes.learned import LearnedVPSDE
from sde_diffusion.sdes.tabulated import TabulatedVPSDE

COSINE = tuple(-math.log(math.tan(0.05 + 1.44 * i / 64)) for i in range(65))  # the log-SNR of a cosine schedule


# what every affine process must satisfy, see the fixture `sde` below
for name in (
    "f_is_the_logarithmic_derivative_of_alpha",
    "g_squared_is_what_the_growth_of_sigma_needs",
    "t_of_log_snr_inverts_log_snr",
    "log_snr_decreases",
    "transitions_compose_as_chapman_and_kolmogorov_say",
    "the_transition_from_the_start_is_the_kernel",
    "the_transition_over_no_time_is_the_identity",
    "the_posterior_is_bayes_rule",
    "float32_times_keep_six_digits_near_the_data",
    "a_float_a_scalar_and_a_batch_of_times_agree",
    "integer_times_are_times",
    "perturb_and_drift_broadcast_times_over_data_in_the_dtype_of_the_data",
    "the_prior_is_the_gaussian_it_says",
    "the_signal_at_a_log_snr_is_that_at_its_time",
):
    globals()[f"test_{name}"] = getattr(test_affine, f"test_{name}")


@pytest.fixture(params=["a coarse table", "a learned schedule", "a trained one"])
def sde(request) -> TabulatedVPSDE:
    tables = {
        "a coarse table": TabulatedVPSDE(COSINE),
        "a learned schedule": LearnedVPSDE().frozen(),
        "a trained one": bent().frozen(),
    }
    return tables[request.param]


def test_alpha_and_sigma_solve_the_moment_equations_of_f_and_g_between_knots(sde, monkeypatch):
    n = len(sde.log_snrs) - 1
    monkeypatch.setattr(test_affine, "pieces", lambda sde: [(i / n, (i + 1) / n) for i in (0, 1, n // 2, n - 1)])  # the cubic has kinks
    test_affine.test_alpha_and_sigma_solve_the_moment_equations_of_f_and_g(sde)


def bent(**options) -> LearnedVPSDE:
    """A schedule far from a straight line, as after training."""
    sde, generator = LearnedVPSDE(**options), torch.Generator().manual_seed(0)
    with torch.no_grad():
        sde.log_heights += 3 - 5 * sde.centers  # steep near the data, flat near the noise
        for p, size in ((sde.log_heights, 0.3), (sde.log_rates, 0.1), (sde.centers, 0.01)):
            p += size * torch.randn(p.shape, generator=generator)
    return sde


def times(n=401):
    return torch.linspace(0, 1, n, dtype=torch.float64)


def test_gamma_starts_as_a_straight_line_between_its_ends():
    gamma, slope = LearnedVPSDE().gamma(times())
    torch.testing.assert_close(gamma, -13.3 + 18.3 * times(), rtol=0, atol=0.01 * 18.3)
    assert slope.min() > 0.5 * 18.3


def test_gamma_rises_from_end_to_end_whatever_its_parameters_are():
    sde = bent()
    gamma, slope = sde.gamma(times())
    assert (gamma.diff() > 0).all()
    assert (slope > 0).all()
    torch.testing.assert_close(gamma[[0, -1]], sde.ends.double(), rtol=1e-14, atol=0)
    assert (gamma - (-13.3 + 18.3 * times())).abs().max() > 1  # it is bent


def test_the_slope_of_gamma_is_its_derivative():
    sde, t = bent(), times().requires_grad_()
    gamma, slope = sde.gamma(t)
    torch.testing.assert_close(slope, torch.autograd.grad(gamma.sum(), t)[0], rtol=1e-10, atol=0)


def test_signal_and_noise_keep_the_variance_and_drift_and_diffusion_follow_from_them():
    sde, t = bent(), times().requires_grad_()
    alpha, variance = sde.alpha(t), sde.sigma(t) ** 2
    torch.testing.assert_close(alpha**2 + variance, torch.ones_like(t), rtol=1e-14, atol=0)
    torch.testing.assert_close(sde.f(t), torch.autograd.grad(alpha.log().sum(), t, retain_graph=True)[0], rtol=1e-9, atol=1e-12)
    growth = torch.autograd.grad(variance.sum(), t)[0]
    torch.testing.assert_close(sde.g(t) ** 2, growth - 2 * sde.f(t) * variance, rtol=1e-9, atol=1e-12)


def test_the_time_of_a_log_snr_inverts_it():
    for sde in (bent(), TabulatedVPSDE(COSINE)):
        t = times()
        torch.testing.assert_close(sde.t_of_log_snr(sde.log_snr(t).detach()), t, rtol=0, atol=1e-12)


def test_two_processes_start_equal_and_nothing_is_drawn():
    state = torch.random.get_rng_state()
    a, b = LearnedVPSDE(hidden=5), LearnedVPSDE(hidden=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_table_is_the_schedule_at_its_knots_and_1e_6_near_it_between_them():
    sde = bent()
    table = sde.frozen()
    knots = times(257)
    torch.testing.assert_close(table.log_snr(knots), sde.log_snr(knots).detach(), rtol=1e-13, atol=1e-14)
    errors = [(sde.frozen(knots=n).log_snr(times(4001)) - sde.log_snr(times(4001))).abs().max().item() for n in (128, 256, 512)]
    assert errors[1] < 1e-5
    assert errors[2] < 1e-6
    assert errors[0] / errors[1] > 8  # of fourth order


def test_a_table_does_not_follow_the_schedule_that_it_was_made_of():
    sde = bent()
    table = sde.frozen()
    before = table.log_snr(times())
    with torch.no_grad():
        sde.ends += 1
    assert torch.equal(table.log_snr(times()), before)
    assert sde.frozen() != table


def test_a_coarse_uneven_table_is_monotone_and_meets_its_values():
    values = (5.0, 4.99, 4.98, 0.0, -0.001, -0.002, -3.0)
    table = TabulatedVPSDE(values)
    gamma, slope = table.gamma(times(2001))
    assert (gamma.diff() > 0).all()
    assert (slope >= 0).all()
    torch.testing.assert_close(table.log_snr(times(7)), torch.tensor(values, dtype=torch.float64), rtol=1e-13, atol=1e-14)


def test_expressions_build_both_back():
    table, sde = TabulatedVPSDE(COSINE, t_min=0.01), LearnedVPSDE(4, -3.0, hidden=7, learn_endpoints=False)
    assert sd.build(repr(table)) == table
    again = sd.build(repr(sde))
    assert repr(again) == repr(sde) == "LearnedVPSDE(4.0, -3.0, hidden=7, learn_endpoints=False)"
    assert {name: v.tolist() for name, v in again.state_dict().items()} == {name: v.tolist() for name, v in sde.state_dict().items()}


def test_fixed_ends_are_kept_but_not_trained():
    sde = LearnedVPSDE(learn_endpoints=False)
    assert "ends" in sde.state_dict()
    assert {name for name, _ in sde.named_parameters()} == {"log_heights", "log_rates", "centers"}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((-2.5, 6.65), {}, "swap them"),
        ((math.inf, 0.0), {}, "must be finite"),
        ((), {"hidden": 0}, "hidden must be a whole number"),
    ],
)
def test_ends_that_are_none_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        LearnedVPSDE(*arguments, **options)


def test_tables_that_are_none_are_refused():
    with pytest.raises(ValueError, match="must be 5 numbers at least, got 3"):
        TabulatedVPSDE((1.0, 0.0, -1.0))
    with pytest.raises(ValueError, match=r"log_snrs must be finite, got inf to -1\.0"):
        TabulatedVPSDE((math.inf, 3.0, 2.0, 1.0, -1.0))
    with pytest.raises(ValueError, match="must decrease"):
        TabulatedVPSDE(COSINE[::-1])


def test_weights_set_before_the_backward_pass_multiply_the_interior_s_gradient_alone():
    """One pass against two: the ends' gradient of sum l, and the interior's of sum w l."""
    w, t = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def losses(sde):
        return (sde.alpha(t) + sde.g(t) ** 2 * torch.tensor([1.0, 2.0, 3.0])).sin()

    sde, plain, weighed = bent(), bent(), bent()
    with sde.weigh_interior() as weights:
        value = losses(sde)
    weights.value = w
    value.sum().backward()
    losses(plain).sum().backward()
    (w * losses(weighed)).sum().backward()
    torch.testing.assert_close(sde.ends.grad, plain.ends.grad, rtol=1e-6, atol=0)
    for name in ("log_heights", "log_rates", "centers"):
        torch.testing.assert_close(getattr(sde, name).grad, getattr(weighed, name).grad, rtol=1e-4, atol=1e-7)
    assert copy.deepcopy(sde).gamma(t)[0].requires_grad  # outside, nothing is weighed, and a copy can be made


def test_a_table_is_sampled_by_any_solver():
    denoiser = sd.GaussianDenoiser(0.5, 0.2, bent().frozen())
    for solver in (sd.DDIM(), sd.EulerMaruyama(), sd.Heun(), sd.DPMSolverPP()):
        x = sd.sample(denoiser, solver, shape=(4000, 1), steps=32, generator=torch.Generator().manual_seed(0))
        assert x.mean().item() == pytest.approx(0.5, abs=0.05)
        assert x.std().item() == pytest.approx(0.2, rel=0.15)
