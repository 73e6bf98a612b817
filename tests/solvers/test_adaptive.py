import pytest
import torch
from scipy.integrate import solve_ivp

import sde_diffusion as sd


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return sd.GaussianMixtureDenoiser(means, 0.3, None, sde)


def start(sde: sd.AffineSDE, n: int = 8) -> torch.Tensor:
    return sde.prior_sample((n, 4), sd.PerSample(range(n)), dtype=torch.float64)


def reference(denoiser: sd.Denoiser, x: torch.Tensor) -> torch.Tensor:
    sde = denoiser.sde
    flow = sde.reverse(denoiser, eta=0, shape=x.shape)
    end = solve_ivp(flow, (sde.t_max, sde.t_min), x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return torch.from_numpy(end).reshape(x.shape)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(t_min=1e-3), sd.RectifiedFlow(t_max=0.99)], ids=repr)
def test_the_error_follows_the_tolerance(sde):
    denoiser, x = mixture(sde), start(sde)
    exact = reference(denoiser, x)
    for tolerance in (1e-3, 1e-5, 1e-7):
        end = sd.sample(denoiser, sd.ProbabilityFlowODE(rtol=tolerance, atol=tolerance), x=x)
        errors = (end - exact).abs().amax(1)
        assert errors.median() < 10 * tolerance
        assert errors.max() < 1000 * tolerance  # paths near a separatrix magnify every error


def test_the_scipy_method_and_the_native_one_agree():
    denoiser = mixture(sd.VPSDE())
    x = start(denoiser.sde)
    native, scipy = (sd.sample(denoiser, sd.ProbabilityFlowODE(method, rtol=1e-8, atol=1e-8), x=x) for method in ("dopri5", "scipy"))
    assert (native - scipy).abs().max() < 1e-5


def test_the_flow_there_and_back_returns_to_the_data():
    # row A17: the round trip data -> noise -> data of the ring stays within 1e-4 at tolerance 1e-5
    angles = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    ring = sd.GaussianMixtureDenoiser(torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, sd.VPSDE(t_min=1e-5))
    x = ring.sample_data(200, generator=torch.Generator().manual_seed(0))
    solver = sd.ProbabilityFlowODE(rtol=1e-6, atol=1e-6)
    down = torch.tensor([1.0, 1e-5], dtype=torch.float64)
    *_, noise = solver.solve(ring, x, down.flip(0), torch.zeros_like)
    *_, data = solver.solve(ring, noise.x, down, torch.zeros_like)
    assert (data.x - x).abs().max() < 1e-4
    assert noise.x.std() == pytest.approx(1.0, abs=0.1)


def test_the_flow_of_vp_and_of_its_ve_image_are_one():
    vp = mixture(sd.VPSDE())
    ve = vp.under(sd.VESDE(sigma_min=0.005, sigma_max=200.0))
    x = start(vp.sde)
    grid = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    ve_grid = ve.sde.t_of_log_snr(vp.sde.log_snr(grid))
    solver = sd.ProbabilityFlowODE("scipy", rtol=1e-9, atol=1e-9)
    _, path = sd.trajectory(vp, solver, x=x, grid=grid)
    _, image = sd.trajectory(ve, solver, x=x / vp.sde.alpha(1.0), grid=ve_grid)
    torch.testing.assert_close(path / vp.sde.alpha(grid)[:, None, None], image, rtol=1e-5, atol=1e-5)


def test_a_samples_steps_do_not_depend_on_its_companions():
    denoiser = mixture(sd.VPSDE())
    x, solver = start(denoiser.sde), sd.ProbabilityFlowODE(rtol=1e-4, atol=1e-4)
    *_, whole = solver.solve(denoiser, x, torch.tensor([1.0, 1e-3], dtype=torch.float64), torch.zeros_like)
    *_, alone = solver.solve(denoiser, x[3:4], torch.tensor([1.0, 1e-3], dtype=torch.float64), torch.zeros_like)
    torch.testing.assert_close(whole.x[3:4], alone.x, rtol=1e-12, atol=1e-12)
    assert whole.rejected[3] == alone.rejected[0]


def test_no_call_lies_outside_the_interval():
    called = []

    class Watching(sd.GaussianDenoiser):
        def forward(self, x, t, cond=None):
            called.append(t)
            return super().forward(x, t, cond)

    denoiser = Watching(0.0, 0.5, sd.VPSDE())
    seen = []
    sd.sample(denoiser, sd.ProbabilityFlowODE(), shape=(4, 1), seeds=range(4), callback=seen.append)
    times = torch.cat(called)
    assert times.min() >= 1e-3 * (1 - 1e-9)
    assert times.max() <= 1 + 1e-9
    assert seen[-1].nfe == len(called)
    assert seen[-1].rejected.shape == (4,)


def test_an_unreachable_tolerance_is_an_error_that_says_where():
    class Rough(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.sin(1e4 * x)  # changes faster than float32 can step

    denoiser = sd.NetworkDenoiser(Rough(), sd.VPSDE(), sd.X0())
    with pytest.raises(ArithmeticError, match=r"network calls and has not arrived|cannot meet its tolerance"):
        sd.sample(denoiser, sd.ProbabilityFlowODE(rtol=1e-9, atol=1e-9, max_nfe=500), shape=(2, 2), seeds=[0, 1])
