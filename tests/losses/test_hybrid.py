"""The variational losses against closed forms: quadrature over data and noise makes every expectation exact."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.parameterizations import LearnedVariance
from sde_diffusion.losses.decoders import DiscretizedDecoder, GaussianDecoder
from sde_diffusion.losses.hybrid import HybridLoss, VariationalLoss
from sde_diffusion.losses.times import ChainTimes, TimeLaw, UniformTimes
from sde_diffusion.losses.variational import prior_divergence, step_divergence

DDPM = sd.DDPMChain(sd.linear_betas(1000))
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * 0.25)  # of N(m, 1/4)


def quadrature(n: int, means=(0.0,), std: float = 0.5):
    """Nodes x0, eps (m, 1) and weights (m,) of E over x0 ~ a mixture of equal modes and eps ~ N(0, 1)."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    w = w / w.sum()
    grid = torch.cartesian_prod(torch.cat([m + std * z for m in means]), z)
    return grid[:, :1], grid[:, 1:], torch.cartesian_prod(w.repeat(len(means)) / len(means), w).prod(1)


def nodes(n: int, first: int = 1) -> torch.Tensor:
    return torch.arange(first, n + 1, dtype=torch.float64) / n


def at_all_nodes(loss, denoiser, mean: float = 0.0) -> float:
    """E of the loss over data N(mean, 1/4), noise and all nodes of the denoiser's chain: nothing is drawn."""
    x0, eps, w = quadrature(3, (mean,))
    t = nodes(denoiser.sde.length)
    values = loss(denoiser, x0.repeat(len(t), 1), t=t.repeat_interleave(len(x0)), eps=eps.repeat(len(t), 1))
    return float((values.reshape(len(t), -1) @ w).mean())


def best_v(chain: sd.AffineSDE, t: torch.Tensor, std: float = 0.5) -> torch.Tensor:
    """v for which c^2 = c_0^2 + w_0^2 e with the error e of the exact belief (Bao et al. 2022), of data N(m, std^2)."""
    s = t - 1 / chain.length
    r = torch.exp(-2 * chain.log_snr(t))
    _, w_0, low = chain.posterior(s, t)
    return torch.log1p(w_0**2 * std**2 * r / (std**2 + r) / low) / (chain.transition(s, t).variance / low).log()


# The bound


@dataclasses.dataclass(frozen=True)
class Best:
    """c_0^2 + w_0^2 e: the variance that no other beats."""

    def __call__(self, sde, t, s):
        _, w_0, low = sde.posterior(s, t)
        r = torch.exp(-2 * sde.log_snr(t))
        return low + w_0**2 * 0.25 * r / (0.25 + r)


@pytest.mark.parametrize(("variance", "gap"), [("forward", 0.00109), ("posterior", 0.45635), (Best(), 0.00000)])
def test_the_bound_of_the_exact_belief_misses_the_entropy_by_what_systems_a4_says(variance, gap):
    # row A4 of the project's collection, for N(0, 1/4) data; the integrands are quadratic, so that 3 nodes are exact.
    x0, _, w = quadrature(3)
    bits = at_all_nodes(VariationalLoss(variance=variance), sd.GaussianDenoiser(0.0, 0.5, DDPM))
    assert bits * math.log(2) + float(prior_divergence(DDPM, x0) @ w) - ENTROPY == pytest.approx(gap, abs=5e-6)


