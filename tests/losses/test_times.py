import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.losses import times
from sde_diffusion.losses.times import LikelihoodTimes

U = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
SDES = [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(), sd.EDMSDE(), sd.RectifiedFlow(), sd.CosineVPSDE(), sd.DDPMChain(sd.linear_betas(1000))]


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_uniform_times_are_uniform_up_to_t_max(sde):
    t = sd.UniformTimes(0.01).quantile(sde, U)
    torch.testing.assert_close((t - 0.01) / (sde.t_max - 0.01), U, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_log_normal_times_have_a_normal_log_noise_to_signal_ratio(sde):
    t = sd.LogNormalTimes(-1.2, 0.6).quantile(sde, U)
    assert (t.diff() >= 0).all()
    inside = (t > max(sde.t_min, 1e-3)) & (t < sde.t_max)
    assert inside.sum() > 1900
    normal = torch.distributions.Normal(-1.2, 0.6)
    torch.testing.assert_close(normal.cdf(-sde.log_snr(t)[inside]), U[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_log_normal_times_stay_where_the_noise_is_positive(sde):
    t = sd.LogNormalTimes(0.0, 10.0).quantile(sde, torch.tensor([0.0, 1e-9, 0.5, 1.0 - 1e-9], dtype=torch.float64))
    assert t.isfinite().all()
    assert (sde.sigma(t) > 0).all()
    assert t.max().item() <= sde.t_max


def test_chain_times_are_the_nodes_equally_often():
    sde = sd.DDPMChain(sd.linear_betas(10))
    t = sd.ChainTimes().quantile(sde, U)
    nodes, counts = (t * 10).round().unique(return_counts=True)
    assert nodes.tolist() == list(range(1, 11))
    assert counts.tolist() == [200] * 10
    torch.testing.assert_close(t * 10, (t * 10).round(), rtol=0, atol=1e-12)
    assert sd.ChainTimes().quantile(sde, torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.1, 1.0])


def integral(sde, t):
    """Song et al. 2021's B of VP and sub-VP, written out."""
    return 0.5 * t**2 * (20 - 0.1) + t * 0.1


@pytest.mark.parametrize(
    ("sde", "cumulative"),
    [
        (sd.VPSDE(), lambda sde, t: torch.log(torch.expm1(integral(sde, t)))),
        (sd.SubVPSDE(), lambda sde, t: 2 * torch.log(torch.expm1(integral(sde, t))) - integral(sde, t)),
        (sd.VESDE(), lambda sde, t: t),
    ],
    ids=lambda o: type(o).__name__,
)
def test_likelihood_times_are_song_et_als_closed_forms(sde, cumulative):
    # systems.md C4: t is drawn uniformly in the integral of g^2/sigma^2, given there for these three
    t = LikelihoodTimes(1e-5).quantile(sde, U)
    low, high = (cumulative(sde, torch.tensor(end, dtype=torch.float64)) for end in (1e-5, 1.0))
    torch.testing.assert_close((cumulative(sde, t) - low) / (high - low), U, rtol=0, atol=1e-11)


def test_the_integral_of_vps_g2_over_sigma2_is_23_86():
    # log(e^10.05 - 1) - log(e^1.000995e-6 - 1) = 10.04996 + 13.81451, with B(1) = 10.05 and B(1e-5) = 1e-6 + 9.95e-10
    z = 1 / LikelihoodTimes(1e-5).density(sd.VPSDE(), U) * (sd.VPSDE().g(U) / sd.VPSDE().sigma(U)) ** 2
    torch.testing.assert_close(z, torch.full_like(U, 23.86447), rtol=1e-6, atol=0)


ANY = sd.AffineSDE.from_coefficients(lambda t: -t - 1, lambda t: 1 + torch.sin(3 * t))
LAWS = [LikelihoodTimes(1e-4), sd.UniformTimes(0.01), sd.LogNormalTimes(-1.2, 0.6)]


@pytest.mark.parametrize("sde", [*SDES, ANY], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("law", LAWS, ids=lambda o: type(o).__name__)
def test_the_density_is_the_rate_of_the_share_of_draws(law, sde):
    # between two quantiles: Simpson's rule on the density, 1000 of them per unit share, of which some may hold a kink of a chain
    u = torch.linspace(0.05, 0.95, 901, dtype=torch.float64)
    t = law.quantile(sde, u)
    q = [law.density(sde, a) for a in (t[:-1], (t[:-1] + t[1:]) / 2, t[1:])]
    share = t.diff() * (q[0] + 4 * q[1] + q[2]) / 6
    inside = share.isfinite()
    assert inside.sum() > 850
    torch.testing.assert_close(share[inside].mean().item(), 0.9 / 900, rtol=1e-4 if sde.length is None else 1e-2, atol=0)


def test_a_chains_nodes_have_density_one():
    assert sd.ChainTimes().density(sd.VPSDE().discretize(30), U[:3]).tolist() == [1.0] * 3


def test_what_log_normal_times_move_to_the_ends_counts_as_nothing():
    law, sde = sd.LogNormalTimes(0.0, 10.0), sd.EDMSDE()
    t = law.quantile(sde, torch.tensor([1e-4, 0.5, 1 - 1e-4], dtype=torch.float64))
    assert law.density(sde, t).isinf().tolist() == [True, False, True]


@pytest.mark.parametrize("sde", [*SDES, ANY], ids=lambda s: type(s).__name__)
def test_likelihood_times_stay_between_t_min_and_t_max(sde):
    t = LikelihoodTimes(1e-3).quantile(sde, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (t >= 1e-3).all()
    assert (t <= sde.t_max).all()
    assert t.tolist() == pytest.approx([1e-3, sde.t_max], rel=1e-8)


def test_likelihood_times_print_as_the_expression_that_makes_them():
    assert sd.build(repr(LikelihoodTimes(1e-3)), vars(times)) == LikelihoodTimes(1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.UniformTimes(1.0), r"t_min must lie in \[0, 1\), got 1.0"),
        (lambda: sd.UniformTimes(math.nan), r"t_min must lie in \[0, 1\), got nan"),
        (lambda: LikelihoodTimes(-1e-5), r"t_min must lie in \[0, 1\), got -1e-05"),
        (lambda: LikelihoodTimes(0.9995).quantile(sd.RectifiedFlow(), U), "t_min=0.9995 must be less than t_max=0.999"),
        (lambda: LikelihoodTimes(0.0).quantile(sd.VPSDE(), U), r"VPSDE\(.*\) has no noise at t_min=0.0.*use a t_min > 0"),
        (lambda: sd.UniformTimes(0.9995).quantile(sd.RectifiedFlow(), U), "t_min=0.9995 of UniformTimes must be less than t_max=0.999"),
        (lambda: sd.LogNormalTimes(std=0.0), "std must be a positive number, got 0"),
        (lambda: sd.LogNormalTimes(mean=math.nan), "mean must be finite, got nan"),
        (lambda: sd.ChainTimes().quantile(sd.VPSDE(), U), r"ChainTimes draws the nodes of a chain, and VPSDE\(.*\) is not one"),
    ],
)
def test_laws_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
