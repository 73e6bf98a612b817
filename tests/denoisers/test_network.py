"""NetworkDenoiser and its parameterizations."""

import math

import pytest
import torch
from torch import nn

import sde_diffusion as sd

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 5.0), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(50, 1e-3, 0.2))]
T = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
PARAMETERIZATIONS = [sd.Epsilon(), sd.Score(), sd.PlainScore(), sd.X0(), sd.V(), sd.Flow(), sd.EDM(0.5), sd.EDM(2.0)]


class Says(nn.Module):
    """A network that returns a fixed answer and keeps what it was asked."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x, c_noise):
        self.asked = (x, c_noise)
        return self.answer


class Linear(nn.Module):
    """x -> w x + c_noise, with one parameter of a chosen dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(2, dtype=dtype) / 2)

    def forward(self, x, c_noise):
        self.dtypes = (x.dtype, c_noise.dtype)
        y = nn.functional.linear(x, self.w)
        return y + c_noise[:, None].to(y.dtype)


def true_target(p: sd.Parameterization, sde: sd.AffineSDE, x0, eps, t):
    """What the papers have the network predict."""
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    x, power = alpha * x0 + sigma * eps, alpha**2 + sigma**2
    match p:
        case sd.Epsilon():
            return eps
        case sd.Score():
            return sigma * (-(x - alpha * x0) / sigma**2)  # sigma times the score of the kernel
        case sd.PlainScore():
            return -eps / sigma
        case sd.X0():
            return x0
        case sd.Flow():
            return eps - x0
        case sd.V():
            return (alpha * eps - sigma * x0) / power.sqrt()  # Salimans & Ho 2022, of the state brought to unit power
        case sd.EDM(sigma_data=s):  # Karras et al. 2022, of x/alpha with noise sigma/alpha
            rho = sigma / alpha
            return (x0 - s**2 / (s**2 + rho**2) * x / alpha) / (rho * s / (s**2 + rho**2).sqrt())