def test_a_mean_of_one_adds_the_prior_s_mismatch_to_it():
    # alpha_bar_n/2 = 2.02e-5 nats: the 0.00109 of row A4 is 0.00111 on N(1, 1/4)
    x0, _, w = quadrature(3, (1.0,))
    bits = at_all_nodes(VariationalLoss(variance="forward"), sd.GaussianDenoiser(1.0, 0.5, DDPM), mean=1.0)
    expected = 0.00109225 + 0.5 * float(DDPM.alpha(1.0)) ** 2
    assert bits * math.log(2) + float(prior_divergence(DDPM, x0) @ w) - ENTROPY == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (DDPM, {"forward": 3.0207, "posterior": 3.3970, "best": 3.0040}),
        (DDPM.respaced(51), {"forward": 3.348, "posterior": 20.4, "best": 3.073}),
    ],
    ids=["1000 steps", "50 steps"],
)
def test_the_steps_on_two_narrow_modes_cost_what_systems_a4_and_b4_say(chain, expected):
    # rows A4, B4 and table O4: modes N(+-1, 0.01), the exact belief, sum over t >= 2; 16 nodes agree with 24 to 6e-6.
    # Both modes have the same error by symmetry: the data are drawn from one.
    x0, eps, w = quadrature(16, (1.0,), 0.1)
    t = nodes(chain.length, 2)
    many = t.repeat_interleave(len(x0))
    x0, eps = x0.repeat(len(t), 1), eps.repeat(len(t), 1)
    x0_hat = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], [0.1, 0.1], None, DDPM).under(chain)(chain.perturb(x0, many, eps), many)
    error = ((x0 - x0_hat) ** 2).reshape(len(t), -1) @ w

    def best(sde, t, s):
        _, w_0, low = sde.posterior(s, t)
        return low + w_0**2 * error.repeat_interleave(len(w))

    for name, variance in (("forward", "forward"), ("posterior", "posterior"), ("best", best)):
        divergence = step_divergence(chain, x0, x0_hat, many, many - 1 / chain.length, variance=variance)
        digits = {20.4: 0.05}.get(expected[name], 0.00005 if chain is DDPM else 0.0005)
        assert float((divergence.reshape(len(t), -1) @ w).sum()) == pytest.approx(expected[name], abs=digits)


def test_cosine_chain_has_the_numbers_of_systems_b4():
    cosine = sd.DDPMChain(sd.cosine_betas(1000))
    assert f"{float(cosine.alpha(1.0)) ** 2:.2e}" == "2.43e-09"
    assert f"{cosine.betas[0]:.2e}" == "4.13e-05"
    assert f"{float(cosine.alpha(0.5)) ** 2:.4f}" == "0.4938"
    assert f"{float(DDPM.alpha(0.5)) ** 2:.4f}" == "0.0786"


# Learning


class Table(nn.Module):
    """Predicts the noise of the chain's nodes by a gain and an offset, and v by a number, one of each per node."""

    def __init__(self, chain: sd.AffineSDE) -> None:
        super().__init__()
        self.chain = chain
        self.gain, self.offset, self.v = (nn.Parameter(torch.full((chain.length,), a, dtype=torch.float64)) for a in (0.5, 0.0, 0.5))

    def forward(self, x, c_noise):
        i = (self.chain.t_of_log_snr(-4 * c_noise.double()) * self.chain.length).round().long() - 1
        return torch.cat([self.gain[i, None] * x + self.offset[i, None], (2 * self.v[i, None] - 1).expand_as(x)], 1)


def table(chain: sd.AffineSDE) -> sd.NetworkDenoiser:
    return sd.NetworkDenoiser(Table(chain), chain, LearnedVariance())


def test_the_best_v_has_the_numbers_of_systems_b4():
    assert [f"{v:.3f}" for v in best_v(DDPM, torch.tensor([10.0, 100.0, 500.0, 1000.0], dtype=torch.float64) / 1000)] == [
        "0.995",
        "0.766",
        "0.266",
        "0.250",
    ]


def test_the_hybrid_loss_teaches_a_model_the_best_variance_and_the_best_mean():
    # nothing is drawn: 3 nodes of quadrature make the mean over data and noise exact
    chain = sd.DDPMChain(sd.linear_betas(6, 0.05, 0.6))
    denoiser, loss = table(chain), HybridLoss()
    x0, eps, w = quadrature(3)
    many, t = nodes(6).repeat_interleave(len(w)), nodes(6, 2)
    x0, eps, w = x0.repeat(6, 1), eps.repeat(6, 1), w.repeat(6) / 6
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.1)
    for k in range(80):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - k / 80)
        optimizer.zero_grad()
        (loss(denoiser, x0, t=many, eps=eps) @ w).backward()
        optimizer.step()
    v, gain = denoiser.network.v.detach(), denoiser.network.gain.detach()
    assert (v[1:] - best_v(chain, t)).abs().max() < 0.05
    sigma, alpha = chain.sigma(nodes(6)), chain.alpha(nodes(6))
    assert (gain - sigma / (alpha**2 / 4 + sigma**2)).abs().max() < 0.05


