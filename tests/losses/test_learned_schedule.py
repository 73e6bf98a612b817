import math

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.losses.base import Loss
from sde_diffusion.losses.learned_schedule import VDMLoss
from sde_diffusion.sdes.learned import LearnedVPSDE
from sde_diffusion.sdes.tabulated import TabulatedVPSDE


def mixture(sde, dim=32):
    """Two narrow modes: all that there is to find out is found out in a few units of gamma."""
    return sd.GaussianMixtureDenoiser([[-1.0] * dim, [1.0] * dim], 0.02, None, sde)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian_bound(sde, std, n=20001):
    """The bound of N(0, std^2) by quadrature: E|eps - eps_hat|^2 = alpha^2 std^2/(alpha^2 std^2 + sigma^2)."""
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    error = 1 / (1 + torch.exp(-2 * sde.log_snr(t)) / std**2)
    diffusion = torch.trapezoid(0.5 * (sde.g(t) / sde.sigma(t)) ** 2 * error, t)
    x0 = torch.tensor([[-std], [std]], dtype=torch.float64)  # with the second moment of the data
    loss = VDMLoss()
    return diffusion + loss.reconstruction(sde, x0) + loss.prior(sde, x0).mean()


def entropy(std):
    return 0.5 * math.log(2 * math.pi * math.e * std**2)


def warped(power):
    """gamma from -13.3 to 5 as a power of time."""
    return TabulatedVPSDE(tuple(6.65 - 9.15 * (i / 512) ** power for i in range(513)))


def test_it_is_a_loss():
    assert isinstance(VDMLoss(), Loss)
    assert sd.build(repr(VDMLoss(width=0.5)), {"VDMLoss": VDMLoss}) == VDMLoss(0.5)


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_the_bound_of_an_exact_denoiser_is_the_entropy_whatever_the_schedule_between_its_ends(std):
    bounds = [gaussian_bound(sde, std).item() for sde in (LearnedVPSDE(), warped(1.0), warped(2.0), warped(1.5))]
    # what the ends leave: 1/2 log(1 + r^2/std^2) with r = sigma/alpha = exp(-6.65), and 2e-5 of the prior for std = 1/2, 0 for 1
    assert bounds == pytest.approx([entropy(std)] * 4, abs=1e-4)
    assert bounds == pytest.approx([bounds[0]] * 4, abs=1e-6)


def test_its_estimate_has_the_bound_for_its_mean():
    sde = LearnedVPSDE(3.0, -2.5).requires_grad_(False)
    denoiser = sd.GaussianDenoiser([0.0] * 4, 0.5, sde)
    draws = 40_000
    losses = VDMLoss()(denoiser, denoiser.sample_data(draws, generator=generator()), generator=generator(1))
    assert losses.shape == (draws,)
    assert losses.mean().item() == pytest.approx(gaussian_bound(sde, 0.5).item(), abs=4 * losses.std().item() / math.sqrt(draws))


def test_data_on_a_lattice_have_the_bound_that_is_their_entropy():
    """Two points, a bit of entropy: log 2 nats."""
    data = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    sde = LearnedVPSDE().requires_grad_(False)
    denoiser, loss = sd.EmpiricalDenoiser(data, sde), VDMLoss(width=1.0)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(60))
    mean = torch.zeros((), dtype=torch.float64)
    for eps, weight in zip(nodes, weights / weights.sum(), strict=True):
        mean = mean + weight * loss(denoiser, data[:1].expand(len(t), 1), t=t, eps=eps.expand(len(t), 1))
    assert torch.trapezoid(mean, t).item() == pytest.approx(math.log(2), abs=1e-3)


def test_a_bin_that_is_narrow_beside_the_noise_has_the_density_times_its_width():
    sde, x0 = LearnedVPSDE(2.0, -2.5), torch.zeros(1, 1, dtype=torch.float64)
    width = 1e-3
    continuous = VDMLoss().reconstruction(sde, x0).item() - math.log(width)
    assert VDMLoss(width).reconstruction(sde, x0).item() == pytest.approx(continuous, abs=1e-6)


def test_a_bin_that_is_wide_beside_the_noise_is_certain():
    assert VDMLoss(width=0.1).reconstruction(LearnedVPSDE(), torch.zeros(1, 1)).item() == pytest.approx(0, abs=1e-6)