@pytest.fixture
def pair(generator):
    return [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_the_true_target_is_turned_into_the_data(p, sde, pair):
    x0, eps = pair
    denoiser = sd.NetworkDenoiser(Says(true_target(p, sde, x0, eps, T)), sde, p)
    x = sde.perturb(x0, T, eps)
    torch.testing.assert_close(denoiser(x, T), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser.eps(x, T), eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_one_belief_is_the_same_in_every_parameterization(p, sde, pair):
    x, guess = pair
    alpha, sigma = sde.alpha(T)[:, None], sde.sigma(T)[:, None]
    output = true_target(p, sde, guess, (x - alpha * guess) / sigma, T)
    torch.testing.assert_close(sd.NetworkDenoiser(Says(output), sde, p)(x, T), guess, rtol=1e-8, atol=1e-8)


def test_edm_at_alpha_1_is_karras_table_1():
    sde, s = sd.EDMSDE(), 0.5
    c_skip, c_out, c_in, c_noise = sd.EDM(s).scalings(sde, T)
    sigma = sde.sigma(T)
    torch.testing.assert_close(c_skip, s**2 / (sigma**2 + s**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(c_out, sigma * s / torch.sqrt(s**2 + sigma**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(c_in, 1 / torch.sqrt(sigma**2 + s**2), rtol=1e-13, atol=0)
    torch.testing.assert_close(c_noise, torch.log(sigma) / 4, rtol=1e-13, atol=0)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_edm_gives_the_network_unit_variance_in_and_asks_it_for_unit_variance(sde):
    s = 0.7
    alpha, sigma = sde.alpha(T), sde.sigma(T)
    c_skip, c_out, c_in, _ = sd.EDM(s).scalings(sde, T)
    one = torch.ones_like(T)
    torch.testing.assert_close(c_in**2 * (alpha**2 * s**2 + sigma**2), one, rtol=1e-12, atol=0)
    target = ((1 - c_skip * alpha) ** 2 * s**2 + (c_skip * sigma) ** 2) / c_out**2
    torch.testing.assert_close(target, one, rtol=1e-9, atol=0)


def test_edm_refuses_data_without_spread():
    with pytest.raises(ValueError, match="sigma_data must be a positive number, got 0"):
        sd.EDM(0.0)


@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_the_network_sees_the_scaled_state_and_a_quarter_of_the_log_noise_to_signal(p, pair):
    sde, network = sd.VPSDE(), Says(pair[0])
    sd.NetworkDenoiser(network, sde, p)(pair[1], T)
    state, c_noise = network.asked
    torch.testing.assert_close(c_noise, -sde.log_snr(T) / 4, rtol=1e-13, atol=0)
    torch.testing.assert_close(state, p.scalings(sde, T).c_in[:, None] * pair[1])
    sd.NetworkDenoiser(network, sde, p)(pair[1], 0.3)
    assert network.asked[1].shape == (3,)


@pytest.mark.parametrize("state", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float64, torch.float32, torch.bfloat16])
def test_the_network_sees_states_of_its_own_dtype_and_the_caller_his(state, weights, pair):
    denoiser = sd.NetworkDenoiser(Linear(weights), sd.VPSDE(), sd.Epsilon())
    out = denoiser(pair[0].to(state), T)
    assert denoiser.network.dtypes == (weights, torch.promote_types(weights, torch.float32))
    assert out.dtype == state
    exact = sd.NetworkDenoiser(Linear(torch.float64), sd.VPSDE(), sd.Epsilon())(pair[0], T)
    coarsest = max(torch.finfo(state).eps, torch.finfo(weights).eps)
    scale = (1 / sd.VPSDE().alpha(T))[:, None]
    assert ((out.double() - exact).abs() < 20 * coarsest * scale).all()


def test_under_autocast_the_state_keeps_its_precision(pair):
    denoiser = sd.NetworkDenoiser(Linear(), sd.VPSDE(), sd.Epsilon())
    x = pair[0].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = denoiser(x, T)
        fixed = denoiser.at(T[:1], x)[0](x, None)
    assert out.dtype == fixed.dtype == torch.float32
    torch.testing.assert_close(out, denoiser(x, T), rtol=0.05, atol=0.3)
    torch.testing.assert_close(fixed, denoiser(x, T[0]), rtol=0.05, atol=0.05)


def test_a_network_without_parameters_sees_the_dtype_of_the_state(pair):
    for dtype in (torch.float32, torch.float64):
        network = Says(pair[0].to(dtype))
        assert sd.NetworkDenoiser(network, sd.VPSDE(), sd.X0())(pair[1].to(dtype), 0.5).dtype == dtype
        assert network.asked[0].dtype == network.asked[1].dtype == dtype


def test_times_follow_the_state_to_its_device():
    # `meta` stands for a GPU: no arithmetic, but devices must agree
    class Add(nn.Module):
        def forward(self, x, c_noise):
            assert c_noise.device == x.device
            return x + c_noise[:, None]

    denoiser = sd.NetworkDenoiser(Add(), sd.VPSDE(), sd.V())
    x = torch.empty(3, 2, device="meta")
    for t in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        assert denoiser(x, t).device.type == "meta"


def test_a_network_that_changes_the_shape_is_refused(pair):
    denoiser = sd.NetworkDenoiser(Says(torch.zeros(3, 1)), sd.VPSDE(), sd.X0())
    for call in (lambda: denoiser(pair[0], 0.5), lambda: denoiser.at(T[:1], pair[0])[0](pair[0], None)):
        with pytest.raises(ValueError, match=r"the network returned shape \(3, 1\) for states of shape \(3, 2\); it must keep the shape"):
            call()


def test_the_condition_is_passed_only_when_there_is_one(pair):
    class Conditional(nn.Module):
        def forward(self, x, c_noise, *rest):
            self.rest = rest
            return x

    network = Conditional()
    denoiser = sd.NetworkDenoiser(network, sd.VPSDE(), sd.X0())
    denoiser(pair[0], 0.5)
    assert network.rest == ()
    denoiser(pair[0], 0.5, "seven")
    assert network.rest == ("seven",)
    denoiser.score(pair[0], 0.5, 7)
    assert network.rest == (7,)


@pytest.mark.parametrize("p", PARAMETERIZATIONS, ids=repr)
def test_gradients_reach_weights_states_and_times(p, pair):
    denoiser = sd.NetworkDenoiser(Linear(torch.float64), sd.VPSDE(), p)
    x, t = pair[0].requires_grad_(), T.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: denoiser(x, t), (x, t))
    denoiser.score(x, t).sum().backward()
    assert denoiser.network.w.grad.abs().sum() > 0
    assert math.isfinite(t.grad.sum().item())


def test_the_score_keeps_its_digits_in_float32_where_the_noise_is_small(pair):
    # sigma = 1e-4: x and alpha x0_hat differ in the last digits of float32 only
    eps = pair[1]
    sde, t = sd.SubVPSDE(), 9e-4
    denoiser = sd.NetworkDenoiser(Says(eps.float()), sde, sd.Epsilon())
    x = sde.perturb(pair[0], t, eps).float()
    assert sde.sigma(torch.tensor(t)) < 2e-4
    torch.testing.assert_close(denoiser.eps(x, t), eps.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(denoiser.score(x, t), (-eps / sde.sigma(torch.tensor(t, dtype=torch.float64))).float(), rtol=1e-5, atol=0.1)
