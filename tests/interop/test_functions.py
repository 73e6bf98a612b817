"""Functions and modules as denoisers, against the exact denoiser of Gaussian data."""

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.base import Levels
from sde_diffusion.denoisers.parameterizations import Velocity
from sde_diffusion.interop.functions import from_denoised, from_prediction

SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 5.0), sd.EDMSDE(), sd.RectifiedFlow(), sd.DDPMChain(sd.linear_betas(50, 1e-3, 0.2))]
T = torch.tensor([0.1, 0.43, 0.9], dtype=torch.float64)  # the chain has nodes at the first and the last, where f and g jump
PREDICTIONS = ["eps", "score", "v", "velocity", "x0"]
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
each_prediction = pytest.mark.parametrize("predicts", PREDICTIONS)


def exact(sde):
    return sd.GaussianDenoiser([0.5, -1.0], 0.7, sde)


def answer(predicts, sde):
    """A function (x, t) that predicts exactly what it is asked, from the exact denoiser's own methods."""
    oracle = exact(sde)

    def v(x, t):
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        power = (alpha**2 + sigma**2).sqrt()
        x = x * power
        return (alpha * oracle.eps(x, t) - sigma * oracle(x, t)) / power

    return {"eps": oracle.eps, "score": oracle.score, "v": v, "velocity": oracle.v, "x0": oracle}[predicts]


def all_ways(denoiser, x):
    """x0_hat (3, 2) by forward, by `at` (one sample at each time) and by `at_each`."""
    sde = denoiser.sde
    fixed = torch.cat([prediction(x[i : i + 1]) for i, prediction in enumerate(denoiser.at(T, x[:1]))])
    t = T[None, :, None]
    levels = Levels(sde.alpha(t), sde.sigma(t), sde.log_snr(t), lambda: t)
    raw, into, skip, out = denoiser.at_each(levels, x)
    into, skip, out = (d if w is None else w[0] for w, d in ((into, 1.0), (skip, 0.0), (out, 1.0)))
    return denoiser(x, T), fixed, skip * x + out * raw[0](into * x, None)


@pytest.fixture
def x(generator):
    return torch.randn(3, 2, generator=generator, dtype=torch.float64)


@each_sde
@each_prediction
def test_whatever_is_predicted_exactly_the_denoiser_is_exact(predicts, sde, x):
    denoiser = from_prediction(answer(predicts, sde), sde, predicts=predicts)
    x = x * (sde.alpha(T) ** 2 + sde.sigma(T) ** 2).sqrt()[:, None]
    oracle = exact(sde)
    forward, fixed, each = all_ways(denoiser, x)
    torch.testing.assert_close(forward, oracle(x, T), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(fixed, oracle(x, T), rtol=1e-8, atol=1e-8)
    if not (predicts == "velocity" and sde.length):  # at a node log-SNR does not say on which side of the jump
        torch.testing.assert_close(each, oracle(x, T), rtol=1e-8, atol=1e-8)
    for method in ("eps", "score", "v"):
        torch.testing.assert_close(getattr(denoiser, method)(x, T), getattr(oracle, method)(x, T), rtol=1e-7, atol=1e-7)


@each_sde
def test_a_model_of_denoised_images_is_asked_on_its_own_scale_and_exact_for_every_process(sde, x):
    def model(x, sigma):  # posterior mean of N(m, 0.7^2) data under noise sigma, by hand
        m = torch.tensor([0.5, -1.0], dtype=torch.float64)
        return m + 0.49 / (0.49 + sigma[:, None] ** 2) * (x - m)

    for output in all_ways(from_denoised(model, sde), x):
        torch.testing.assert_close(output, exact(sde)(x, T), rtol=1e-9, atol=1e-9)


@each_sde
@each_prediction
def test_samples_are_those_of_the_exact_denoiser(predicts, sde, x):
    grid = torch.linspace(sde.t_max, max(sde.t_min, 0.01), 11, dtype=torch.float64)
    samples = [
        sd.sample(denoiser, sd.DDIM(), x=x * sde.prior_std, grid=grid)
        for denoiser in (exact(sde), from_prediction(answer(predicts, sde), sde, predicts=predicts))
    ]
    torch.testing.assert_close(samples[1], samples[0], rtol=1e-7, atol=1e-7)


def test_the_velocity_of_the_straight_path_is_noise_minus_data(x):
    sde, t = sd.RectifiedFlow(), torch.tensor([1e-3, 0.5, 0.999], dtype=torch.float64)
    for ours, flow in zip(Velocity(sde).scalings(sde, t), sd.Flow().scalings(sde, t), strict=True):
        torch.testing.assert_close(ours, flow, rtol=1e-10, atol=1e-13)
    assert torch.equal(from_prediction(lambda x, t: 7 * x, sde, predicts="velocity")(x, 0.0), x)  # data already


@pytest.mark.parametrize(
    ("label", "expected"),
    [({}, 0.5), ({"label": sd.TimeLabel(1000.0)}, 500.0), ({"label": sd.TimeLabel(50, -1)}, 24.0), ({"label": sd.SigmaLabel()}, None)],
)
def test_the_model_is_told_what_the_label_says(label, expected, x):
    asked = []
    sde = sd.VPSDE()

    def model(x, label):
        asked.append(label)
        return x

    from_prediction(model, sde, predicts="eps", **label)(x, 0.5)
    expected = sde.sigma(0.5) if expected is None else torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(asked[0], expected.expand(3))


def test_a_condition_is_the_third_argument_where_there_is_one(x):
    def model(x, t, *cond):
        return x * (1 + sum(cond))

    for denoiser in (from_prediction(model, sd.VPSDE(), predicts="x0"), from_denoised(model)):
        plain, conditional = denoiser(x, 0.5), denoiser(x, 0.5, 3)
        torch.testing.assert_close(conditional, 4 * plain)


def test_the_weights_of_a_module_are_the_denoisers_and_a_functions_are_not(x):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

        def forward(self, x, t):
            return self.w * x

    network = Network()
    denoiser = from_prediction(network, sd.VPSDE(), predicts="eps")
    assert denoiser.network is network
    denoiser(x, 0.5).sum().backward()
    assert network.w.grad.any()
    assert not list(from_denoised(lambda x, sigma: network(x, sigma)).parameters())


@each_sde
def test_a_velocity_is_built_again_from_its_expression(sde):
    names = {name: getattr(sd, name) for name in sd.__all__} | {"Velocity": Velocity}
    assert sd.build(repr(Velocity(sde)), names) == Velocity(sde)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: from_prediction(nn.Identity(), sd.VPSDE(), predicts="noise"),
            ValueError,
            "one of eps, score, v, velocity, x0, got 'noise'",
        ),
        (lambda: from_prediction(3, sd.VPSDE(), predicts="eps"), TypeError, "must be a module or a function of states and labels, got 3"),
        (lambda: from_denoised(None), TypeError, "got None"),
        (lambda: Velocity(sd.VPSDE()).scalings(sd.VESDE(), T), ValueError, "must have the denoiser's process, got VPSDE"),
    ],
)
def test_a_misfit_is_refused_with_its_cure(make, error, message):
    with pytest.raises(error, match=message):
        make()
