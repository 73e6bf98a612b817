"""Traces and their estimates: unbiased, with standard errors that tell the truth."""

import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.denoisers import Denoiser
from sde_diffusion.likelihood.hutchinson import _BETA, DISTRIBUTIONS
from sde_diffusion.solvers.adaptive import PAIRS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _problems import mix64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def mixture():
    """A mixture in 16 dimensions, points of it, and their exact log-likelihoods."""
    denoiser = mix64(sd.VPSDE(), dimension=16)
    x = denoiser.sample_data(200, generator=generator(1))
    return denoiser, x, sd.log_likelihood(denoiser, x, rtol=1e-4, atol=1e-4).nats


def estimates(mixture, *, seeds=4, **options):
    """Errors and standard errors, (seeds, b)."""
    denoiser, x, truth = mixture
    found = [
        sd.log_likelihood(denoiser, x, method="hutchinson", rtol=1e-4, atol=1e-4, generator=generator(seed), **options)
        for seed in range(seeds)
    ]
    return torch.stack([f.nats - truth for f in found]), torch.stack([f.standard_error for f in found])


def test_the_weights_are_of_order_4_along_the_stages_of_dopri5():
    pair = PAIRS["dopri5"]
    n = len(pair.a) + 1
    a = torch.zeros(n, n, dtype=torch.float64)
    for i, row in enumerate(pair.a, start=1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    beta, c = torch.tensor(_BETA, dtype=torch.float64), a.sum(1)
    trees = [(torch.ones_like(c), 1), (c, 2), (c**2, 3), (a @ c, 6), (c**3, 4), (c * (a @ c), 8), (a @ c**2, 12), (a @ a @ c, 24)]
    for tree, density in trees:
        assert beta @ tree == pytest.approx(1 / density, abs=1e-14)
    assert beta[1] == 0
    assert beta @ beta < 0.45 < 0.75 < sum(b**2 for b in pair.a[-1])


@pytest.mark.parametrize("options", [{"distribution": d} for d in DISTRIBUTIONS] + [{"probes": 4, "directions": 2}], ids=str)
def test_estimates_are_unbiased_and_their_standard_errors_cover(mixture, options):
    error, standard_error = estimates(mixture, **options)
    assert error.mean().abs() < 3.5 * error.std() / error.numel() ** 0.5
    assert 0.90 < (error.abs() < 1.96 * standard_error).double().mean() < 0.985


@pytest.mark.parametrize("probes", [2, 8])
def test_several_probes_have_one_path_smaller_errors_and_covering_intervals(mixture, probes):
    denoiser, x, _ = mixture
    one, _ = estimates(mixture)
    several, standard_error = estimates(mixture, probes=probes)
    assert several.std() / one.std() == pytest.approx(probes**-0.5, rel=0.15)
    assert 0.90 < (several.abs() < 1.96 * standard_error).double().mean() < 0.98
    counter = sd.NFECounter(denoiser)
    found = sd.log_likelihood(counter, x[:5], method="hutchinson", probes=probes, rtol=1e-3, atol=1e-3, generator=generator())
    assert counter.nfe == found.calls


def test_fresh_probes_err_less_than_half_as_much_as_one_for_the_whole_path(mixture):
    class Same:
        """One draw for ever, as FFJORD and score_sde have it."""

        def __init__(self, seed):
            self.seed = seed

        def __call__(self, x):
            return torch.randn(x.shape, generator=generator(self.seed), dtype=x.dtype)

    denoiser, x, truth = mixture
    same = torch.stack(
        [sd.log_likelihood(denoiser, x, method="hutchinson", rtol=1e-4, atol=1e-4, noise=Same(s)).nats - truth for s in range(4)]
    )
    fresh, _ = estimates(mixture)
    assert fresh.std() < 0.5 * same.std()


def test_all_orthogonal_probes_are_the_exact_trace(mixture):
    denoiser, x, _ = mixture
    options = {"rtol": 1e-6, "atol": 1e-6}  # where weights of order 4 and 5 agree
    exact = sd.log_likelihood(denoiser, x[:50], **options)
    found = sd.log_likelihood(denoiser, x[:50], method="hutchinson", probes=16, distribution="orthogonal", generator=generator(), **options)
    assert (found.nats - exact.nats).abs().max() < 1e-3
    assert found.standard_error.max() < 1e-6


def test_directions_pay_where_few_are_steep(mixture):
    plain, _ = estimates(mixture, probes=4)
    deflated, _ = estimates(mixture, probes=4, directions=2)
    assert deflated.std() < 0.85 * plain.std()


def test_gaussian_probes_are_nearly_as_good_as_signs_once_the_diagonal_is_known(mixture):
    signs, _ = estimates(mixture, probes=4)
    gaussian, _ = estimates(mixture, probes=4, distribution="gaussian")
    assert gaussian.std() < 1.15 * signs.std()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_one_dimension_needs_no_chance(distribution):
    denoiser = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], 0.2, None, sd.VPSDE())
    x = denoiser.sample_data(20, generator=generator())
    found = sd.log_likelihood(denoiser, x, method="hutchinson", distribution=distribution, generator=generator())
    assert (found.nats - sd.log_likelihood(denoiser, x).nats).abs().max() < 2e-3
    assert found.standard_error.max() < 1e-6


@pytest.mark.parametrize("sde", [sd.VESDE(0.01, 5.0), sd.SubVPSDE()], ids=lambda s: type(s).__name__)
def test_the_trace_by_products_is_the_closed_form_and_follows_a_change_of_variables(sde):
    denoiser = mix64(sd.VPSDE(), dimension=6)
    x, t = denoiser.sample_data(9, generator=generator()), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    for belief in (denoiser, denoiser.under(sde), sd.NFECounter(denoiser)):
        x0_hat, trace = belief.jacobian_trace(x, t)
        with torch.no_grad():
            products_x0, products = Denoiser.jacobian_trace(belief, x, t)
        assert torch.allclose(trace, products, rtol=1e-9)
        assert torch.allclose(x0_hat, products_x0)
        assert not products_x0.requires_grad
