import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.grids import cosine, exponential, sigma_uniform, vp_power

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.CosineVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(100))]
CHAIN = sd.DDPMChain(sd.linear_betas(100))
GRIDS = [sd.uniform, sd.quadratic, sd.log_snr, sd.karras, sd.karras(rho=3.0), sigma_uniform, vp_power, vp_power(R=1.0), cosine]


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


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.CosineVPSDE()], ids=repr)
def test_vp_power_and_cosine_are_uniform_on_their_own_process(sde):
    grid = vp_power(R=1.0) if isinstance(sde, sd.VPSDE) else cosine
    torch.testing.assert_close(grid(sde, 12), sd.uniform(sde, 12), rtol=1e-9, atol=0)


@pytest.mark.parametrize("R", [1.5, 2.0, 3.0])
def test_vp_power_is_uniform_in_a_root_of_vp_time_and_has_the_same_noise_on_every_process(R):
    times = vp_power(sd.VPSDE(), 9, R=R)
    torch.testing.assert_close((times ** (1 / R)).diff(), (times ** (1 / R)).diff().mean().expand(9), rtol=1e-9, atol=0)
    edm = sd.EDMSDE(sigma_min=math.exp(-sd.VPSDE().log_snr(1e-3)), sigma_max=math.exp(-sd.VPSDE().log_snr(1.0)))
    torch.testing.assert_close(edm.log_snr(vp_power(edm, 9, R=R)), sd.VPSDE().log_snr(times), rtol=1e-9, atol=1e-9)


def test_vp_power_continues_vp_time_where_a_process_is_noisier_than_vp():
    # sigma/alpha = 999 at the flow's t_max; VP has 152 at t = 1
    noise = torch.exp(-sd.RectifiedFlow().log_snr(vp_power(sd.RectifiedFlow(), 8, R=1.0)))
    tau = sd.VPSDE().t_of_log_snr(-noise.log())
    assert tau[0] > 1.1
    torch.testing.assert_close(tau.diff(), tau.diff().mean().expand(8), rtol=1e-9, atol=0)


def test_the_cosine_grid_has_equal_angles_where_its_offset_vanishes():
    sde = sd.VESDE()
    angle = torch.atan(torch.exp(-sde.log_snr(cosine(sde, 10, s=1e-9))))
    torch.testing.assert_close(angle.diff(), angle.diff().mean().expand(10), rtol=1e-6, atol=0)


def test_exponential_is_k_diffusions_name_for_log_snr_and_sigma_uniform_has_equal_sigma_steps():
    sde = sd.VESDE()
    sigma = torch.exp(torch.linspace(sde.sigma(1.0).log().item(), sde.sigma(sde.t_min).log().item(), 11, dtype=torch.float64))
    torch.testing.assert_close(sde.sigma(exponential(sde, 10)), sigma, rtol=1e-9, atol=0)
    steps = sde.sigma(sigma_uniform(sde, 10)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10), rtol=1e-9, atol=0)


@pytest.mark.parametrize("grid", [sd.log_snr, sd.karras, sigma_uniform, vp_power, cosine], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3, 60])
def test_a_grid_in_sigma_reaches_a_chains_first_node_before_the_data(grid, n):
    times = grid(CHAIN, n)
    assert (times[0].item(), times[-1].item(), len(times)) == (1.0, 0.0, n + 1)
    assert n == 1 or times[-2].item() == pytest.approx(0.01, abs=1e-12)


def test_linear_and_quadratic_grids_of_a_thousand_steps_are_the_rounded_ones():
    # NumPy's own rounding of the same rule, between the nodes 1000 and 1
    chain = sd.DDPMChain(sd.linear_betas(1000))
    for n in (5, 10, 50):
        linear = sd.chain_grid(chain, n, t_min=1e-3) * 1000
        quadratic = sd.chain_grid(chain, n, spacing="quadratic", t_min=1e-3) * 1000
        assert linear.tolist() == pytest.approx(np.round(np.linspace(1000, 1, n + 1)).tolist())
        assert quadratic.tolist() == pytest.approx(np.round(np.linspace(1000**0.5, 1, n + 1) ** 2).tolist())


