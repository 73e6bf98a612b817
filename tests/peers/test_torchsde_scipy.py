"""torchsde's and SciPy's integrators on `sde.reverse(...)`, in float64."""

from unittest import mock

import _peers
import pytest
import torch
import torchsde
from scipy.integrate import solve_ivp

import sde_diffusion as sd

SDES = [sd.VPSDE(), sd.VESDE(0.02, 20.0), sd.RectifiedFlow(t_max=0.9)]
TOLERANCE = 1e-10


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_euler_maruyama_is_torchsdes_euler_on_the_same_increments(compare, sde, eta):
    assert compare(sde, sd.EulerMaruyama(eta), _peers.torchsde_sdeint("euler", eta=eta), sd.uniform(sde, 20)) < TOLERANCE


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(("solver", "method"), [(sd.Heun("t"), "heun"), (sd.Midpoint("t"), "midpoint")], ids=str)
def test_without_noise_its_stratonovich_methods_are_runge_kutta_in_t(compare, sde, solver, method):
    assert compare(sde, solver, _peers.torchsde_sdeint(method, eta=0.0), sd.uniform(sde, 20)) < TOLERANCE


@pytest.mark.parametrize("method", ["euler", "srk", "heun"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_our_torchsde_is_one_call_of_sdeint_on_the_same_brownian_motion(mixture, method, eta):
    denoiser, grid = mixture(sd.VPSDE()), torch.arange(16, 0, -1, dtype=torch.float64) / 16  # steps without rounding
    x = denoiser.sde.prior_sample((4, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=torch.float64)
    with mock.patch.object(torchsde, "BrownianInterval", wraps=torchsde.BrownianInterval) as made:
        ours = sd.sample(denoiser, sd.TorchSDE(method, eta), x=x, grid=grid, seeds=range(4))
    reverse = denoiser.sde.reverse(denoiser, eta)
    reverse.sde_type = "stratonovich" if method == "heun" else "ito"
    brownian = torchsde.BrownianInterval(*made.call_args.args, **made.call_args.kwargs)
    theirs = torchsde.sdeint(reverse, x, 1 - grid, bm=brownian, method=method, dt=1 / 16)[-1]
    assert (ours - theirs).abs().max() < TOLERANCE


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_our_scipy_solver_is_one_call_of_solve_ivp(mixture, method):
    denoiser, ends = mixture(sd.VPSDE()), (1.0, 0.01)
    x = denoiser.sde.prior_sample((2, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=torch.float64)
    counter = sd.NFECounter(denoiser)
    ours = sd.sample(counter, sd.ScipyODE(method, 1e-4, 1e-6), x=x, grid=ends)
    solution = solve_ivp(denoiser.sde.reverse(denoiser, eta=0, shape=x.shape), ends, x.numpy().ravel(), method, rtol=1e-4, atol=1e-6)
    assert (ours.ravel() - torch.from_numpy(solution.y[:, -1])).abs().max() < TOLERANCE
    assert counter.nfe >= solution.nfev  # which leaves out what an implicit method spends on its Jacobian


@pytest.mark.parametrize("method", ["RK45", "DOP853"])
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_adaptive_solver_and_scipys_end_at_the_same_points(mixture, sde, method):
    denoiser, ends = mixture(sde), [sde.t_max, sde.t_min]
    x = sde.prior_sample((4, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=torch.float64)
    flow = sde.reverse(denoiser, eta=0, shape=x.shape)
    solution = solve_ivp(flow, ends, x.numpy().ravel(), method=method, rtol=1e-12, atol=1e-12)
    ours = sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-12, atol=1e-12), x=x)
    assert (ours.ravel() - torch.from_numpy(solution.y[:, -1])).abs().max() < TOLERANCE
