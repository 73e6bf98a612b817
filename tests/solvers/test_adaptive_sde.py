"""The adaptive SDE solver: the law it samples, and what rejections do to it."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.adaptive_sde import AdaptiveSDE

ANGLES = torch.arange(8, dtype=torch.float64) * torch.pi / 4
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
CHI2_99 = 18.48  # chi-square of 7 degrees of freedom


def modes(denoiser: sd.Denoiser, centers: torch.Tensor, solver: sd.Solver, n: int, seed: int = 0) -> tuple[float, float, sd.Step]:
    """Chi-square of the modes' weights, standard deviation within the modes, and the last step."""
    seen: list[sd.Step] = []
    generator = torch.Generator().manual_seed(seed)
    shape = (n, centers.shape[1])
    x = sd.sample(denoiser, sd.FinalDenoise(solver), shape=shape, generator=generator, callback=seen.append).double()
    mode = torch.cdist(x, centers).argmin(1)
    expected = n / len(centers)
    chi2 = ((torch.bincount(mode, minlength=len(centers)) - expected) ** 2 / expected).sum().item()
    return chi2, (x - centers[mode]).std().item(), seen[-1]


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.02, 0.05, 0.1])
def test_the_weights_of_modes_survive_rejections_on_one_path_and_not_with_fresh_noise(rtol):
    # systems.md D2: 3.5, 9.3, 4.4 against 58.8, 141.9, 147.6
    ring = sd.GaussianMixtureDenoiser(RING, 0.1, None, sd.VPSDE())
    kept, _, step = modes(ring, RING, AdaptiveSDE(rtol=rtol), 10_000)
    fresh, _, _ = modes(ring, RING, AdaptiveSDE(rtol=rtol, rejection="fresh"), 10_000)
    assert kept < CHI2_99
    assert fresh > 3 * CHI2_99
    steps = (step.evaluations.double() - 1) / 2  # FinalDenoise's call
    assert 0.3 < step.rejected.sum() / steps.sum() < 0.5  # D2: 0.44 of all attempts in two dimensions


@pytest.mark.slow
@pytest.mark.parametrize(("d", "evaluations"), [(64, 192), (256, 161)])
def test_in_many_dimensions_it_costs_half_of_euler_maruyama(d, evaluations):
    # D2's bench GD, where it measured these evaluations with a std of .1000 and .0995; Euler-Maruyama's is .1000 at 400 and .1003 at 400
    centers = 1.4 * torch.rand(8, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.7
    denoiser = sd.GaussianMixtureDenoiser(centers, 0.1, None, sd.VPSDE())
    chi2, std, step = modes(denoiser, centers, AdaptiveSDE(rtol=0.05), 500)
    assert step.evaluations.double().mean() == pytest.approx(evaluations, rel=0.05)
    assert std == pytest.approx(0.1, abs=0.0015)
    assert chi2 < CHI2_99


SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(sigma_max=5.0), sd.DDPMChain(sd.linear_betas(100, 1e-3, 0.2))]


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_gaussian_data_come_out_as_they_went_in(sde):
    n, mean, std = 1000, torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.2])
    denoiser = sd.GaussianDenoiser(mean, std, sde)
    x, fresh = (sd.sample(denoiser, AdaptiveSDE(rejection=r), shape=(n, 2), seeds=range(n)) for r in ("brownian", "fresh"))
    t_min = sde.t_min if sde.length is None else 1 / sde.length
    law = torch.hypot(sde.alpha(t_min) * std, sde.sigma(t_min))
    # 4 standard errors, and the steps' own error at rtol = 0.05
    assert ((x.mean(0) - sde.alpha(t_min) * mean).abs() < 4 * law / math.sqrt(n) + 0.01).all()
    assert ((x.std(0) - law).abs() < 4 * law / math.sqrt(2 * n) + 0.01).all()
    assert (fresh.std(0) > x.std(0) + 4 * law / math.sqrt(2 * n) / 2).all()  # 0.54 to 0.68 and 0.22 to 0.31 at n = 4000


def test_without_noise_the_error_follows_the_tolerance():
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sd.VPSDE())
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    exact = sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-9, atol=1e-9), x=x)
    errors = [(sd.sample(denoiser, AdaptiveSDE(rtol=r, atol=r, eta=0), x=x) - exact).abs().max() for r in (1e-2, 1e-4)]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 30