@pytest.mark.parametrize("n", [1, 3, 7, 50, 99, 100])
def test_trailing_and_leading_nodes_are_diffusers_timesteps_plus_one(n):
    # diffusers' rules, on timesteps 0 .. 99: trailing round(arange(T, 0, -T/n)) - 1, leading arange(n) (T // n) from the largest
    trailing = np.round(np.arange(100, 0, -100 / n))[:n] - 1
    leading = (np.arange(n) * (100 // n))[::-1]
    assert (sd.chain_grid(CHAIN, n, spacing="trailing") * 100).tolist() == pytest.approx([*(trailing + 1), 0])
    assert (sd.chain_grid(CHAIN, n, spacing="leading") * 100).tolist() == pytest.approx([*(leading + 1), 0])


def test_leading_starts_below_the_prior_and_sample_says_so():
    grid = sd.chain_grid(spacing="leading", steps_offset=1)
    assert grid(sd.DDPMChain(sd.linear_betas(1000)), 50)[0].item() == pytest.approx(0.982)
    denoiser = sd.GaussianDenoiser(0.0, 1.0, CHAIN)
    with pytest.raises(ValueError, match=r"the prior stands for t=1.*pass x="):
        sd.sample(denoiser, sd.DDIM(), shape=(2, 1), steps=10, grid=grid)
    assert sd.sample(denoiser, sd.DDIM(), x=torch.ones(2, 1), steps=10, grid=grid).isfinite().all()


@pytest.mark.parametrize("spacing", ["linear", "quadratic", "trailing"])
@pytest.mark.parametrize("n", [1, 7, 50, 99, 100])
def test_chain_grids_are_distinct_nodes_from_the_last_to_the_data(n, spacing):
    nodes = sd.chain_grid(sd.DDPMChain(sd.linear_betas(100)), n, spacing=spacing) * 100
    torch.testing.assert_close(nodes, nodes.round(), rtol=0, atol=1e-9)
    assert (nodes[0].item(), nodes[-1].item(), len(nodes)) == (100, 0, n + 1)


def test_a_grid_with_options_prints_as_the_expression_that_makes_it():
    assert repr(sd.karras) == "karras(rho=7.0)"
    assert repr(sd.uniform(t_min=0.1)) == "uniform(t_min=0.1)"
    assert (repr(vp_power(R=1.5)), repr(cosine), repr(exponential)) == ("vp_power(R=1.5)", "cosine(s=0.008)", "log_snr()")
    assert sd.build("karras(rho=3)") == sd.karras(rho=3)
    assert sd.build(repr(sd.chain_grid(spacing="quadratic", length=50))) == sd.chain_grid(spacing="quadratic", length=50)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sd.karras(sd.VPSDE(), 0), ValueError, "at least 1 step, got n=0"),
        (lambda: sd.karras(sigma=3), TypeError, "options rho"),
        (lambda: sd.karras(sd.VPSDE()), TypeError, r"takes \(sde, n\)"),
        (lambda: sd.karras(sd.VPSDE(), 5, rho=-1), ValueError, "rho must be a positive number, got -1"),
        (lambda: sd.chain_grid(sd.VPSDE(), 5), ValueError, "is not a chain"),
        (lambda: sd.chain_grid(sd.DDPMChain(sd.linear_betas(10)), 11), ValueError, "at most 10"),
        (lambda: sd.chain_grid(sd.VPSDE(), 5, length=10, spacing="cubic"), ValueError, "got 'cubic'"),
        (lambda: sd.chain_grid(CHAIN, 5, steps_offset=1), ValueError, "got 1 with 'linear'"),
        (lambda: sd.chain_grid(CHAIN, 100, spacing="leading", steps_offset=1), ValueError, "nodes 101, ..., 2 of 100 do not lie between"),
        (lambda: sd.chain_grid(sd.VPSDE(), 50, length=1000, spacing="leading"), ValueError, "do not lie between.*another t_min"),
        (lambda: sd.log_snr(sd.VPSDE(), 5, t_min=0.0), ValueError, "cannot reach t=0.*pass t_min > 0"),
        (lambda: cosine(sd.VPSDE(), 5, s=0.0), ValueError, "s must be a positive number"),
        (lambda: vp_power(sd.VPSDE(), 5, R=-1.0), ValueError, "R must be a positive number"),
        (lambda: sd.uniform(sd.VPSDE(), 5, t_max=2.0), ValueError, r"lie in \[0, 1\].*got 2"),
        (lambda: sd.uniform(sd.VPSDE(), 5, t_min=1.0, t_max=0.1), ValueError, "grid must decrease"),
    ],
)
def test_wrong_grids_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
