"""The loss against closed forms: Gauss-Hermite quadrature over data and noise makes every expectation exact."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.losses import score_matching
from sde_diffusion.losses.score_matching import PseudoHuber
from sde_diffusion.noise import Positioned

SIMPLE = sd.DenoisingScoreMatching()


def gauss_hermite(n: int, means=(1.0,), stds=(0.5,), weights=(1.0,)):
    """Nodes (x0, eps) (m, 1) and weights (m,) of E over x0 ~ mixture and eps ~ N(0, 1)."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    w = w / w.sum()
    x0 = torch.cat([m + s * z for m, s in zip(means, stds, strict=True)])
    w0 = torch.cat([c * w for c in weights])
    grid, probability = torch.cartesian_prod(x0, z), torch.cartesian_prod(w0, w).prod(1)
    return grid[:, :1], grid[:, 1:], probability


class Features(nn.Module):
    """A smooth network with four weights, none of them random."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.8, 0.5, 0.1], dtype=torch.float64))

    def forward(self, x, c_noise):
        a, b, c, d = self.w
        return a * torch.tanh(b * x + c) + d * x


class Speaks(nn.Module):
    """Lets one x0-predicting network be written as a predictor of eps, v or the score: F = (x0_hat - c_skip x)/c_out."""

    def __init__(self, network: nn.Module, parameterization: sd.Parameterization, sde: sd.AffineSDE, t: float) -> None:
        super().__init__()
        self.network, self.scalings = network, parameterization.scalings(sde, t)

    def forward(self, scaled, c_noise):
        c_skip, c_out, c_in, _ = self.scalings
        x = scaled / c_in
        return (self.network(x, c_noise) - c_skip * x) / c_out


@pytest.mark.parametrize(("t", "loss"), [(0.1, 0.68358), (0.5, 0.02101), (1.0, 1.08e-5)])
def test_the_exact_denoiser_has_the_loss_of_systems_a3(t, loss):
    # 1 - sigma^2/(alpha^2 s^2 + sigma^2) for N(1, 1/4) data; the integrand is a quadratic, so that 3 nodes are exact
    sde = sd.VPSDE()
    x0, eps, w = gauss_hermite(3)
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    measured = (w * SIMPLE(sd.GaussianDenoiser(1.0, 0.5, sde), x0, t=t, eps=eps)).sum().item()
    assert measured == pytest.approx(1 - sigma**2 / (alpha**2 * 0.25 + sigma**2), rel=1e-11)
    assert measured == pytest.approx(loss, abs=5e-6 if t < 1 else 5e-9)


def test_predicting_no_noise_has_loss_one():
    class Zero(nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    x0, eps, w = gauss_hermite(3)
    for t in (0.1, 0.5, 1.0):
        zero = sd.NetworkDenoiser(Zero(), sd.VPSDE(), sd.Epsilon())
        assert (w * SIMPLE(zero, x0, t=t, eps=eps)).sum().item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("fresh", [False, True])
def test_noise_drawn_after_the_state_exists_teaches_nothing(fresh):
    # systems.md M33: the best affine predictor of a fresh noise is 0 and its loss sticks at 1; that of the right noise is exact here
    sde, (x0, eps, w) = sd.VPSDE(), gauss_hermite(3)
    another, w_another = eps[:3], w[:3] / w[:3].sum()  # the first three nodes run through all of eps
    x = sde.perturb(x0, 0.1, eps).repeat_interleave(3, 0)
    target = another.repeat(9, 1) if fresh else eps.repeat_interleave(3, 0)
    weight = (w[:, None] * w_another).flatten()
    design = torch.cat([torch.ones_like(x), x], 1) * weight[:, None].sqrt()
    goal = target * weight[:, None].sqrt()
    loss = ((design @ torch.linalg.lstsq(design, goal).solution - goal) ** 2).sum().item()
    assert loss == pytest.approx(1.0 if fresh else 0.68358, abs=5e-6)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(0.01, 5.0), sd.SubVPSDE(), sd.RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_targets_differ_by_a_weight_alone(sde):
    # loss and gradient in x0, eps, v and score, each written out, against the library's with its weight
    t, (x0, eps, w) = 0.35, gauss_hermite(8)
    alpha, sigma, g = sde.alpha(t), sde.sigma(t), sde.g(t)
    power = alpha**2 + sigma**2
    x = sde.perturb(x0, t, eps)
    targets = {
        sd.X0(): (x0, 1.0, sd.ConstantWeighting()),
        sd.Epsilon(): (eps, 1.0, sd.SimpleWeighting()),
        sd.Score(): (-eps, (g / sigma) ** 2, sd.LikelihoodWeighting()),
        sd.V(): ((alpha * eps - sigma * x0) / power.sqrt(), alpha**2 / power, sd.SimpleWeighting()),
    }
    for parameterization, (target, factor, weighting) in targets.items():
        networks = [Features(), Features()]
        speaker = Speaks(networks[0], parameterization, sde, t)
        denoiser = sd.NetworkDenoiser(speaker, sde, parameterization)
        ours = (w * sd.DenoisingScoreMatching(weighting)(denoiser, x0, t=t, eps=eps)).sum()
        ours.backward()
        output = Speaks(networks[1], parameterization, sde, t)(x * speaker.scalings.c_in, None)
        theirs = (w * factor * ((output - target) ** 2)[:, 0]).sum()
        theirs.backward()
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
        torch.testing.assert_close(networks[0].w.grad, networks[1].w.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(0.01, 5.0)], ids=lambda s: type(s).__name__)
def test_denoising_and_explicit_score_matching_have_one_gradient_and_a_constant_gap(sde):
    # Vincent 2011; 60 nodes per mode and noise: exact to 1e-9
    means, stds, weights = (1.0, -1.0), (0.3, 0.2), (0.4, 0.6)
    exact = sd.GaussianMixtureDenoiser([[1.0], [-1.0]], list(stds), list(weights), sde)
    t, (x0, eps, w) = 0.3, gauss_hermite(60, means, stds, weights)
    x, sigma = sde.perturb(x0, t, eps), sde.sigma(t)
    score = exact.score(x, t)
    constant = (w * ((eps / sigma) ** 2)[:, 0]).sum() - (w * (score**2)[:, 0]).sum()  # E |grad log q(x_t|x_0)|^2 - E |score|^2
    gaps = []
    for shift in (0.0, 0.4):
        network = Features()
        network.w.data += shift
        denoiser = sd.NetworkDenoiser(network, sde, sd.Score())
        denoising = (w * SIMPLE(denoiser, x0, t=t, eps=eps)).sum()
        (gradient,) = torch.autograd.grad(denoising, network.w)
        explicit = (w * sigma**2 * ((denoiser.score(x, t) - score) ** 2)[:, 0]).sum()
        (oracle,) = torch.autograd.grad(explicit, network.w)
        torch.testing.assert_close(gradient, oracle, rtol=1e-6, atol=1e-7)
        gaps.append((denoising - explicit).item())
    assert gaps == pytest.approx([(sigma**2 * constant).item()] * 2, rel=1e-7)


def test_edm_loss_is_karras():
    # Karras et al. 2022, table 1: lambda(sigma) |D(y + n; sigma) - y|^2, ln sigma ~ N(-1.2, 1.2^2)
    sde, s = sd.EDMSDE(), 0.5
    loss = sd.DenoisingScoreMatching(sd.EDMWeighting(s), sd.LogNormalTimes(-1.2, 1.2), stratified=False)
    y, eps, _ = gauss_hermite(6)
    denoiser = sd.NetworkDenoiser(Features(), sde, sd.EDM(s))
    record = sd.Record(sd.Stream(torch.Generator().manual_seed(0)))
    ours = loss(denoiser, y, noise=record)
    sigma, eps = torch.exp(-1.2 + 1.2 * record.draws[0])[:, None], record.draws[1]
    noisy = y + sigma * eps
    network = denoiser.network(noisy / (sigma**2 + s**2).sqrt(), None)
    estimate = s**2 / (sigma**2 + s**2) * noisy + sigma * s / (sigma**2 + s**2).sqrt() * network
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    torch.testing.assert_close(ours, (weight * (estimate - y) ** 2)[:, 0], rtol=1e-8, atol=1e-10)


def test_ddpms_loss_is_the_mean_squared_error_of_the_noise(generator):
    # Ho et al. 2020, eq 14, on uniform chain nodes
    sde = sd.DDPMChain(sd.linear_betas(1000))
    denoiser, x0 = sd.NetworkDenoiser(Features(), sde, sd.Epsilon()), torch.randn(16, 1, generator=generator, dtype=torch.float64)
    record = sd.Record(sd.Stream(generator))
    ours = sd.DenoisingScoreMatching(times=sd.ChainTimes(), stratified=False)(denoiser, x0, noise=record)
    i = torch.ceil(torch.special.ndtr(record.draws[0]) * 1000).long()
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[i - 1][:, None]
    eps = record.draws[1]
    expected = (eps - denoiser.network(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps, None)) ** 2
    torch.testing.assert_close(ours, expected[:, 0], rtol=1e-8, atol=1e-10)


def test_stratified_times_have_the_law_and_less_variance():
    denoiser, x0 = sd.GaussianDenoiser(1.0, 0.5, sd.VPSDE()), torch.ones(32, 1, dtype=torch.float64)
    spread = {}
    for stratified in (True, False):
        loss = sd.DenoisingScoreMatching(stratified=stratified)
        draws = [loss.draw_times(denoiser, x0, sd.Stream(torch.Generator().manual_seed(i))) for i in range(200)]
        assert torch.stack(draws).mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 200 * (1 if stratified else 32)))
        spread[stratified] = torch.stack([t.mean() for t in draws]).var().item()
    assert spread[True] < spread[False] / 20
    t = sd.DenoisingScoreMatching().draw_times(denoiser, x0, sd.Stream(torch.Generator().manual_seed(0))).sort().values
    torch.testing.assert_close(t.diff(), torch.full((31,), (1 - 1e-5) / 32, dtype=torch.float64))


def test_the_sharding_of_a_batch_does_not_change_its_times():
    # training draws the times of the whole batch by its length alone, and cuts: no part may depend on what is in it
    denoiser, whole = sd.GaussianDenoiser(torch.zeros(3), 0.5, sd.VPSDE()), torch.empty(1).expand(8)
    draws = [SIMPLE.draw_times(denoiser, x, Positioned((0, 7, 1))) for x in (whole, torch.ones(8, 3))]
    assert torch.equal(draws[0], draws[1])
    parts = [SIMPLE.draw_times(denoiser, whole, Positioned((0, 7, 1)))[i : i + 2] for i in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), draws[0])


def test_the_pseudo_huber_distance_is_song_and_dhariwals(generator):
    # sqrt(|r|^2 + c^2) - c with c = 0.00054 sqrt(d), weighted as the mean square is
    denoiser, x0 = sd.GaussianDenoiser(torch.zeros(3, 4), 0.5, sd.VPSDE()), torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    eps = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    loss = sd.DenoisingScoreMatching(sd.EDMWeighting(), distance=PseudoHuber())(denoiser, x0, t=0.3, eps=eps)
    r = denoiser(denoiser.sde.perturb(x0, 0.3, eps), 0.3) - x0
    c = 0.00054 * math.sqrt(12)
    weight = sd.EDMWeighting()(denoiser.sde, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(loss, weight * ((r**2).sum((1, 2)) + c**2).sqrt().sub(c), rtol=1e-10, atol=0)


def test_the_pseudo_huber_distance_is_quadratic_then_linear_and_its_gradient_is_shorter_than_one():
    distance, d = PseudoHuber(0.1), 4
    c = 0.1 * math.sqrt(d)
    direction = torch.tensor([[0.5, -0.5, 0.5, 0.5]], dtype=torch.float64)  # of length 1
    for length in (1e-9, 1e-4):  # |r|^2/(2c) (1 - |r|^2/(4c^2) + ...)
        assert distance(length * direction).item() == pytest.approx(length**2 / (2 * c), rel=max(length**2 / (4 * c**2), 1e-12) * 1.1)
    for length in (1e2, 1e6):  # |r| - c + c^2/(2|r|) - ...
        assert distance(length * direction).item() == pytest.approx(length - c + c**2 / (2 * length), rel=1e-9)
    for length in (0.0, 1e-6, 1.0, 1e6):
        r = (length * direction).requires_grad_()
        (gradient,) = torch.autograd.grad(distance(r).sum(), r)
        assert gradient.norm().item() == pytest.approx(length / math.hypot(length, c), rel=1e-9)
        assert gradient.norm().item() < 1


def test_the_pseudo_huber_distance_keeps_its_digits_in_float32():
    r = torch.full((1, 100), 1e-7)
    assert PseudoHuber()(r).item() == pytest.approx(PseudoHuber()(r.double()).item(), rel=1e-5)


def test_an_outlier_pulls_the_pseudo_huber_minimiser_less():
    # of 0, 0, 0, 0, 100: the mean is 20, the median 0
    data, at = torch.tensor([[0.0]] * 4 + [[100.0]], dtype=torch.float64), torch.linspace(-5, 50, 551, dtype=torch.float64)
    best = [at[torch.stack([f(data - a).mean() for a in at]).argmin()].item() for f in (PseudoHuber(), lambda r: r[:, 0] ** 2)]
    assert best == pytest.approx([0.0, 20.0], abs=1e-6)


def test_the_defaults_are_the_plain_loss_to_the_bit():
    denoiser, x0 = sd.GaussianDenoiser(torch.zeros(3), 0.5, sd.VPSDE()), torch.ones(6, 3)
    record = sd.Record(sd.Stream(torch.Generator().manual_seed(1)))
    ours = SIMPLE(denoiser, x0, noise=record)
    u = torch.special.ndtr(record.draws[0])
    u = (u[0] + torch.arange(6, dtype=torch.float64) / 6) % 1
    t = 1e-5 + u * (1.0 - 1e-5)
    sde = denoiser.sde
    x0_hat = denoiser(sde.perturb(x0, t, record.draws[1]), t)
    assert torch.equal(ours, ((sde.alpha(t) / sde.sigma(t)) ** 2).to(x0) * ((x0_hat - x0) ** 2).flatten(1).mean(1))


@pytest.mark.parametrize(
    "loss",
    [sd.DenoisingScoreMatching(unbiased=True), sd.DenoisingScoreMatching(distance=PseudoHuber(0.01)), PseudoHuber()],
    ids=lambda o: repr(o)[-40:],
)
def test_a_loss_prints_as_the_expression_that_makes_it(loss):
    names = {name: getattr(sd, name) for name in ("SimpleWeighting", "UniformTimes")} | vars(score_matching)
    assert sd.build(repr(loss), names) == loss


def test_a_pseudo_huber_distance_without_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be a positive number, got 0"):
        PseudoHuber(0.0)


def test_the_loss_is_reproducible_by_generator_and_by_seeds():
    denoiser, x0 = sd.GaussianDenoiser(torch.zeros(2), 0.5, sd.VPSDE()), torch.ones(4, 2)
    one, two = (SIMPLE(denoiser, x0, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    alone = sd.DenoisingScoreMatching(stratified=False)  # stratified times couple the batch by design
    whole = alone(denoiser, x0, seeds=range(4))
    torch.testing.assert_close(torch.cat([alone(denoiser, x0[:3], seeds=[0, 1, 2]), alone(denoiser, x0[3:], seeds=[3])]), whole)


def test_the_loss_is_one_number_per_sample_in_the_dtype_of_the_data(generator):
    denoiser = sd.GaussianDenoiser(torch.zeros(3, 2, 2), 0.5, sd.VPSDE())
    for dtype in (torch.float32, torch.float64):
        loss = SIMPLE(denoiser, torch.zeros(5, 3, 2, 2, dtype=dtype), generator=generator)
        assert loss.shape == (5,)
        assert loss.dtype == dtype


def test_the_condition_reaches_the_network(generator):
    class Shift(nn.Module):
        def forward(self, x, c_noise, cond):
            return cond * torch.ones_like(x)

    denoiser = sd.NetworkDenoiser(Shift(), sd.VPSDE(), sd.X0())
    loss = sd.DenoisingScoreMatching(sd.ConstantWeighting())(denoiser, torch.zeros(2, 3), cond=2.0, generator=generator)
    torch.testing.assert_close(loss, torch.full((2,), 4.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": torch.tensor([0.5, 0.5, 0.5])}, r"t must have shape \(\) or \(2,\), one time per sample, got \(3,\)"),
        ({"t": torch.tensor([0.5, 1.5])}, r"t must lie in \[0.0, 1.0\], where VPSDE\(.*\) lives \(0 = data, 1 = noise\), got 0.5 to 1.5"),
        ({"t": torch.tensor([0, 500])}, "t must lie in"),
        ({"t": -0.1}, "t must lie in"),
        ({"t": math.nan}, "t must lie in"),
        ({"t": torch.tensor([0.0, 0.5])}, "there is no noise at t=0 under VPSDE"),
        ({"generator": torch.Generator(), "seeds": [1, 2]}, "generator and seeds each name a source of randomness"),
        ({"seeds": [1]}, "PerSample has 1 seeds for a batch of 2"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SIMPLE(sd.GaussianDenoiser(1.0, 0.5, sd.VPSDE()), torch.zeros(2, 1), **options)
