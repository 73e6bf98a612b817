"""Implicit, sliced and finite-difference score matching against closed forms: every expectation is a sum over nodes or signs."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.losses.implicit import FiniteDifferenceScoreMatching, ImplicitScoreMatching, SlicedScoreMatching
from sde_diffusion.noise import Replay

EXACT = ImplicitScoreMatching()
OBJECTIVES = [EXACT, SlicedScoreMatching(), SlicedScoreMatching(variance_reduction=False), FiniteDifferenceScoreMatching()]


class Linear:
    """The score a x; of N(0, v) if a = -1/v."""

    sde = sd.VPSDE()

    def __init__(self, a: float) -> None:
        self.a = a

    def score(self, x, t, cond=None):
        return self.a * x


class Curved:
    """A smooth score of three coordinates whose Jacobian is not symmetric, with weights that are not random."""

    sde = sd.VPSDE()

    def __init__(self) -> None:
        self.w = torch.tensor([[0.5, -0.3, 0.2], [0.4, -0.8, 0.1], [-0.2, 0.6, 0.7]], dtype=torch.float64, requires_grad=True)

    def score(self, x, t, cond=None):
        return torch.tanh(x.flatten(1) @ self.w).reshape(x.shape) - 0.5 * x


def nodes(n: int, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Hermite nodes (n^dims, dims) and weights of N(0, I)."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    grids = torch.cartesian_prod(*[z] * dims).reshape(-1, dims), torch.cartesian_prod(*[w / w.sum()] * dims).reshape(-1, dims)
    return grids[0], grids[1].prod(1)


def signs(loss: SlicedScoreMatching | FiniteDifferenceScoreMatching, model: Curved, x: torch.Tensor) -> torch.Tensor:
    """The mean of a loss over all vectors of signs, which is its expectation over them, (b,)."""
    every = [torch.tensor(v, dtype=x.dtype).reshape(1, 1, *x.shape[1:]) for v in itertools.product((-1.0, 1.0), repeat=x[0].numel())]
    return torch.stack([loss.at(model, x, 0.5, noise=Replay([v.expand(len(x), *v.shape[1:]).clone()])) for v in every]).mean(0)


@pytest.fixture
def x(generator):
    return torch.randn(7, 3, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dims", [1, 3])
def test_the_exact_score_of_a_gaussian_has_the_loss_minus_1_over_2_s2_per_dimension(loss, dims):
    # systems.md A10 d: -2 for s^2 = 1/4. E|x|^2/(2 s^4) - d/s^2, exact for signs; (v.s)^2 too where all nodes have the same v
    z, w = nodes(2, dims)
    value = (w * loss.at(Linear(-4.0), 0.5 * z, 0.5, noise=torch.ones_like)).sum().item()
    assert value == pytest.approx(-2, rel=1e-9)


def test_the_exact_trace_is_the_jacobians(x):
    model = Curved()
    jacobian = torch.autograd.functional.jacobian(lambda y: model.score(y, 0.5).sum(0).flatten(), x)  # (3, b, 3, 1)
    trace = sum(jacobian[i, :, i, 0] for i in range(3))
    expected = (0.5 * model.score(x, 0.5).flatten(1).square().sum(1) + trace) / 3
    torch.testing.assert_close(EXACT.at(model, x, 0.5), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variance_reduction", [True, False])
def test_slices_by_signs_have_the_exact_trace_as_their_mean(x, variance_reduction):
    sliced = signs(SlicedScoreMatching(variance_reduction=variance_reduction), Curved(), x)
    torch.testing.assert_close(sliced, EXACT.at(Curved(), x, 0.5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variance_reduction", [True, False])
def test_slices_by_gaussians_have_the_exact_trace_as_their_mean(x, variance_reduction):
    # of second degree in v: two nodes per dimension integrate it exactly
    loss = SlicedScoreMatching(distribution="gaussian", variance_reduction=variance_reduction)
    v, w = nodes(2, 3)
    losses = [p * loss.at(Curved(), x, 0.5, noise=Replay([z.reshape(1, 1, 3, 1).expand(7, 1, 3, 1)])) for z, p in zip(v, w, strict=True)]
    torch.testing.assert_close(sum(losses), EXACT.at(Curved(), x, 0.5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_every_law_of_probes_is_unbiased(distribution, generator):
    n = 4000
    x = torch.tensor([[0.4, -1.1, 0.3]], dtype=torch.float64).expand(n, 3)
    losses = SlicedScoreMatching(distribution=distribution).at(Curved(), x, 0.5, noise=sd.noise.Stream(generator)).detach()
    error = losses.std().item() / math.sqrt(n)
    assert losses.mean().item() == pytest.approx(EXACT.at(Curved(), x[:1], 0.5).item(), abs=4 * error)
    assert error > 0


def test_more_probes_and_the_reduction_lower_the_variance_where_the_score_is_large(generator):
    # near 0 (v.s)^2 and v.J v can cancel: the reduction is no theorem
    x = torch.tensor([[4.0, -11.0, 3.0]], dtype=torch.float64).expand(4000, 3)
    options = ({"variance_reduction": False}, {}, {"probes": 4})
    plain, reduced, four = (
        SlicedScoreMatching(distribution="gaussian", **o).at(Curved(), x, 0.5, noise=sd.noise.Stream(generator)).var().item()
        for o in options
    )
    assert reduced < plain
    assert four == pytest.approx(reduced / 4, rel=0.15)


def test_finite_differences_are_slices_up_to_the_square_of_their_step(x):
    exact = EXACT.at(Curved(), x, 0.5)
    errors = [(signs(FiniteDifferenceScoreMatching(step=e), Curved(), x) - exact).abs().max().item() for e in (0.1, 0.05, 0.025)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("loss", [SlicedScoreMatching(), FiniteDifferenceScoreMatching(step=1e-4)], ids=repr)
def test_their_gradients_are_those_of_the_exact_objective(loss, x):
    model, exact = Curved(), Curved()
    (gradient,) = torch.autograd.grad(signs(loss, model, x).sum(), model.w)
    (expected,) = torch.autograd.grad(EXACT.at(exact, x, 0.5).sum(), exact.w)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
def test_it_can_be_evaluated_without_gradients(loss, x):
    with torch.no_grad():
        assert loss.at(Curved(), x, 0.5).isfinite().all()
        assert loss.at(Linear(-1.0), x, 0.5).shape == (7,)


def test_a_score_that_does_not_depend_on_the_state_has_no_divergence(x):
    class Constant(Curved):
        def score(self, x, t, cond=None):
            return (0 * x + 1).detach() * self.w[0, 0]

    torch.testing.assert_close(EXACT.at(Constant(), x, 0.5), torch.full((7,), 0.125, dtype=torch.float64))


def line(sigma: float, generator: torch.Generator) -> list[float]:
    """systems.md A11 d: the variance across a line that sliced score matching finds, after 100, 200 and 300 steps."""
    log_precision = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    class Model:
        sde = sd.VPSDE()

        def score(self, x, t, cond=None):
            return -log_precision.exp() * x

    optimizer, found = torch.optim.Adam([log_precision], 0.1), []
    for step in range(300):
        x = torch.randn(128, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, sigma])
        optimizer.zero_grad()
        SlicedScoreMatching().at(Model(), x, 0.0, noise=sd.noise.Stream(generator)).mean().backward()
        optimizer.step()
        if step % 100 == 99:
            found.append((-log_precision[1]).exp().item())
    return found


def test_on_a_line_the_score_across_it_grows_without_end(generator):
    # J = w^2 0/2 - w has no minimum in w = 1/variance: Adam's step of at least 0.1 in log w is taken for ever
    variances = [1.0, *line(0.0, generator)]
    assert all(b / a < math.exp(-10) for a, b in itertools.pairwise(variances))


def test_noise_of_001_on_the_line_is_learned(generator):
    assert line(0.01, generator)[-1] == pytest.approx(1e-4, rel=0.15)


def test_the_exact_trace_is_refused_beyond_64_dimensions():
    assert EXACT.at(Linear(-1.0), torch.zeros(2, 1, 8, 8), 0.5).tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"at most 64, and states of shape \(65,\) have 65; use SlicedScoreMatching"):
        EXACT.at(Linear(-1.0), torch.zeros(2, 65), 0.5)


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
def test_a_score_of_another_shape_is_refused(loss):
    class Flat(Linear):
        def score(self, x, t, cond=None):
            return x[:, 0]

    with pytest.raises(ValueError, match=r"the score has shape \(4,\) for states of shape \(4, 1\)"):
        loss.at(Flat(1.0), torch.zeros(4, 1), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedScoreMatching(steps=0), "steps must be a whole number, at least 1, got 0"),
        (lambda: SlicedScoreMatching(probes=0), "probes must be a whole number"),
        (lambda: SlicedScoreMatching(distribution="uniform"), "distribution must be 'rademacher', 'gaussian' or 'sphere', got 'uniform'"),
        (lambda: FiniteDifferenceScoreMatching(step=0), "step must be a positive number, got 0"),
        (lambda: FiniteDifferenceScoreMatching(distribution="cube"), "distribution must be"),
        (lambda: ImplicitScoreMatching(weighting="simple"), "weighting must be 'likelihood'"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [*OBJECTIVES, SlicedScoreMatching(steps=7, probes=2, distribution="sphere")], ids=repr)
def test_the_expression_builds_it_back(loss):
    names = {type(loss).__name__: type(loss)}
    assert sd.build(repr(loss), names) == loss


def test_a_network_without_a_condition_is_not_given_one(generator):
    from sde_diffusion.denoisers.score_network import ScoreNetwork

    class Plain(nn.Module):
        def forward(self, x, t):
            return -x * (1 + t[:, None])

    model = ScoreNetwork(Plain(), sd.VPSDE(), prior=False)
    losses = SlicedScoreMatching(steps=3)(model, torch.randn(5, 2, generator=generator), generator=generator)
    assert losses.shape == (5,)