def test_one_backward_pass_gives_network_ends_and_interior_the_gradients_of_two():
    """The network and the ends descend on sum l, the interior on the sum of squares of the diffusion term."""

    def made():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = sd.MLP(dim=2, width=8, depth=1)
            for p in network.parameters():  # the last layer starts at 0
                torch.nn.init.normal_(p, std=0.3)
        return LearnedVPSDE(3.0, -2.5, hidden=4), network

    x0, t = torch.linspace(-1, 1, 16).reshape(8, 2), (torch.arange(8, dtype=torch.float64) + 0.3) / 8
    eps = torch.randn(8, 2, generator=generator())
    sde, network = made()
    VDMLoss()(sd.NetworkDenoiser(network, sde, sd.Epsilon()), x0, t=t, eps=eps).sum().backward()

    plain, other = made()
    denoiser, loss = sd.NetworkDenoiser(other, plain, sd.Epsilon()), VDMLoss()
    total = loss._diffusion(denoiser, x0, t, eps, None) + loss.prior(plain, x0) + loss.reconstruction(plain, x0)
    wanted = torch.autograd.grad(total.sum(), [*other.parameters(), plain.ends])
    interior = (plain.log_heights, plain.log_rates, plain.centers)
    square = torch.autograd.grad(loss._diffusion(denoiser, x0, t, eps, None).square().sum(), interior)
    found = [p.grad for p in (*network.parameters(), sde.ends, sde.log_heights, sde.log_rates, sde.centers)]
    for mine, theirs in zip(found, (*wanted, *square), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert theirs.abs().max() > 0


def test_training_the_interior_alone_more_than_halves_the_variance_of_the_estimate_and_keeps_its_mean():
    sde = LearnedVPSDE(learn_endpoints=False)
    denoiser, loss = mixture(sde), VDMLoss()
    x0 = denoiser.sample_data(256, generator=generator())

    def estimate():
        with torch.no_grad():
            losses = loss(denoiser, denoiser.sample_data(8192, generator=generator(1)), generator=generator(2))
        return losses.mean().item(), losses.var().item()

    mean, variance = estimate()
    optimizer = torch.optim.Adam(sde.parameters(), lr=0.05)
    draw = generator(3)
    for _ in range(80):
        loss(denoiser, x0, generator=draw).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained_mean, trained_variance = estimate()
    assert trained_variance < variance / 2
    assert trained_mean == pytest.approx(mean, abs=4 * math.sqrt((variance + trained_variance) / 8192))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert (sde.log_snr(t).diff() < 0).all()


def test_the_ends_move_apart_as_the_bound_tightens():
    """For N(0, 1/4): the bound's derivatives by the ends are half sigma_0^2 and the like, towards less noise at 0 and more at 1."""
    sde = LearnedVPSDE(1.0, -1.0)
    gaussian_bound(sde, 0.5).backward()
    low, high = sde.ends.grad.tolist()
    assert low > 0
    assert high < 0
    expected = sde.ends.grad.clone()
    sde.ends.grad = None
    denoiser = sd.GaussianDenoiser([0.0] * 64, 0.5, sde)
    x0 = denoiser.sample_data(4096, generator=generator())
    VDMLoss()(denoiser, x0, generator=generator(1)).mean().backward()
    torch.testing.assert_close(sde.ends.grad, expected, rtol=0.1, atol=0)


def test_times_are_spread_evenly_over_the_batch():
    t = VDMLoss().draw_times(mixture(LearnedVPSDE()), torch.zeros(10, 32), sd.Stream(generator()))
    torch.testing.assert_close(t.sort().values.diff(), torch.full((9,), 0.1, dtype=torch.float64))
    assert t.dtype == torch.float64


def test_it_is_a_bound_under_processes_that_learn_nothing_too():
    sde = sd.VPSDE()
    t = torch.linspace(sde.t_min, 1, 20001, dtype=torch.float64)
    error = 1 / (1 + torch.exp(-2 * sde.log_snr(t)) / 0.25)
    x0 = torch.tensor([[0.5]], dtype=torch.float64)
    bound = torch.trapezoid(0.5 * (sde.g(t) / sde.sigma(t)) ** 2 * error, t) + VDMLoss().reconstruction(sde, x0) + VDMLoss().prior(sde, x0)
    assert bound.item() == pytest.approx(entropy(0.5), abs=1e-3)
    denoiser = sd.GaussianDenoiser([0.0] * 16, 0.5, sde)
    losses = VDMLoss()(denoiser, denoiser.sample_data(20_000, generator=generator()), generator=generator(1))
    assert losses.mean().item() == pytest.approx(bound.item(), abs=4 * losses.std().item() / math.sqrt(20_000))


@pytest.mark.parametrize(
    "loss",
    [sd.DenoisingScoreMatching(), sd.LearnedUncertainty(sd.DenoisingScoreMatching()), sd.SlicedScoreMatching(steps=2)],
    ids=lambda loss: type(loss).__name__,
)
def test_a_schedule_is_not_learned_from_losses_that_it_would_lower_by_its_noise_levels(loss):
    denoiser, x0 = mixture(LearnedVPSDE()), torch.zeros(2, 32)
    with pytest.raises(ValueError, match=r"LearnedVPSDE\(.*\) would lower \w+ScoreMatching by its noise.*VDMLoss"):
        loss(denoiser, x0, generator=generator())
    assert loss(denoiser.under(denoiser.sde.frozen()), x0, generator=generator()).isfinite().all()


def test_a_chain_times_outside_the_process_and_a_width_of_nothing_are_refused():
    with pytest.raises(ValueError, match="a chain of 10 steps"):
        VDMLoss()(mixture(sd.VPSDE().discretize(50).respaced(10)), torch.zeros(2, 32), generator=generator())
    for t, message in ((2.0, r"lie in \[0.001, 1.0\]"), (0.0, r"lie in \[0.001"), (torch.ones(3), r"shape \(\) or \(2,\)")):
        with pytest.raises(ValueError, match=message):
            VDMLoss()(mixture(sd.VPSDE()), torch.zeros(2, 32), t=t, generator=generator())
    with pytest.raises(ValueError, match="width must be a positive number"):
        VDMLoss(width=0.0)
