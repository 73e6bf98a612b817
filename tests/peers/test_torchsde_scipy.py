"""torchsde's and SciPy's integrators on `sde.reverse(...)`, in float64."""

import pytest
import torch

import sde_diffusion as sd

pytest.importorskip("torchsde")
import _peers
from scipy.integrate import solve_ivp

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


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_adaptive_solver_and_scipys_dop853_end_at_the_same_points(mixture, sde):
    denoiser, ends = mixture(sde), torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    x = sde.prior_sample((4, 2), sd.Stream(torch.Generator().manual_seed(0)), dtype=torch.float64)
    flow = sde.reverse(denoiser, eta=0, shape=x.shape)
    solution = solve_ivp(flow, ends.tolist(), x.numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-13)
    theirs = torch.from_numpy(solution.y[:, -1]).reshape(x.shape)
    ours = sd.sample(denoiser, sd.AdaptiveODE(rtol=1e-12, atol=1e-12), x=x)
    assert (ours - theirs).abs().max() < TOLERANCE
    assert (sd.sample(denoiser, sd.ScipyODE("DOP853", 1e-13, 1e-13), x=x, grid=ends) - theirs).abs().max() < TOLERANCE
