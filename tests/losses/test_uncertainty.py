"""The learned weights against what they must come to: u = log E[loss | t]."""

import numpy as np
import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.losses import uncertainty
from sde_diffusion.losses.resampling import LossSecondMomentTimes
from sde_diffusion.losses.uncertainty import LearnedUncertainty
from sde_diffusion.losses.weightings import Weighting

SDE = sd.EDMSDE()
EDM2 = sd.DenoisingScoreMatching(sd.EDMWeighting(0.5), sd.LogNormalTimes(-0.4, 1.0))
T = SDE.t_of_log_snr(torch.linspace(4, -2, 12, dtype=torch.float64))


class Shrinks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, c_noise):
        return self.w * x


def test_at_first_the_loss_is_the_inner_one_to_the_bit():
    denoiser, x0 = sd.GaussianDenoiser(torch.zeros(3), 0.5, SDE), torch.ones(6, 3)
    for source in ({"generator": 3}, {"seeds": range(6)}):
        one, two = ({k: torch.Generator().manual_seed(v) if k == "generator" else v for k, v in source.items()} for _ in range(2))
        assert torch.equal(LearnedUncertainty(EDM2)(denoiser, x0, **one), EDM2(denoiser, x0, **two))
    noise = [sd.Stream(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(LearnedUncertainty(EDM2).draw_times(denoiser, x0, noise[0]), EDM2.draw_times(denoiser, x0, noise[1]))


def test_adam_brings_the_weights_to_the_logarithm_of_the_error_of_each_level():
    # the exact denoiser of N(0, 1) data has E |x0_hat - x0|^2 = sigma^2/(1 + sigma^2), times EDM's weight; three Gauss-Hermite nodes of the
    # data and of the noise are exact for it, so that what is left is the optimiser's
    denoiser, module = sd.GaussianDenoiser(0.0, 1.0, SDE), LearnedUncertainty(EDM2, 64).double()
    t = T[::2]
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    nodes, p = torch.cartesian_prod(z, z), torch.cartesian_prod(w, w).prod(1) / w.sum() ** 2
    x0, eps, p = (a.repeat_interleave(len(t), 0) for a in (nodes[:, :1], nodes[:, 1:], p))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (p * module(denoiser, x0, t=t.repeat(9), eps=eps)).sum().backward()
        optimizer.step()
    sigma = SDE.sigma(t)
    error = sd.EDMWeighting(0.5)(SDE, t) * sigma**2 / (1 + sigma**2)
    torch.testing.assert_close(module.log_error(SDE, t).detach(), error.log(), rtol=0, atol=1e-3)


def test_given_the_mean_losses_the_minimiser_is_their_logarithm():
    # twelve fixed losses over six orders of magnitude, no noise: (1) is convex in w, and 64 cosines can meet twelve levels
    class Fixed(Weighting):
        def __call__(self, sde, t):
            return torch.exp(torch.linspace(-7, 7, 12, dtype=torch.float64))

    class Zero(nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    denoiser = sd.NetworkDenoiser(Zero(), SDE, sd.X0())
    module = LearnedUncertainty(sd.DenoisingScoreMatching(Fixed()), 64).double()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = module(denoiser, torch.ones(12, 1, dtype=torch.float64), t=T, eps=torch.zeros(12, 1, dtype=torch.float64)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(module.log_error(SDE, T).detach(), torch.linspace(-7, 7, 12, dtype=torch.float64), rtol=0, atol=1e-2)
    # where 1/12 sum (1 + u) is the least value of (1)
    assert closure().item() == pytest.approx(1.0, abs=1e-4)


def test_the_networks_gradient_is_divided_by_exp_u(generator):
    module = LearnedUncertainty(EDM2, 16).double()
    module.weight.data = torch.randn(16, generator=generator, dtype=torch.float64)
    x0, eps = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64)
    for t in (0.2, 0.6):
        denoiser = sd.NetworkDenoiser(Shrinks(), SDE, sd.EDM())
        gradients = [torch.autograd.grad(loss(denoiser, x0, t=t, eps=eps).sum(), denoiser.network.w)[0] for loss in (module, EDM2)]
        assert gradients[0].item() == pytest.approx(gradients[1].item() * torch.exp(-module.log_error(SDE, t)).item(), rel=1e-12)


def test_the_cosines_are_of_the_seed_alone_and_not_trained():
    one, two = (LearnedUncertainty(EDM2, 8, seed=seed) for seed in (0, 1))
    assert torch.equal(one.frequencies, LearnedUncertainty(EDM2, 8).frequencies)
    assert not torch.equal(one.frequencies, two.frequencies)
    assert [name for name, _ in one.named_parameters()] == ["weight"]
    assert set(one.state_dict()) == {"weight", "frequencies", "phases"}


def test_the_loss_is_one_number_per_sample_in_the_dtype_of_the_data(generator):
    for dtype in (torch.float32, torch.float64):
        denoiser = sd.GaussianDenoiser(torch.zeros(3, 2), 0.5, sd.VPSDE())
        loss = LearnedUncertainty(sd.DenoisingScoreMatching())(denoiser, torch.zeros(5, 3, 2, dtype=dtype), generator=generator)
        assert loss.shape == (5,)
        assert loss.dtype == dtype


def test_the_condition_reaches_the_network(generator):
    class Shift(nn.Module):
        def forward(self, x, c_noise, cond):
            return cond * torch.ones_like(x)

    denoiser = sd.NetworkDenoiser(Shift(), sd.VPSDE(), sd.X0())
    module = LearnedUncertainty(sd.DenoisingScoreMatching(sd.ConstantWeighting()))
    torch.testing.assert_close(module(denoiser, torch.zeros(2, 3), cond=2.0, generator=generator), torch.full((2,), 4.0))


def test_it_prints_as_the_expression_that_makes_it():
    module = LearnedUncertainty(EDM2, channels=16, seed=3)
    again = sd.build(repr(module), vars(sd) | vars(uncertainty))
    assert repr(again) == repr(module)
    assert torch.equal(again.frequencies, module.frequencies)


@pytest.mark.parametrize("loss", [sd.HybridLoss(), sd.VDMLoss(), sd.SlicedScoreMatching()], ids=lambda a: type(a).__name__)
def test_a_loss_that_may_be_negative_is_refused(loss):
    with pytest.raises(TypeError, match=r" is no mean square, .*take DenoisingScoreMatching"):
        LearnedUncertainty(loss)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedUncertainty(EDM2, 0), "channels must be a whole number, at least 1, got 0"),
        (
            lambda: LearnedUncertainty(sd.DenoisingScoreMatching(times=LossSecondMomentTimes(SDE), unbiased=True)),
            "use a law that does not learn",
        ),
        (lambda: LearnedUncertainty(EDM2)(sd.GaussianDenoiser(0.0, 1.0, SDE), torch.zeros(2, 1), t=2.0), "t must lie in"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