@pytest.mark.parametrize("rejection", ["brownian", "fresh"])
def test_a_sample_depends_on_its_own_seed_and_not_on_its_companions(rejection):
    ring = sd.GaussianMixtureDenoiser(RING, 0.1, None, sd.VPSDE())
    solver, grid = AdaptiveSDE(rejection=rejection), [1.0, 0.3, 0.2, 1e-3]
    _, whole = sd.trajectory(ring, solver, shape=(40, 2), seeds=range(40), grid=grid)
    for i in (0, 7, 39):
        _, alone = sd.trajectory(ring, solver, shape=(1, 2), seeds=[i], grid=grid)
        torch.testing.assert_close(whole[:, i : i + 1], alone, rtol=1e-9, atol=1e-9)  # rounding, after 200 steps that follow it


def test_samples_that_have_arrived_leave_the_batch_with_their_condition():
    sizes = []

    class Watching(sd.GaussianMixtureDenoiser):
        def forward(self, x, t, cond=None):
            assert len(t) == len(x) == len(cond["who"]) == len(cond["pair"][0])
            sizes.append(len(x))
            return super().forward(x, t)

    n, seen = 64, []
    ring, who = Watching(RING, 0.1, None, sd.VPSDE()), torch.arange(n)
    cond = {"who": who, "pair": (who, "text", None)}
    x = sd.sample(ring, AdaptiveSDE(), shape=(n, 2), seeds=range(n), cond=cond, callback=seen.append)
    assert sum(sizes) == seen[-1].evaluations.sum() < 0.9 * n * len(sizes)
    assert len(sizes) == seen[-1].nfe == seen[-1].evaluations.max()
    stay = AdaptiveSDE(compact=False)
    sizes.clear()
    torch.testing.assert_close(sd.sample(ring, stay, shape=(n, 2), seeds=range(n), cond=cond), x, rtol=1e-9, atol=1e-9)
    assert set(sizes) == {n}


def test_states_are_reported_at_the_times_of_the_grid_and_no_call_lies_outside():
    called, seen = [], []

    class Watching(sd.GaussianDenoiser):
        def forward(self, x, t, cond=None):
            called.append(t)
            return super().forward(x, t)

    n, grid = 2000, [1.0, 0.7, 0.5, 0.2]
    sde = sd.VPSDE()
    times, path = sd.trajectory(Watching(0.5, 0.5, sde), AdaptiveSDE(), shape=(n, 1), seeds=range(n), grid=grid, callback=seen.append)
    assert times.tolist() == grid
    assert [step.i for step in seen] == [1, 2, 3]
    assert torch.cat(called).min() >= 0.2
    assert torch.cat(called).max() <= 1.0
    for t, x in zip(grid, path, strict=True):
        mean, std = 0.5 * sde.alpha(t), torch.hypot(0.5 * sde.alpha(t), sde.sigma(t))
        assert (x.mean() - mean).abs() < 4 * std / math.sqrt(n) + 0.01
        assert (x.std() - std).abs() < 4 * std / math.sqrt(2 * n) + 0.01


def test_what_cannot_be_is_an_error_that_says_why():
    denoiser = sd.GaussianDenoiser(0.0, 0.5, sd.VPSDE())
    with pytest.raises(ArithmeticError, match=r"made 20 network calls and has not arrived at t=0.001; raise rtol"):
        sd.sample(denoiser, AdaptiveSDE(max_nfe=20), shape=(2, 1), seeds=[0, 1])
    with pytest.raises(ArithmeticError, match=r"cannot meet its tolerance at t=1 \(sample 0, error nan"):
        sd.sample(sd.GaussianDenoiser(math.nan, 0.5, sd.VPSDE()), AdaptiveSDE(), shape=(2, 1), seeds=[0, 1])
    with pytest.raises(ValueError, match="cannot be corrected"):
        sd.sample(denoiser, sd.PredictorCorrector(AdaptiveSDE()), shape=(2, 1), seeds=[0, 1], steps=2)
    with pytest.raises(ValueError, match="has no table"):
        AdaptiveSDE().tableau(sd.VPSDE(), torch.tensor([1.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0}, "rtol must be a positive number, got 0"),
        ({"eta": -1}, "eta must be between 0"),
        ({"rejection": "new"}, "rejection must be 'brownian' or 'fresh', got 'new'"),
        ({"max_nfe": 1}, "max_nfe must be at least 2, the calls of one step, got 1"),
    ],
)
def test_wrong_options_are_refused_with_their_value(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveSDE(**options)


def test_it_prints_as_what_makes_it():
    for solver in (AdaptiveSDE(), AdaptiveSDE(0.1, 1e-3, 0.5, "fresh", 99, False)):
        assert sd.build(repr(solver), {"AdaptiveSDE": AdaptiveSDE}) == solver
