import math

import pytest
import torch

import sde_diffusion as sd

GRID = torch.tensor([1.0, 0.7, 0.3, 0.01], dtype=torch.float64)


def close(a: sd.Tableau, b: sd.Tableau, tolerance: float = 1e-12) -> bool:
    names = ("t", "p_x", "p_x0", "x", "p", "noise", "ends")
    return all(torch.allclose(getattr(a, n), getattr(b, n), 0, tolerance, equal_nan=True) for n in names)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.RectifiedFlow(), sd.CosineVPSDE()], ids=repr)
def test_ddim_with_eta_1_is_ancestral_sampling(sde):
    grid = sd.uniform(sde, 9)
    assert close(sd.DDIM(1.0).tableau(sde, grid), sd.Ancestral("posterior").tableau(sde, grid))


def test_ancestral_on_the_ladder_equals_reverse_diffusion_in_all_but_its_noise():
    # VE: A = 1, so both move x by Q/sigma_t^2 towards x0_hat
    sde = sd.VESDE().discretize(30)
    grid = sd.uniform(sde, 30)
    ancestral, reverse = sd.Ancestral("forward").tableau(sde, grid), sd.ReverseDiffusion().tableau(sde, grid)
    assert torch.allclose(ancestral.x, reverse.x, atol=1e-12)
    assert torch.allclose(ancestral.p, reverse.p, atol=1e-12)
    assert torch.allclose(ancestral.noise[:-1], reverse.noise[:-1], rtol=1e-12)
    assert ancestral.noise[-1] == 0
    assert reverse.noise[-1] == pytest.approx(0.01)


def test_heun_ends_with_an_euler_step_where_sigma_is_0():
    sde = sd.DDPMChain(sd.linear_betas(50))
    heun = sd.Heun().tableau(sde, sd.uniform(sde, 5))
    assert len(heun) == 9
    assert heun.ends[-1] == 0
    # the state's noise is taken away whole: x_0 = x/alpha - (sigma/alpha) epsilon
    assert heun.x[-1] * sde.sigma(heun.t[-1]) + heun.p[-1, 0] == pytest.approx(0.0, abs=1e-12)


def test_ddim_equals_the_euler_step_in_x_over_alpha_and_sigma_over_alpha():
    sde = sd.SubVPSDE()
    t, s = GRID[:-1], GRID[1:]
    ratio = (sde.sigma(s) / sde.alpha(s)) / (sde.sigma(t) / sde.alpha(t))
    table = sd.DDIM().tableau(sde, GRID)
    torch.testing.assert_close(table.x, sde.alpha(s) / sde.alpha(t) * ratio, rtol=1e-12, atol=0)
    torch.testing.assert_close(table.p[:, 0], sde.alpha(s) * (1 - ratio), rtol=1e-12, atol=1e-15)


SOLVERS = [sd.DDIM(), sd.Heun(), sd.Ancestral(), sd.Heun("t"), sd.EulerMaruyama(), sd.ReverseDiffusion()]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_state_equal_to_its_prediction_stays_under_ve(solver):
    sde = sd.VESDE()
    grid = sd.uniform(sde, 400)
    denoiser = sd.GaussianDenoiser(2.0, 0.0, sde)
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    end = sd.sample(denoiser, solver, x=x, grid=grid, noise=torch.zeros_like)
    assert end.item() == pytest.approx(2.0, abs=1e-9)


def test_a_table_prints_one_line_per_row_and_points_where_nothing_is():
    text = str(sd.Heun().tableau(sd.VPSDE(), GRID))
    assert len(text.splitlines()) == 7
    assert text.splitlines()[0].split() == ["t", "p_x", "p_x0", "x", "p", "p[-1]", "noise", "ends"]
    assert text.splitlines()[1].split()[-1] == "."


def test_tables_of_the_same_numbers_are_equal():
    assert sd.DDIM().tableau(sd.VPSDE(), GRID) == sd.DDIM().tableau(sd.VPSDE(), GRID)
    assert sd.DDIM().tableau(sd.VPSDE(), GRID) != sd.DDIM(0.5).tableau(sd.VPSDE(), GRID)


def test_final_denoise_adds_one_row():
    table = sd.FinalDenoise(sd.DDIM()).tableau(sd.VPSDE(), GRID)
    assert (table.t[-1].item(), table.x[-1].item(), table.p[-1].item(), table.ends[-1].item()) == (0.01, 0, 1, 0)


@pytest.mark.parametrize("solver", [sd.Langevin(), sd.AdaptiveODE(), sd.FinalDenoise(sd.DDIM())], ids=repr)
def test_dividing_by_a_sigma_of_0_is_refused_before_any_network_call(solver):
    sde = sd.DDPMChain(sd.linear_betas(50))
    called = []

    class Counting(sd.GaussianDenoiser):
        def forward(self, x, t, cond=None):
            called.append(t)
            return super().forward(x, t, cond)

    with pytest.raises(ValueError, match=r"t_min > 0"):
        sd.sample(Counting(0.0, 1.0, sde), solver, shape=(2, 1), grid=sd.uniform(sde, 5))
    assert not called


def test_wrong_shapes_and_dtypes_are_refused():
    n = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="p must be float64"):
        sd.Tableau(t=n, x=n, p=n, noise=n, ends=n)
    with pytest.raises(ValueError, match="noise must be float64"):
        sd.Tableau(t=n, x=n, p=n[:, None], noise=n.float(), ends=n)
    with pytest.raises(ValueError, match="not finite"):
        sd.Tableau(t=n, x=n / 0, p=n[:, None], noise=n, ends=n)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.EulerMaruyama(eta=-1), "eta must be between 0"),
        (lambda: sd.EulerMaruyama(eta=math.inf), "eta must be between 0"),
        (lambda: sd.Langevin(steps=1.5), "steps must be a whole number, at least 1, got 1.5"),
        (lambda: sd.AnnealedLangevin(steps=0), "steps must be a whole number, at least 1, got 0"),
        (lambda: sd.DDIM(eta=2), "eta must be between 0"),
        (lambda: sd.Ancestral("beta"), "'analytic' or 'learned', got 'beta'"),
        (lambda: sd.Heun("rho"), "'t', got 'rho'"),
        (lambda: sd.Langevin(norm="l2"), "got 'l2'"),
        (lambda: sd.Langevin(snr=0), "snr must be a positive number, got 0"),
        (lambda: sd.AnnealedLangevin(epsilon=-1), "epsilon must be a positive number"),
        (lambda: sd.PredictorCorrector(first="both"), "got 'both'"),
        (
            lambda: sd.PredictorCorrector(sd.Langevin(), sd.DDIM()),
            "got Langevin.* and DDIM.*; swap them",
        ),
        (lambda: sd.AdaptiveODE("euler"), "got 'euler'"),
        (lambda: sd.AdaptiveODE(rtol=math.nan), "rtol must be a positive number"),
    ],
)
def test_wrong_options_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
