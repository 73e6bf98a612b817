"""`denoiser.under(sde)`, `denoiser.at(times)` and the counter."""

import itertools

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.base import Levels

SDES = {
    "VP": sd.VPSDE(),
    "sub-VP": sd.SubVPSDE(),
    "cosine": sd.CosineVPSDE(),
    "VE": sd.VESDE(),
    "EDM": sd.EDMSDE(),
    "flow": sd.RectifiedFlow(),
    "DDPM": sd.DDPMChain(sd.linear_betas(1000)),
    "NCSN": sd.NCSNLadder(sd.geometric_sigmas(12, 0.01, 50.0)),
    "coefficients": sd.AffineSDE.from_coefficients(lambda t: 1 + t, lambda t: 2 + 30 * t),
}
LAM = torch.linspace(-2, 3, 6, dtype=torch.float64)  # every process above passes through these
MEANS = torch.tensor([[1.0, -0.5], [-0.7, 0.2]], dtype=torch.float64)


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser(MEANS, 0.3, [0.4, 0.6], sde)


class Bend(nn.Module):
    """A small network without random weights."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x, c_noise, cond=0.0):
        return torch.tanh(self.gain * x.flip(-1) + c_noise[:, None]) + cond


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(SDES, 2)))
def test_the_exact_denoiser_under_another_process_is_the_one_built_for_it(one, other, generator):
    exact, changed = mixture(SDES[other]), mixture(SDES[one]).under(SDES[other])
    t = SDES[other].t_of_log_snr(LAM)
    x0, eps = (torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    x = SDES[other].perturb(x0, t, eps)
    assert changed.sde is SDES[other]
    for method in ("forward", "eps", "score", "v"):
        torch.testing.assert_close(getattr(changed, method)(x, t), getattr(exact, method)(x, t), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("other", SDES)
def test_a_network_goes_there_and_back(other, generator):
    denoiser = sd.NetworkDenoiser(Bend(), SDES["VP"], sd.V())
    back = denoiser.under(SDES[other]).under(SDES["VP"])
    x, t = torch.randn(6, 2, generator=generator, dtype=torch.float64), SDES["VP"].t_of_log_snr(LAM)
    torch.testing.assert_close(back(x, t), denoiser(x, t), rtol=1e-8, atol=1e-8)


def test_times_cleaner_than_the_inner_process_ever_is_are_its_cleanest():
    ladder, t = sd.VESDE(0.1, 50.0), 1e-3  # sigma/alpha of VP is 0.0105 there
    changed, x = mixture(ladder).under(SDES["VP"]), torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(changed(x, t), mixture(ladder)(x / SDES["VP"].alpha(t), 0.0), rtol=1e-12, atol=0)


DENOISERS = {
    "Gaussian": sd.GaussianDenoiser([0.1, 0.2], 0.4, SDES["VP"]),
    "mixture": mixture(SDES["VP"]),
    "full covariances": sd.GaussianMixtureDenoiser(MEANS, None, None, SDES["VE"], covariances=torch.tensor([[[1.0, 0.3], [0.3, 0.5]]] * 2)),
    "empirical": sd.EmpiricalDenoiser(MEANS, SDES["DDPM"]),
    "under": mixture(SDES["VP"]).under(SDES["EDM"]),
    "network under": sd.NetworkDenoiser(Bend(), SDES["VP"], sd.Epsilon()).under(SDES["NCSN"]),
    "counter": sd.NFECounter(mixture(SDES["VP"])),
    **{p.__name__: sd.NetworkDenoiser(Bend(), SDES["VP"], p()) for p in (sd.Epsilon, sd.Score, sd.X0, sd.V, sd.EDM)},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("denoiser", DENOISERS.values(), ids=DENOISERS.keys())
def test_at_fixed_times_a_denoiser_is_the_same_function(denoiser, dtype, generator):
    x = torch.randn(4, 2, generator=generator).to(dtype)
    before = x.clone()
    times = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    predictions = denoiser.at(times, x)
    assert len(predictions) == 3
    for t, predict in zip(times, predictions, strict=True):
        out = predict(x, None)
        assert out.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 1e-4  # float32: 1/alpha is 30 at t = 0.9 and amplifies rounding
        torch.testing.assert_close(out, denoiser(x, t), rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("denoiser", DENOISERS.values(), ids=DENOISERS.keys())
def test_at_rows_of_levels_a_denoiser_is_the_same_function(denoiser, dtype, generator):
    x, sde = torch.randn(4, 2, generator=generator).to(dtype), denoiser.sde
    times = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.1, 0.5, 0.1]], dtype=torch.float64)
    t = times[..., None]
    raw, *weights = denoiser.at_each(Levels(sde.alpha(t), sde.sigma(t), sde.log_snr(t), lambda: t), x)
    into, skip, out = (torch.full_like(t, one) if w is None else w for w, one in zip(weights, (1, 0, 1), strict=True))
    for i in range(2):
        x0_hat = (skip[i] * x + out[i] * raw[i]((into[i] * x).to(dtype), None)).to(dtype)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-4  # float32: 1/alpha is 30 at t = 0.9 and amplifies rounding
        torch.testing.assert_close(x0_hat, denoiser(x, times[i]), rtol=tolerance, atol=tolerance)


def test_at_hands_the_condition_on():
    denoiser = sd.NetworkDenoiser(Bend(), SDES["VP"], sd.X0())
    x, times = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    for d in (denoiser, denoiser.under(SDES["VE"]), sd.NFECounter(denoiser)):
        assert (d.at(times, x)[0](x, 2.0) - d.at(times, x)[0](x, None)).tolist() == [[2.0, 2.0]]
        assert (d(x, 0.5, 2.0) - d(x, 0.5)).tolist() == [[2.0, 2.0]]


def test_the_counter_counts_every_call_and_changes_none():
    inner = mixture(SDES["VP"])
    counter, x = sd.NFECounter(inner), torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(counter(x, 0.5), inner(x, 0.5), rtol=0, atol=0)
    counter.score(x, 0.5)
    counter.at(torch.tensor([0.5], dtype=torch.float64), x)[0](x, None)
    assert counter.nfe == 3


def test_like_is_the_dtype_of_the_parameters_and_float32_at_least():
    assert sd.NetworkDenoiser(Bend(torch.bfloat16), SDES["VP"], sd.X0()).like.dtype == torch.float32
    assert sd.NetworkDenoiser(Bend(), SDES["VP"], sd.X0()).under(SDES["VE"]).like.dtype == torch.float64
    assert sd.NetworkDenoiser(nn.Identity(), SDES["VP"], sd.X0()).like.dtype == torch.float32
