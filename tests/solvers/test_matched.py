"""Few-step samplers with noise, fitted by their law: on data whose law is known."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law
from sde_diffusion.solvers.matched import _Steps, mmd

VP = sd.VPSDE()
ANGLES = torch.arange(8, dtype=torch.float64) * math.pi / 4
CENTERS = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def ring():
    return sd.GaussianMixtureDenoiser(CENTERS, 0.1, None, VP)


def draws(denoiser, table, n=4096):
    x = VP.prior_sample((n, 2), generator=generator(50), dtype=torch.float64)
    return sd.sample(denoiser, table, x=x, generator=generator(51))


def chi_square(x):
    counts = torch.bincount(torch.cdist(x, CENTERS).argmin(1), minlength=8).double()
    return float(((counts - len(x) / 8) ** 2 / (len(x) / 8)).sum())


@pytest.fixture(scope="module")
def matched():
    return sd.match(ring(), 5, ring().sample_data(2048, generator=generator(0)), iterations=120, generator=generator(1))


@pytest.mark.parametrize("kernel", ["polynomial", "energy"])
def test_five_steps_have_half_the_discrepancy_of_ddim_on_fresh_data_and_noise(matched, kernel):
    fresh = ring().sample_data(4096, generator=generator(2))
    base = sd.DDIM(eta=1.0).tableau(VP, sd.vp_power(VP, 5))
    ours, theirs = (float(mmd(draws(ring(), table), fresh, kernel=kernel)) for table in (matched.table, base))
    assert matched.improved
    assert ours < 0.5 * theirs


def test_no_mode_is_lost(matched):
    assert chi_square(draws(ring(), matched.table)) < 24.3  # 0.1 % of chance, 7 degrees of freedom


def test_on_gaussian_data_the_exact_law_is_nearer():
    denoiser = sd.GaussianDenoiser([0.0], 0.5, VP)
    data = denoiser.sample_data(2048, generator=generator(3))
    found = sd.match(denoiser, 3, data, iterations=150, kernel="polynomial", generator=generator(4))
    base = sd.DDIM(eta=1.0).tableau(VP, sd.vp_power(VP, 3))
    off = [abs(float(gaussian_law(table, denoiser, mean=0.0, std=VP.prior_std)[1]) ** 0.5 - 0.5) for table in (found.table, base)]
    assert off[0] < 0.3 * off[1]


def test_before_the_fit_it_is_ddim():
    grid = sd.vp_power(VP, 4)
    start, ddim = _Steps(ring(), grid, 0.7).table(), sd.DDIM(eta=0.7).tableau(VP, grid)
    torch.testing.assert_close(start.x[1:], ddim.x, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(start.p[1:], ddim.p, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(start.noise[1:], ddim.noise, rtol=1e-6, atol=1e-9)


def test_the_table_is_what_was_differentiated(matched):
    steps = _Steps(ring(), sd.vp_power(VP, 4), 0.8)
    with torch.no_grad():
        steps.v += 0.2 * torch.randn(steps.v.shape, generator=generator(6), dtype=torch.float64)
        x = VP.prior_sample((32, 2), generator=generator(7), dtype=torch.float64)
        direct = steps.run(x, sd.Stream(generator(8)), None)
    torch.testing.assert_close(sd.sample(ring(), steps.table(), x=x, generator=generator(8)), direct, rtol=1e-9, atol=1e-9)


def test_the_estimate_is_unbiased():
    a, b = (torch.randn(2000, 1, generator=generator(s), dtype=torch.float64) for s in (10, 11))
    m = 0.5
    # features of the kernel: x^3, sqrt(3) x^2, sqrt(3) x; their means differ by m^3 + 3 m, sqrt(3) m^2 and sqrt(3) m
    expected = (m**3 + 3 * m) ** 2 + 3 * m**4 + 3 * m**2
    assert abs(float(mmd(a, b))) < 0.1  # five standard deviations of the mean of the features' products
    assert abs(float(mmd(a + m, b)) - expected) < 0.25 * expected


def test_what_does_not_improve_is_not_used():
    data = ring().sample_data(64, generator=generator(0))
    found = sd.match(ring(), 12, data, iterations=1, batch=2, generator=generator(1))
    assert found.mmd <= found.base_mmd
    if not found.improved:
        assert found.table == sd.DDIM(eta=1.0).tableau(VP, sd.vp_power(VP, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.0}, "eta"),
        ({"eta": 1.5}, "eta must be at most 1"),
        ({"kernel": "rbf"}, "kernel must be"),
        ({"nfe": 1}, "nfe >= 2"),
        ({"data": torch.zeros(4, 2)}, "at least 16 data"),
    ],
)
def test_what_cannot_be_matched_is_refused(options, message):
    options = {"nfe": 3, "data": ring().sample_data(32, generator=generator(0)), **options}
    with pytest.raises(ValueError, match=message):
        sd.match(ring(), options.pop("nfe"), options.pop("data"), iterations=1, batch=8, **options)
