"""Forms that are as others published them, without those others: first steps, and where the denoiser is asked."""

import pytest
import torch

import sde_diffusion as sd

VP, VE = sd.VPSDE(), sd.VESDE(0.02, 20.0)


def test_starting_with_heun_is_heuns_step_and_then_equal_steps_weights():
    sde, n = VP, 7
    denoiser = sd.GaussianMixtureDenoiser([[1.0, -1.0], [-1.0, 0.5]], 0.3, [0.7, 0.3], sde)
    grid, x = sd.karras(sde, n), torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sd.sample(denoiser, sd.IPNDM(4, start="heun"), x=x, grid=grid)
    rho = (sde.sigma(grid) / sde.alpha(grid)).tolist()

    def slope(y: torch.Tensor, i: int) -> torch.Tensor:
        return denoiser.eps(y * sde.alpha(grid[i]), grid[i])

    y = x / sde.alpha(grid[0])
    slopes = [slope(y, 0)]
    y = y + (rho[1] - rho[0]) * (slopes[0] + slope(y + (rho[1] - rho[0]) * slopes[0], 1)) / 2
    weights = [[], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    for i in range(1, n):
        slopes.insert(0, slope(y, i))
        y = y + (rho[i + 1] - rho[i]) * sum(w * s for w, s in zip(weights[min(i, 3)], slopes, strict=False))
    torch.testing.assert_close(ours, y * sde.alpha(grid[-1]), rtol=0, atol=1e-11)
    assert len(sd.IPNDM(4, start="heun").tableau(sde, grid).calls) == n + 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_starting_with_heun_works_on_grids_shorter_than_the_order(n):
    table, heun = (solver.tableau(VP, sd.karras(VP, n)) for solver in (sd.IPNDM(4, start="heun"), sd.Heun()))
    assert len(table.calls) == n + 1
    assert torch.equal(table[:2].p[:, :2], heun[:2].p)


@pytest.mark.parametrize("solver", [sd.Churn(sd.Heun(), s_max=100.0), sd.Churn(sd.Euler()), sd.Renoise(sd.DPMSolver(3))], ids=repr)
def test_no_denoiser_is_asked_outside_the_times_of_its_process(solver):
    # a lift above t_max and a stage below t_min are levels that no network has been trained on
    for sde in (VE, VP, sd.EDMSDE(), sd.RectifiedFlow()):
        for grid in (sd.karras(sde, 12), sd.log_snr(sde, 5)):
            times = solver.tableau(sde, grid).calls
            assert times.min() >= sde.t_min - 1e-12
            assert times.max() <= sde.t_max + 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.IPNDM(start="rk4"), "start must be 'euler' or 'heun', got 'rk4'"),
        (lambda: sd.IPNDM(published=True), "set variable_step=True"),
        (lambda: sd.DPMSolverPP(form="velocity"), "'epsilon', got 'velocity'"),
    ],
)
def test_wrong_options_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
