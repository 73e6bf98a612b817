"""The law that follows the losses: against the paper's algorithm, quadrature and the best law that there is."""

import collections
import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.losses import resampling
from sde_diffusion.losses.resampling import LossSecondMomentTimes

CHAIN = sd.VPSDE().discretize(25)
PROCESSES = [CHAIN, sd.VPSDE(), sd.RectifiedFlow()]
each_process = pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)


def fed(sde, bins=None, seed=0, **options):
    """A law that has seen losses like 1 + 10 t^2 with some noise."""
    law, generator = LossSecondMomentTimes(sde, bins, **options), torch.Generator().manual_seed(seed)
    while law.counts.min() < law.history:
        t = law.quantile(sde, torch.rand(100, generator=generator, dtype=torch.float64))
        law.observe(t, (1 + 10 * t**2) * torch.rand(100, generator=generator, dtype=torch.float64))
    return law


@each_process
def test_the_draws_are_uniform_until_every_bin_has_its_history(sde):
    law, n = LossSecondMomentTimes(sde, 25, history=2), 25
    t = law.quantile(sde, (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    law.observe(t, torch.linspace(1, 5, n))
    assert law.probabilities().tolist() == [1 / n] * n
    law.observe(t[1:], torch.linspace(1, 5, n)[1:])
    assert law.probabilities().tolist() == [1 / n] * n  # the first bin lacks one
    law.observe(t[:1], torch.ones(1))
    assert law.probabilities()[-1] > law.probabilities()[0]
    assert law.probabilities().sum().item() == pytest.approx(1, rel=1e-12)


def test_the_draws_of_a_fresh_law_are_its_bases():
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.equal(LossSecondMomentTimes(CHAIN).quantile(CHAIN, u), sd.ChainTimes().quantile(CHAIN, u))
    ours = LossSecondMomentTimes(sd.VPSDE(), t_min=1e-4).quantile(sd.VPSDE(), u)
    torch.testing.assert_close(ours, resampling.LikelihoodTimes(1e-4).quantile(sd.VPSDE(), u), rtol=1e-9, atol=0)


def test_a_chains_nodes_are_drawn_in_float64_and_in_proportion():
    law = fed(CHAIN)
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t = law.quantile(CHAIN, u)
    assert t.dtype == torch.float64
    counts = torch.bincount((t * 25).round().long() - 1, minlength=25)
    torch.testing.assert_close(counts / 100_000, law.probabilities(), rtol=0, atol=2e-5, check_dtype=False)
    assert set(t.tolist()) <= {i / 25 for i in range(1, 26)}
    torch.testing.assert_close(law.density(CHAIN, t), 25 * law.probabilities()[(t * 25).round().long() - 1])


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_the_density_divided_out_leaves_the_integral_over_time(sde):
    # Gauss-Legendre within each bin of u, where the quantile is smooth; int_{t_min}^{t_max} t^2 dt
    law = fed(sde, 30, t_min=1e-3)
    v, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    p = law.probabilities()
    start = p.cumsum(0) - p
    u = (start[:, None] + p[:, None] * (v + 1) / 2).flatten()
    weight = (p[:, None] * w / 2).flatten()
    t = law.quantile(sde, u)
    assert (t.diff() > 0).all()
    assert (weight * t**2 / law.density(sde, t)).sum().item() == pytest.approx((sde.t_max**3 - 1e-9) / 3, rel=1e-9)


@each_process
def test_the_law_is_the_papers_algorithm(sde):
    # Nichol & Dhariwal 2021: the last H losses of each bin, weights sqrt(mean of squares), 0.001 uniform; here by queues, loss by loss
    n, generator = 25, torch.Generator().manual_seed(1)
    law, queues = LossSecondMomentTimes(sde, n, history=3), [collections.deque(maxlen=3) for _ in range(n)]
    p = [1 / n] * n
    for step in range(60):
        t = law.quantile(sde, torch.rand(13 if step % 7 else 200, generator=generator, dtype=torch.float64))
        share = t if sde.length else (sde.log_snr(1e-5) - sde.log_snr(t)) / (sde.log_snr(1e-5) - sde.log_snr(sde.t_max))
        bins = ((share * n).ceil().long() - 1 if not sde.length else (t * n).round().long() - 1).tolist()
        losses = torch.rand(len(t), generator=generator, dtype=torch.float64) * t
        returned = losses / (n * torch.tensor(p, dtype=torch.float64)[bins])  # as the loss divides them
        law.observe(t, returned)
        for k, loss in zip(bins, losses.tolist(), strict=True):
            queues[k].append(loss)
        if all(len(queue) == 3 for queue in queues):
            root = [math.sqrt(sum(loss**2 for loss in queue) / 3) for queue in queues]
            p = [0.999 * r / sum(root) + 0.001 / n for r in root]
        assert law.probabilities().tolist() == pytest.approx(p, rel=1e-9)
    assert max(p) > 2 / n


def m1_losses(sde, n=40):
    """First, second and fourth moment of M1's likelihood loss at each node of a chain, by quadrature over the data and the noise."""
    denoiser = sd.GaussianMixtureDenoiser([[-1.0], [1.0]], 0.1, None, sde)
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    w = w / w.sum()
    x0 = torch.cartesian_prod(torch.cat([-1 + 0.1 * z, 1 + 0.1 * z]), z)
    p = torch.cartesian_prod(torch.cat([w, w]) / 2, w).prod(1)
    loss = sd.DenoisingScoreMatching(sd.LikelihoodWeighting())
    values = torch.stack([loss(denoiser, x0[:, :1], t=i / sde.length, eps=x0[:, 1:]) for i in range(1, sde.length + 1)])
    return denoiser, values @ p, values**2 @ p, values**4 @ p


def learned(denoiser, *, d, history, batch, steps):
    """The law after some steps on d independent copies of M1, and the losses' means step by step."""
    generator = torch.Generator().manual_seed(2)
    law = LossSecondMomentTimes(denoiser.sde, history=history)
    loss = sd.DenoisingScoreMatching(sd.LikelihoodWeighting(), law, unbiased=True)
    means = []
    for _ in range(steps):
        x0 = denoiser.sample_data(batch * d, generator=generator)
        t = loss.draw_times(denoiser, x0[:batch], sd.Stream(generator))
        losses = loss(denoiser, x0, t=t.repeat_interleave(d), generator=generator).reshape(batch, d).mean(1)
        loss.observe(t, losses)
        means.append(losses.mean())
    assert law.counts.min() >= history
    return law, torch.stack(means)


def variance(first, second, p):
    """Of the estimate l of (2)."""
    return ((second / p).mean() / len(p) - first.mean() ** 2).item()


def test_the_law_comes_to_the_best_and_with_it_the_variance_on_m1():
    denoiser, first, second, fourth = m1_losses(CHAIN)
    law, means = learned(denoiser, d=1, history=3000, batch=10_000, steps=20)
    assert abs(means.mean() - first.mean()) < 4 * means.std() / math.sqrt(20)
    p, best = law.probabilities(), second.sqrt() / second.sqrt().sum()
    # 3000 losses tell a root mean square to half its square's relative deviation over sqrt(3000), and their sum to what follows from it
    error = (fourth / second**2 - 1).sqrt() / 2 / math.sqrt(3000)
    whole = (best * error).square().sum().sqrt()
    assert ((p - (0.999 * best + 0.001 / 25)).abs() < 4 * (error + whole) * p).all()
    optimal, uniform = variance(first, second, best), variance(first, second, torch.full_like(best, 1 / 25))
    assert uniform == pytest.approx(3.9 * optimal, rel=0.01)
    assert optimal <= variance(first, second, p) < 1.05 * optimal


def test_ten_losses_a_node_are_enough_in_more_dimensions():
    # 16 independent copies of M1: the loss is their mean, whose second moment is first^2 + (second - first^2)/16
    denoiser, first, second, _ = m1_losses(CHAIN)
    second = first**2 + (second - first**2) / 16
    law, means = learned(denoiser, d=16, history=10, batch=200, steps=40)
    assert abs(means.mean() - first.mean()) < 4 * means.std() / math.sqrt(40)
    uniform = variance(first, second, torch.full_like(first, 1 / 25))
    assert variance(first, second, law.probabilities()) < uniform / 4


def test_a_saved_law_goes_on_as_if_it_had_never_stopped():
    one, two = fed(CHAIN), LossSecondMomentTimes(CHAIN)
    two.load_state_dict(one.state_dict())
    u = torch.linspace(0, 1, 100, dtype=torch.float64)
    for _ in range(2):
        assert torch.equal(one.quantile(CHAIN, u), two.quantile(CHAIN, u))
        t = one.quantile(CHAIN, u)
        for law in (one, two):
            law.observe(t, t * 3)
    assert list(one.parameters()) == []


def test_losses_that_are_not_finite_are_not_remembered():
    law = fed(CHAIN)
    before = law.probabilities()
    law.observe(torch.full((3,), 0.4, dtype=torch.float64), torch.tensor([math.nan, math.inf, -math.inf]))
    assert torch.equal(law.probabilities(), before)


def test_a_law_that_saw_only_zeros_is_uniform():
    law = LossSecondMomentTimes(CHAIN, history=1)
    law.observe(torch.arange(1, 26, dtype=torch.float64) / 25, torch.zeros(25))
    assert law.probabilities().tolist() == pytest.approx([1 / 25] * 25)


@pytest.mark.parametrize("law", [LossSecondMomentTimes(CHAIN), LossSecondMomentTimes(sd.VPSDE(), 7, t_min=1e-3, history=5, uniform=0.1)])
def test_a_law_prints_as_the_expression_that_makes_it(law):
    again = sd.build(repr(law), vars(sd) | vars(resampling))
    assert repr(again) == repr(law)
    assert (again.bins, again.history, again.uniform) == (law.bins, law.history, law.uniform)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossSecondMomentTimes(CHAIN, 24), "the bins of a chain are its 25 nodes, got bins=24"),
        (lambda: LossSecondMomentTimes(sd.LearnedVPSDE()), "would move as it learns.*use LikelihoodTimes"),
        (lambda: LossSecondMomentTimes(sd.VPSDE(), 0), "bins must be a whole number, at least 1, got 0"),
        (lambda: LossSecondMomentTimes(sd.VPSDE(), history=0), "history must be a whole number, at least 1, got 0"),
        (lambda: LossSecondMomentTimes(sd.VPSDE(), uniform=0.0), r"uniform must lie in \(0, 1\], got 0"),
        (lambda: LossSecondMomentTimes(sd.VPSDE(), t_min=0.0), "has no noise at t_min=0.0"),
        (lambda: LossSecondMomentTimes(sd.VPSDE()).density(sd.SubVPSDE(), torch.ones(1)), "must have the denoiser's process, got VPSDE"),
        (lambda: LossSecondMomentTimes(CHAIN).observe(torch.ones(2), torch.ones(3)), r"as many losses as times.*got \(3,\) and \(2,\)"),
        (lambda: sd.DenoisingScoreMatching(times=LossSecondMomentTimes(CHAIN)), "pass unbiased=True"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