def test_the_mean_learns_from_the_first_term_and_the_variance_from_the_bound():
    chain = sd.DDPMChain(sd.linear_betas(10, 0.02, 0.6))
    x0 = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradients(loss) -> dict[str, torch.Tensor]:
        denoiser = table(chain)
        loss(denoiser, x0, generator=torch.Generator().manual_seed(1)).sum().backward()
        return {name: torch.zeros(10).double() if p.grad is None else p.grad for name, p in denoiser.network.named_parameters()}

    hybrid, bound, simple = (gradients(a) for a in (HybridLoss(0.1), VariationalLoss(), sd.DenoisingScoreMatching(times=ChainTimes())))
    for name in ("gain", "offset"):
        torch.testing.assert_close(hybrid[name], simple[name], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(bound[name], torch.zeros(10).double())
    torch.testing.assert_close(hybrid["v"], 0.1 * bound["v"], rtol=1e-12, atol=0)
    assert (hybrid["v"] != 0).all()


def test_the_second_term_is_the_bits_per_dimension_of_the_authors_code():
    # a transcription of improved_diffusion's _vb_terms_bpd and RESCALED_MSE: mse + vb n/1000, for pixels on [-1, 1] in 255ths
    def normal_kl(mean1, logvar1, mean2, logvar2):
        return 0.5 * (-1.0 + logvar2 - logvar1 + torch.exp(logvar1 - logvar2) + (mean1 - mean2) ** 2 * torch.exp(-logvar2))

    chain, n = sd.DDPMChain(sd.cosine_betas(50)), 50
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(0, 256, (n, 3, 2, 2), generator=generator).double() / 127.5 - 1
    eps = torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64)

    class Network(nn.Module):
        def forward(self, x, c_noise):
            return torch.cat([torch.tanh(x) + 0.1 * c_noise[:, None, None, None], torch.sin(x)], 1)

    t = nodes(n)
    ours = HybridLoss(decoder=DiscretizedDecoder(2 / 255))(sd.NetworkDenoiser(Network(), chain, LearnedVariance()), x0, t=t, eps=eps)

    betas = torch.tensor(chain.betas, dtype=torch.float64)[:, None, None, None]
    bar = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones_like(bar[:1]), bar[:-1]])
    beta_tilde = betas * (1 - before) / (1 - bar)
    min_log = torch.cat([beta_tilde[1:2], beta_tilde[1:]]).log()
    x = bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    out, frac = torch.tanh(x) - 0.1 * chain.log_snr(t)[:, None, None, None] / 4, (torch.sin(x) + 1) / 2
    log_variance = frac * betas.log() + (1 - frac) * min_log
    a, b = betas * before.sqrt() / (1 - bar), (1 - before) * (1 - betas).sqrt() / (1 - bar)
    pred = (x - (1 - bar).sqrt() * out) / bar.sqrt()
    kl = normal_kl(a * x0 + b * x, min_log, a * pred + b * x, log_variance).mean((1, 2, 3)) / math.log(2)
    cdf = torch.special.ndtr
    upper, lower = (cdf((x0 - pred + e / 255) * torch.exp(-0.5 * log_variance)) for e in (1, -1))
    log_probs = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower)).log()
    nll = -log_probs.mean((1, 2, 3)) / math.log(2)
    theirs = ((out - eps) ** 2).mean((1, 2, 3)) + torch.where(torch.arange(n) == 0, nll, kl) * n / 1000
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


# The law of times


