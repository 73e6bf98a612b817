"""Tables O1 and O2 and row A16 of the project's oracle collection, by exact propagation: one-dimensional data N(1, 0.25)."""

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal

STEPS = (10, 20, 50, 100, 200, 1000)

# mean/variance after n uniform steps 1 -> 1e-3 of VP(0.1, 20) from N(0, 1); derived independently of this package in NumPy float64
VP = {
    sd.EulerMaruyama(): "1.0591/.3273 1.0291/.2753 1.0117/.2583 1.0059/.2539 1.0029/.2519 1.0005/.2504",
    sd.ReverseDiffusion(): ".9198/.4406 .9671/.3344 .9885/.2813 .9945/.2652 .9973/.2576 .9994/.2516",
    sd.Ancestral("forward"): ".9999/.3470 .9999/.2961 .9999/.2677 .9999/.2587 .9999/.2544 .9999/.2509",
    sd.Ancestral("posterior"): ".9999/.1112 .9999/.1534 .9999/.1974 .9999/.2194 .9999/.2332 .9999/.2463",
    sd.DDIM(): ".9975/.1402 .9971/.1883 .9968/.2234 .9968/.2364 .9967/.2431 .9967/.2487",
    sd.EulerMaruyama(eta=0): "1.0249/.2370 1.0116/.2411 1.0029/.2459 .9998/.2479 .9982/.2490 .9970/.2499",
    sd.Heun(form="t"): ".9863/.2613 .9938/.2532 .9962/.2506 .9965/.2502 .9966/.2501 .9967/.2501",
}

# n levels of VE(0.01, 50) from N(0, 50^2): n moves on the ladder, n - 1 between its levels
LEVELS = (20, 50, 100, 200, 1000)
VE_LADDER = {sd.ReverseDiffusion(): ".4046 .2990 .2728 .2610 .2521", sd.Ancestral(): ".1650 .2111 .2296 .2395 .2478"}
VE_MOVES = {
    sd.EulerMaruyama(): ".2664 .2525 .2507 .2503 .2501",
    sd.EulerMaruyama(eta=0): ".0101 .0926 .1573 .1998 .2394",
    sd.Heun(): ".2644 .2521 .2505 .2502 .2501",
}


def law(denoiser: sd.GaussianDenoiser, solver: sd.Solver, grid: torch.Tensor) -> tuple[float, float]:
    mean, variance = gaussian_law(solver.tableau(denoiser.sde, grid), denoiser, mean=0, std=denoiser.sde.prior_std)
    return mean.item(), variance.item()


@pytest.mark.parametrize(("solver", "row"), VP.items(), ids=repr)
def test_vp_table_is_reproduced_to_the_printed_digits(solver, row):
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.VPSDE())
    for n, entry in zip(STEPS, row.split(), strict=True):
        mean, variance = law(denoiser, solver, sd.uniform(denoiser.sde, n))
        assert (f"{mean:.4f}", f"{variance:.4f}") == tuple(f"{float(number):.4f}" for number in entry.split("/"))


@pytest.mark.parametrize(("solver", "row"), VE_LADDER.items(), ids=repr)
def test_ve_table_is_reproduced_on_the_ladder(solver, row):
    for n, entry in zip(LEVELS, row.split(), strict=True):
        denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.VESDE().discretize(n))
        mean, variance = law(denoiser, solver, sd.uniform(denoiser.sde, n))
        assert f"{variance:.4f}" == f"{float(entry):.4f}"
        assert mean == pytest.approx(0.9999, abs=1e-4)


@pytest.mark.parametrize(("solver", "row"), VE_MOVES.items(), ids=repr)
def test_ve_table_is_reproduced_between_the_levels(solver, row):
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.VESDE())
    for n, entry in zip(LEVELS, row.split(), strict=True):
        _, variance = law(denoiser, solver, sd.uniform(denoiser.sde, n - 1, t_min=0.0))
        assert f"{variance:.4f}" == f"{float(entry):.4f}"


def test_every_eta_has_the_same_marginals_and_a_larger_one_forgets_the_prior_error():
    # row A16 at n = 4000; the truth is .99995/.25008
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.VPSDE())
    expected = {0.0: (0.9967, 0.2500), 0.5: (0.9993, 0.2501), 1.0: (1.0001, 0.2502), 1.5: (1.0001, 0.2503)}
    for eta, (mean, variance) in expected.items():
        got = law(denoiser, sd.EulerMaruyama(eta), sd.uniform(denoiser.sde, 4000))
        assert tuple(round(value, 4) for value in got) == (mean, variance)


@pytest.mark.parametrize("solver", [sd.EulerMaruyama(0.7), sd.Heun(), sd.AnnealedLangevin(epsilon=1e-3, steps=3)], ids=repr)
def test_the_law_is_that_of_the_loop(solver):
    # The loop on basis vectors reads off the affine map that it is; n draws, so 2 + n vectors.
    denoiser = sd.GaussianDenoiser([1.0, -0.4], [0.5, 1.2], sd.VPSDE())
    grid = sd.quadratic(denoiser.sde, 7)
    tableau = solver.tableau(denoiser.sde, grid)
    draws = int((tableau.noise != 0).sum())
    basis = torch.zeros(2 + draws, 2, dtype=torch.float64)
    basis[1] = 1
    one_hot = [torch.zeros_like(basis).index_fill_(0, torch.tensor(2 + j), 1.0) for j in range(draws)]
    end = sd.sample(denoiser, solver, x=basis, grid=grid, noise=sd.Replay(one_hot))
    a, b, c = end[0], end[1] - end[0], end[2:] - end[0]
    mean, std = marginal(denoiser, 1.0)
    got_mean, got_variance = gaussian_law(tableau, denoiser, mean=mean, std=std)
    torch.testing.assert_close(got_mean, a + b * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_variance, (b * std) ** 2 + (c**2).sum(0), rtol=1e-12, atol=1e-12)
