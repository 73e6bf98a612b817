import math

import pytest
import torch

import sde_diffusion as sd

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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.UniformTimes(1.0), r"t_min must lie in \[0, 1\), got 1.0"),
        (lambda: sd.UniformTimes(math.nan), r"t_min must lie in \[0, 1\), got nan"),
        (lambda: sd.UniformTimes(0.9995).quantile(sd.RectifiedFlow(), U), "t_min=0.9995 of UniformTimes must be less than t_max=0.999"),
        (lambda: sd.LogNormalTimes(std=0.0), "std must be a positive number, got 0"),
        (lambda: sd.LogNormalTimes(mean=math.nan), "mean must be finite, got nan"),
        (lambda: sd.ChainTimes().quantile(sd.VPSDE(), U), r"ChainTimes draws the nodes of a chain, and VPSDE\(.*\) is not one"),
    ],
)
def test_laws_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