@dataclasses.dataclass(frozen=True)
class Early(TimeLaw):
    """The first half of the nodes three times as often as the second."""

    def quantile(self, sde, u):
        n = sde.length
        place = torch.where(u < 0.75, u / 1.5, 0.5 + (u - 0.75) * 2)
        return torch.ceil(place * n).clamp(min=1) / n

    def density(self, sde, t):
        return torch.where(t <= 0.5, 1.5, 0.5).to(t)


@pytest.mark.parametrize("make", [lambda law: VariationalLoss(times=law), lambda law: HybridLoss(times=law)])
def test_the_law_of_times_does_not_change_the_mean(make):
    chain = sd.DDPMChain(sd.linear_betas(8, 0.02, 0.6))
    denoiser, t = table(chain), nodes(8)
    x0, eps = (torch.randn(8, 1, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2))
    uniform, early = (make(law)(denoiser, x0, t=t, eps=eps) for law in (ChainTimes(), Early()))
    torch.testing.assert_close((early * Early().density(chain, t)).mean(), uniform.mean())
    drawn = make(Early()).draw_times(denoiser, x0[:1].expand(4000, 1), sd.Stream(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(torch.stack([(drawn == a).double().mean() for a in t]), Early().density(chain, t) / 8, rtol=0, atol=1e-3)


def test_a_law_that_follows_the_losses_leaves_the_bound_its_mean_and_takes_most_of_its_variance():
    chain = sd.DDPMChain(sd.linear_betas(20, 0.004, 0.5))
    denoiser = sd.GaussianDenoiser([0.0] * 16, 0.5, chain)
    generator = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(4000, 16, generator=generator, dtype=torch.float64)
    law = sd.LossSecondMomentTimes(chain)
    loss = VariationalLoss("forward", times=law, stratified=False)
    for _ in range(20):
        t = loss.draw_times(denoiser, x0[:200], sd.Stream(generator))
        loss.observe(t, loss(denoiser, x0[:200], t=t, generator=generator))
    followed, uniform = (a(denoiser, x0, generator=generator) for a in (loss, VariationalLoss("forward", stratified=False)))
    error = float((followed.var() + uniform.var()).sqrt()) / math.sqrt(4000)
    assert float(followed.mean()) == pytest.approx(float(uniform.mean()), abs=3 * error)
    assert float(followed.var()) < 0.3 * float(uniform.var())


def test_losses_print_build_and_work_in_float32():
    names = {a.__name__: a for a in (VariationalLoss, HybridLoss, ChainTimes, DiscretizedDecoder, GaussianDecoder, sd.SimpleWeighting)}
    for loss in (VariationalLoss("forward"), HybridLoss(0.01, decoder=DiscretizedDecoder(0.125), stratified=False)):
        assert sd.build(repr(loss), names) == loss
        assert hash(loss) == hash(sd.build(repr(loss), names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Conv2d(1, 2, 3, padding=1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = network

        def forward(self, x, c_noise):
            return self.conv(x)

    denoiser = sd.NetworkDenoiser(Net(), DDPM, LearnedVariance())
    x0 = torch.randint(0, 17, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 8 - 1
    for loss in (VariationalLoss(decoder=DiscretizedDecoder(0.125)), HybridLoss(decoder=DiscretizedDecoder(0.125))):
        values = loss(denoiser, x0, t=torch.arange(64) / 1000 + 0.001, seeds=range(64))
        assert (values.dtype, values.shape) == (torch.float32, (64,))
        values.mean().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())


# Respacing


@pytest.mark.parametrize(
    "chain",
    [DDPM, sd.NCSNLadder(sd.geometric_sigmas(40)), sd.SubVPSDE().discretize(60), sd.CosineVPSDE().discretize(60)],
    ids=lambda c: type(c).__name__,
)
def test_a_respaced_chain_has_the_long_one_s_marginals_at_its_nodes(chain):
    short = chain.respaced(10)
    kept = torch.tensor([round(1 + k * (chain.length - 1) / 9) for k in range(10)]).double() / chain.length
    assert short.length == 10
    assert type(short) is type(chain)
    for name in ("alpha", "sigma"):
        torch.testing.assert_close(getattr(short, name)(nodes(10)), getattr(chain, name)(kept), rtol=1e-11, atol=0)
    assert chain.respaced(chain.length) is chain


def test_the_betas_of_a_respaced_chain_are_ratios_of_alpha_bars():
    bar = torch.cumprod(1 - torch.tensor(DDPM.betas, dtype=torch.float64), 0)
    short = DDPM.respaced([1, 10, 500, 1000])
    expected = [1 - bar[0], 1 - bar[9] / bar[0], 1 - bar[499] / bar[9], 1 - bar[999] / bar[499]]
    torch.testing.assert_close(torch.tensor(short.betas).double(), torch.stack(expected), rtol=1e-6, atol=0)


def test_sampling_a_respaced_chain_is_sampling_the_long_one_at_its_nodes():
    denoiser = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], [0.1, 0.1], None, DDPM)
    short = DDPM.respaced(20)
    x = torch.randn(16, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = torch.tensor([round(1 + k * 999 / 19) for k in range(20)]).double() / 1000
    grid = torch.cat([torch.zeros(1, dtype=torch.float64), kept]).flip(0)
    for variance in ("posterior", "forward"):
        a = sd.sample(denoiser.under(short), sd.Ancestral(variance), x=x, seeds=range(16))
        b = sd.sample(denoiser, sd.Ancestral(variance), x=x, grid=grid, seeds=range(16))
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_network_is_shown_the_long_chain_s_labels_under_a_respaced_one():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, c_noise):
            seen.append(c_noise[0].item())
            return x

    label = sd.TimeLabel(1000.0, -1.0)
    denoiser = sd.NetworkDenoiser(Spy(), DDPM, sd.Epsilon(), label).under(DDPM.respaced([1, 7, 300, 1000]))
    for t in nodes(4):
        denoiser(torch.zeros(2, 1, dtype=torch.float64), t)
    assert seen == pytest.approx([0, 6, 299, 999], abs=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x0: VariationalLoss()(table(DDPM).under(sd.VPSDE()), x0),
            r"a sum over the steps of a chain, and VPSDE\(.*use sde.discretize",
        ),
        (lambda x0: VariationalLoss("forward")(sd.GaussianDenoiser(0.0, 1.0, DDPM), x0, t=0.0005), "t=0.0005 is no node 1/1000, ..., 1"),
        (
            lambda x0: VariationalLoss("forward", times=UniformTimes())(sd.GaussianDenoiser(0.0, 1.0, DDPM), x0, seeds=range(4)),
            "draw it by ChainTimes",
        ),
        (lambda x0: VariationalLoss("forward")(sd.GaussianDenoiser(0.0, 1.0, DDPM), x0, t=torch.ones(2)), r"shape \(\) or \(4,\)"),
        (lambda x0: HybridLoss()(sd.GaussianDenoiser(0.0, 1.0, DDPM), x0), "has learned no variance; use a NetworkDenoiser"),
        (lambda x0: VariationalLoss("beta"), "variance must be 'posterior', 'forward', 'learned' or a function"),
        (lambda x0: HybridLoss(0.0), "vlb_weight must be a positive number, got 0.0; DenoisingScoreMatching"),
        (
            lambda x0: VariationalLoss("forward", DiscretizedDecoder(0.25))(sd.GaussianDenoiser(0.0, 1.0, DDPM), x0, t=0.5),
            "0.1 is none of the 9 values",
        ),
        (lambda x0: HybridLoss(decoder=DiscretizedDecoder(0.25))(table(DDPM), x0, t=0.5), "0.1 is none of the 9 values"),
        (lambda x0: DDPM.respaced(1), r"respaced to 2..1000, got 1"),
        (lambda x0: DDPM.respaced(1001), r"respaced to 2..1000, got 1001"),
        (lambda x0: DDPM.respaced([1, 5, 999]), r"increase from 1 or more to 1000, got \[1, 5, 999\]"),
        (lambda x0: DDPM.respaced([0, 5, 1000]), r"increase from 1 or more"),
    ],
)
def test_wrong_losses_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.full((4, 1), 0.1, dtype=torch.float64))
