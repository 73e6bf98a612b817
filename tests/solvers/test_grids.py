import pytest
import torch

import sde_diffusion as sd

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.CosineVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100))]
GRIDS = [sd.uniform, sd.quadratic, sd.log_snr, sd.karras, sd.karras(rho=3.0)]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_a_grid_decreases_in_float64_from_t_max_to_t_min(grid, sde):
    times = grid(sde, 10)
    assert times.dtype == torch.float64
    assert times.shape == (11,)
    assert (times[1:] < times[:-1]).all()
    assert (times[0].item(), times[-1].item()) == (sde.t_max, sde.t_min)


def test_uniform_times_of_the_edm_sde_are_karras_grid():
    # Karras et al. 2022, eq 5
    sde, n = sd.EDMSDE(), 18
    i = torch.arange(n, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sde.sigma(sd.uniform(sde, n - 1)), sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(sd.karras(sde, n - 1)), sigma, rtol=1e-10, atol=0)


def test_log_snr_steps_are_equal():
    sde = sd.SubVPSDE()
    steps = sde.log_snr(sd.log_snr(sde, 12)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(12), rtol=1e-9, atol=0)


def test_on_a_chain_uniform_times_are_its_nodes_and_grids_in_sigma_end_with_its_first_step():
    sde = sd.DDPMChain(sd.linear_betas(100))
    torch.testing.assert_close(sd.uniform(sde, 100) * 100, torch.arange(100, -1, -1, dtype=torch.float64), rtol=0, atol=1e-9)
    assert sd.karras(sde, 5)[-2].item() == pytest.approx(0.01)


@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
@pytest.mark.parametrize("n", [1, 7, 50, 99, 100])
def test_chain_grids_are_distinct_nodes_from_the_last_to_the_data(n, spacing):
    nodes = sd.chain_grid(sd.DDPMChain(sd.linear_betas(100)), n, spacing=spacing) * 100
    torch.testing.assert_close(nodes, nodes.round(), rtol=0, atol=1e-9)
    assert (nodes[0].item(), nodes[-1].item(), len(nodes)) == (100, 0, n + 1)


def test_a_grid_with_options_prints_as_the_expression_that_makes_it():
    assert repr(sd.karras) == "karras(rho=7.0)"
    assert repr(sd.uniform(t_min=0.1)) == "uniform(t_min=0.1)"
    assert sd.build("karras(rho=3)") == sd.karras(rho=3)
    assert sd.build(repr(sd.chain_grid(spacing="quadratic", length=50))) == sd.chain_grid(spacing="quadratic", length=50)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.karras(sd.VPSDE(), 0), ValueError, "at least 1 step, got n=0"),
        (lambda: sd.karras(sigma=3), TypeError, "options rho"),
        (lambda: sd.karras(sd.VPSDE()), TypeError, r"takes \(sde, n\)"),
        (lambda: sd.karras(sd.VPSDE(), 5, rho=-1), ValueError, "rho must be positive"),
        (lambda: sd.chain_grid(sd.VPSDE(), 5), ValueError, "is not a chain"),
        (lambda: sd.chain_grid(sd.DDPMChain(sd.linear_betas(10)), 11), ValueError, "at most 10"),
        (lambda: sd.chain_grid(sd.VPSDE(), 5, length=10, spacing="cubic"), ValueError, "got 'cubic'"),
        (lambda: sd.uniform(sd.VPSDE(), 5, t_max=2.0), ValueError, r"lie in \[0, 1\].*got 2"),
        (lambda: sd.uniform(sd.VPSDE(), 5, t_min=1.0, t_max=0.1), ValueError, "grid must decrease"),
    ],
)
def test_wrong_grids_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
