"""The exact denoisers against quadrature, torch.distributions and each other: every other test trusts them."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import sde_diffusion as sd

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 5.0), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100, 1e-3, 0.1))]
TIMES = [0.02, 0.3, 0.95]
MEANS = torch.tensor([[1.0, -0.5], [-0.7, 0.2], [0.1, 1.1]], dtype=torch.float64)
STDS = torch.tensor([[0.3, 0.6], [0.2, 0.05], [1.0, 0.4]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
ROOTS = torch.tensor([[[0.5, 0.0], [0.3, 0.2]], [[0.1, 0.0], [-0.4, 0.3]], [[0.7, 0.0], [0.6, 0.1]]], dtype=torch.float64)
COVARIANCES = ROOTS @ ROOTS.mT


def diagonal(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser(MEANS, STDS, WEIGHTS, sde)


def full(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser(MEANS, None, WEIGHTS, sde, covariances=COVARIANCES)


def empirical(sde: sd.AffineSDE) -> sd.EmpiricalDenoiser:
    return sd.EmpiricalDenoiser(MEANS, sde)


def gaussian(sde: sd.AffineSDE) -> sd.GaussianDenoiser:
    return sd.GaussianDenoiser(MEANS[0], STDS[0], sde)


MAKERS = [gaussian, diagonal, full, empirical]


@pytest.fixture
def x(generator):
    return torch.randn(7, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("covariances", [None, COVARIANCES], ids=["stds", "covariances"])
def test_log_prob_is_that_of_torch_distributions(sde, t, covariances, x):
    denoiser = diagonal(sde) if covariances is None else full(sde)
    c = torch.diag_embed(STDS**2) if covariances is None else covariances
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    law = MixtureSameFamily(
        Categorical(WEIGHTS), MultivariateNormal(alpha * MEANS, alpha**2 * c + sigma**2 * torch.eye(2, dtype=torch.float64))
    )
    torch.testing.assert_close(denoiser.log_prob(x, t), law.log_prob(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_x0_hat_and_log_prob_are_bayes_by_quadrature(sde, t):
    means, stds, weights = np.array([1.0, -0.6]), np.array([0.3, 0.1]), np.array([0.3, 0.7])
    denoiser = sd.GaussianMixtureDenoiser(means[:, None], stds, weights, sde)
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    x0 = np.linspace(-4, 5, 200_001)
    prior = (weights / (stds * math.sqrt(2 * math.pi)) * np.exp(-0.5 * ((x0[:, None] - means) / stds) ** 2)).sum(1)
    for x in (-1.0, 0.05, 1.3):
        joint = prior * np.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) * (x0[1] - x0[0])
        state = torch.tensor([[x]], dtype=torch.float64)
        assert denoiser.log_prob(state, t).item() == pytest.approx(math.log(joint.sum()), rel=1e-9, abs=1e-9)
        assert denoiser(state, t).item() == pytest.approx((x0 * joint).sum() / joint.sum(), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", MAKERS)
def test_the_score_is_the_gradient_of_log_prob(make, sde, x):
    denoiser, t = make(sde), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x = x.requires_grad_()
    gradient = torch.autograd.grad(denoiser.log_prob(x, t).sum(), x)[0]
    torch.testing.assert_close(denoiser.score(x, t), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", MAKERS)
def test_x0_hat_score_eps_and_v_are_one_belief(make, sde, x):
    denoiser, t = make(sde), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, sigma, f, g = (c(t)[:, None] for c in (sde.alpha, sde.sigma, sde.f, sde.g))
    x0_hat, score, eps = denoiser(x, t), denoiser.score(x, t), denoiser.eps(x, t)
    torch.testing.assert_close((x + sigma**2 * score) / alpha, x0_hat, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(-sigma * score, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha * x0_hat + sigma * eps, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(denoiser.v(x, t), f * x - 0.5 * g**2 * score, rtol=1e-12, atol=1e-12)


def jacobian_trace(denoiser: sd.Denoiser, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Sample by sample and row by row in float64: torch's vmap, and so jacrev, gets the gradient of cdist wrong (2.13)."""
    rows = zip(x.double().split(1), t, strict=True)
    jacobians = [torch.autograd.functional.jacobian(lambda row, time=time: denoiser(row, time), row) for row, time in rows]
    return torch.stack([j.reshape(x[0].numel(), -1).trace() for j in jacobians])


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", MAKERS)
def test_the_trace_of_the_jacobian_is_that_of_automatic_differentiation(make, sde, x):
    denoiser, t = make(sde), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x0_hat, trace = denoiser.jacobian_trace(x, t)
    torch.testing.assert_close(x0_hat, denoiser(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trace, jacobian_trace(denoiser, x, t), rtol=1e-10, atol=1e-10)
    one_time = denoiser.jacobian_trace(x, 0.3)[1]
    torch.testing.assert_close(one_time, jacobian_trace(denoiser, x, torch.full_like(t, 0.3)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stds", [0.3, [0.1, 0.2, 0.3], "empirical"])
def test_the_trace_of_the_jacobian_is_right_for_images_and_stds_of_every_shape(stds, generator):
    data = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    x, t = torch.randn(4, 1, 2, 2, generator=generator, dtype=torch.float64), torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    denoiser = sd.EmpiricalDenoiser(data, SDES[0]) if stds == "empirical" else sd.GaussianMixtureDenoiser(data, stds, WEIGHTS, SDES[0])
    x0_hat, trace = denoiser.jacobian_trace(x, t)
    assert x0_hat.shape == x.shape
    torch.testing.assert_close(trace, jacobian_trace(denoiser, x, t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", MAKERS)
def test_the_trace_of_the_jacobian_of_a_float32_state_is_float64(make, x):
    denoiser, t = make(SDES[0]), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x0_hat, trace = denoiser.jacobian_trace(x.float(), t)
    assert (x0_hat.dtype, trace.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(trace, jacobian_trace(denoiser, x.float(), t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [gaussian, diagonal, full])
def test_the_trace_of_the_jacobian_is_finite_without_noise_and_without_data(make, x):
    for t, expected in ((0.0, 2.0), (1.0, 0.0)):  # x0_hat = x where sigma = 0, a constant where alpha = 0
        trace = make(sd.RectifiedFlow()).jacobian_trace(x, t)[1]
        torch.testing.assert_close(trace, torch.full((7,), expected, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", MAKERS)
def test_the_velocity_moves_the_density_as_the_continuity_equation_says(make, x):
    # d/dt log p(x, t) + div v + v . score = 0
    sde, x, t = sd.VPSDE(), x.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    denoiser = make(sde)
    for i in range(3):
        row = x[i : i + 1]
        rate = torch.autograd.grad(denoiser.log_prob(row, t).sum(), t)[0]
        jacobian = torch.autograd.functional.jacobian(lambda y: denoiser.v(y, t)[0], row)[:, 0]
        flux = (denoiser.v(row, t) * denoiser.score(row, t)).sum()
        assert (rate + jacobian.trace() + flux).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("t", TIMES)
def test_diagonal_covariances_are_stds(t, x):
    a, b = diagonal(SDES[0]), sd.GaussianMixtureDenoiser(MEANS, None, WEIGHTS, SDES[0], covariances=torch.diag_embed(STDS**2))
    for method in ("forward", "score", "log_prob"):
        torch.testing.assert_close(getattr(a, method)(x, t), getattr(b, method)(x, t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("t", TIMES)
def test_full_covariances_agree_with_the_conditional_gaussians(t, x):
    sde = SDES[0]
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    eye = torch.eye(2, dtype=torch.float64)
    marginals = [MultivariateNormal(alpha * m, alpha**2 * c + sigma**2 * eye) for m, c in zip(MEANS, COVARIANCES, strict=True)]
    log_r = torch.stack([w.log() + law.log_prob(x) for w, law in zip(WEIGHTS, marginals, strict=True)], 1)
    conditional = [
        m + (x - alpha * m) @ torch.linalg.solve(alpha**2 * c + sigma**2 * eye, alpha * c) for m, c in zip(MEANS, COVARIANCES, strict=True)
    ]
    expected = (log_r.softmax(1)[..., None] * torch.stack(conditional, 1)).sum(1)
    torch.testing.assert_close(full(sde)(x, t), expected, rtol=1e-10, atol=1e-10)


def test_stds_may_be_one_number_or_one_per_mode():
    x, t, sde = MEANS + 0.1, 0.2, SDES[0]
    for stds, spelled_out in ((0.3, torch.full((3, 2), 0.3)), ([0.1, 0.2, 0.3], torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]))):
        a, b = (sd.GaussianMixtureDenoiser(MEANS, s, None, sde) for s in (stds, spelled_out.double()))
        torch.testing.assert_close(a(x, t), b(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", TIMES)
def test_the_empirical_denoiser_is_the_mixture_of_points(sde, t, x):
    points = sd.GaussianMixtureDenoiser(MEANS, 0.0, None, sde)
    for method in ("forward", "score", "eps", "log_prob"):
        torch.testing.assert_close(getattr(empirical(sde), method)(x, t), getattr(points, method)(x, t), rtol=1e-8, atol=1e-8)


def test_the_empirical_denoiser_returns_the_nearest_point_without_noise_and_the_mean_in_noise():
    denoiser = empirical(sd.VESDE(1e-4, 1e4))
    torch.testing.assert_close(denoiser(MEANS + 0.01, 0.0), MEANS, rtol=0, atol=1e-12)
    torch.testing.assert_close(denoiser(MEANS, 1.0), MEANS.mean(0).expand(3, 2), rtol=0, atol=1e-6)


def test_a_gaussian_shrinks_linearly():
    sde = SDES[0]
    x, alpha, sigma = torch.tensor([[0.3]], dtype=torch.float64), sde.alpha(0.2), sde.sigma(0.2)
    expected = 1 + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - alpha)
    torch.testing.assert_close(sd.GaussianDenoiser(1.0, 0.5, sde)(x, 0.2), expected, rtol=1e-13, atol=0)


def test_a_gaussian_takes_a_covariance():
    a = sd.GaussianDenoiser(MEANS[0], None, SDES[0], covariance=COVARIANCES[0])
    b = sd.GaussianMixtureDenoiser(MEANS[:1], None, None, SDES[0], covariances=COVARIANCES[:1])
    torch.testing.assert_close(a(MEANS, 0.4), b(MEANS, 0.4))
    torch.testing.assert_close(a.mean, MEANS[0])


@pytest.mark.parametrize("make", MAKERS)
def test_a_batch_of_times_is_each_time_alone(make, x):
    denoiser, t = make(SDES[0]), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for method in (denoiser, denoiser.score, denoiser.eps, denoiser.v, denoiser.log_prob):
        alone = torch.cat([method(x[i : i + 1], t[i]) for i in range(7)])
        torch.testing.assert_close(method(x, t), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_of_the_state_is_kept(make, dtype, x):
    denoiser, state = make(SDES[0]), x.to(dtype)
    for method in ("forward", "score", "eps", "v", "log_prob"):
        out = getattr(denoiser, method)(state, 0.3)
        assert out.dtype == dtype
        torch.testing.assert_close(
            out.double(), getattr(denoiser, method)(state.double(), 0.3), rtol=16 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
        )


def test_low_precision_data_are_denoised_in_float32_at_least():
    data = MEANS.bfloat16()
    out = sd.EmpiricalDenoiser(data, SDES[0])(data + 0.1, 0.1)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), sd.EmpiricalDenoiser(data.double(), SDES[0])((data + 0.1).double(), 0.1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [sd.GaussianMixtureDenoiser, sd.EmpiricalDenoiser])
def test_images_are_flat_states_in_another_shape(kind, generator):
    images = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    a, b = (kind(data, SDES[0]) if kind is sd.EmpiricalDenoiser else kind(data, 0.2, None, SDES[0]) for data in (images, images.flatten(1)))
    torch.testing.assert_close(a(x, 0.4).flatten(1), b(x.flatten(1), 0.4))
    torch.testing.assert_close(a.log_prob(x, 0.4), b.log_prob(x.flatten(1), 0.4))
    assert a.sample_data(6, generator=generator).shape == (6, 2, 3, 3)


@pytest.mark.parametrize("make", MAKERS)
def test_samples_have_the_moments_of_the_data(make, generator):
    n, denoiser = 40_000, make(SDES[0])
    samples = denoiser.sample_data(n, generator=generator)
    w = {gaussian: WEIGHTS.new_ones(1), empirical: WEIGHTS.new_full((3,), 1 / 3)}.get(make, WEIGHTS)
    m = MEANS[:1] if make is gaussian else MEANS
    c = {
        diagonal: torch.diag_embed(STDS**2),
        gaussian: torch.diag_embed(STDS[:1] ** 2),
        full: COVARIANCES,
        empirical: torch.zeros(3, 2, 2),
    }[make]
    mean = w @ m
    covariance = torch.einsum("k,kij->ij", w, c.double() + m[:, :, None] * m[:, None]) - mean[:, None] * mean
    errors = covariance.diagonal().sqrt() / math.sqrt(n)
    assert ((samples.mean(0) - mean).abs() < 4 * errors).all()
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=4 * 2 / math.sqrt(n) * covariance.max().item())


@pytest.mark.parametrize("make", MAKERS)
def test_a_sample_of_the_data_depends_on_its_seed_alone(make):
    denoiser, seeds = make(SDES[0]), [5, 2, 9, 4]
    whole = denoiser.sample_data(4, seeds=seeds)
    torch.testing.assert_close(whole[1:3], denoiser.sample_data(2, seeds=[2, 9]), rtol=0, atol=0)


def test_weights_are_normalised_to_the_last_digit():
    denoiser = sd.GaussianMixtureDenoiser(MEANS, STDS, torch.full((3,), 1 / 3, dtype=torch.float32), SDES[0])
    assert denoiser.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: sd.GaussianMixtureDenoiser([1.0, 2.0], 1.0, None, s), r"means must have shape \(k, \*d\), got \(2,\)"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, [1.0, 2.0], None, s), r"stds must have shape \(\), \(3,\) or \(3, 2\), got \(2,\)"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, -0.1, None, s), "stds must not be negative, got -0.1"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, 1.0, [0.5, 0.5], s), "weights must be 3 positive numbers"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, 1.0, [1.0, 1.0, 2.0], s), "sum to 1.*divide by their sum"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, None, None, s), "pass either stds or covariances"),
        (lambda s: sd.GaussianMixtureDenoiser(MEANS, 1.0, None, s, covariances=COVARIANCES), "pass either stds or covariances"),
        (
            lambda s: sd.GaussianMixtureDenoiser(MEANS, None, None, s, covariances=COVARIANCES[0]),
            r"covariances must have shape \(3, 2, 2\), got \(2, 2\)",
        ),
        (
            lambda s: sd.GaussianMixtureDenoiser(MEANS, None, None, s, covariances=-COVARIANCES),
            "positive semi-definite, got an eigenvalue -",
        ),
        (
            lambda s: sd.GaussianMixtureDenoiser(MEANS, None, None, s, covariances=ROOTS),
            "covariances must be symmetric, got a difference of 0.6",
        ),
        (lambda s: sd.EmpiricalDenoiser(torch.zeros(3), s), r"data must be floating point of shape \(n, \*d\)"),
        (lambda s: sd.EmpiricalDenoiser(torch.zeros(3, 2, dtype=torch.long), s), "data must be floating point"),
        (lambda s: sd.EmpiricalDenoiser(torch.zeros(0, 2), s), "n >= 1"),
    ],
)
def test_data_of_the_wrong_shape_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(SDES[0])


@pytest.mark.parametrize("make", MAKERS)
def test_states_and_times_of_the_wrong_shape_are_refused(make):
    # (b, 1) against one-dimensional data and (b, d) against it once broadcast to a wrong answer
    denoiser = make(SDES[0])
    for state in (torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(4, 2, 1), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"states must have shape \(b, 2\) like the data, got"):
            denoiser(state, 0.5)
    for t in (torch.full((3,), 0.5), torch.full((4, 1), 0.5)):
        with pytest.raises(ValueError, match=r"times must have shape \(\) or \(4,\)"):
            denoiser(torch.zeros(4, 2), t)
