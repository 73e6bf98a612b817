"""Log-likelihoods against exact densities: Gaussians, the ring of systems.md and mixtures in 64 dimensions."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.likelihood.flow import default_t_min

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _problems import mix64, ring

PROCESSES = [sd.VPSDE(), sd.SubVPSDE(), sd.CosineVPSDE(), sd.VESDE(0.01, 50.0), sd.EDMSDE(), sd.RectifiedFlow()]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rms(error):
    return error.square().mean().sqrt().item()


def mismatch(denoiser, found):
    """What the prior says of the codes less what it should: a part of the model, not an error of the solver."""
    end = found.code * denoiser.sde.prior_std
    return denoiser.sde.prior_log_prob(end) - denoiser.log_prob(end, denoiser.sde.t_max)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
def test_the_density_of_a_gaussian_is_exact_but_for_the_prior(sde):
    denoiser = sd.GaussianDenoiser(torch.tensor([0.3, -0.2, 0.0]), torch.tensor([0.2, 0.7, 1.5]), sde)
    x = denoiser.sample_data(50, generator=generator())
    found = sd.log_likelihood(denoiser, x)
    error = found.nats - mismatch(denoiser, found) - denoiser.log_prob(x, default_t_min(sde))
    assert error.abs().max() < 2e-4
    assert (found.standard_error == 0).all()
    assert found.nats.dtype == torch.float64


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.EDMSDE()], ids=lambda s: type(s).__name__)
def test_exact_traces_in_64_dimensions_err_by_less_than_5e_3_nats_in_80_calls(sde):
    denoiser = mix64(sde)
    x = denoiser.sample_data(300, generator=generator(1))
    found = sd.log_likelihood(denoiser, x)
    assert rms(found.nats - denoiser.log_prob(x, default_t_min(sde))) < 5e-3
    assert found.nfe.double().mean() < 80


@pytest.mark.parametrize("t_min", [1e-5, 1e-3])
def test_the_ring_of_systems_a17(t_min):
    # At most .0042 from p_0 for 1e-5, 5e-4 from p_eps for 1e-3. Its .029 from p_0 for 1e-3 is what p_1e-3 and p_0 differ by at the farthest
    # of its points; of ours it is .083.
    denoiser = ring(sd.VPSDE())
    x = denoiser.sample_data(500, generator=generator())
    found = sd.log_likelihood(denoiser, x, t_min=t_min)
    error, truncated = (found.nats - denoiser.log_prob(x, t) for t in (t_min, 0.0))
    assert error.abs().max() < 5e-4
    assert error.mean().abs() < 7e-5
    assert truncated.abs().max() < (4.2e-3 if t_min == 1e-5 else 0.1)


def test_the_negative_log_likelihood_of_the_ring_is_that_of_systems():
    denoiser = ring(sd.VPSDE())
    x = denoiser.sample_data(4000, generator=generator())
    found = sd.log_likelihood(denoiser, x, rtol=1e-4, atol=1e-4)
    assert -found.nats.mean() == pytest.approx(0.3146, abs=3 * found.nats.std().item() / len(x) ** 0.5)


def test_the_prior_of_a_wide_process_is_the_error_that_is_left():
    denoiser = mix64(sd.VESDE(0.01, 50.0))
    x = denoiser.sample_data(200, generator=generator(1))
    found = sd.log_likelihood(denoiser, x)
    error = found.nats - denoiser.log_prob(x, 0.0)
    assert 4e-3 < rms(error) < 9e-3
    assert rms(error - mismatch(denoiser, found)) < 1e-3


def test_codes_are_standard_normal():
    denoiser = ring(sd.VESDE(0.01, 50.0))
    code = sd.log_likelihood(denoiser, denoiser.sample_data(2000, generator=generator()), rtol=1e-3, atol=1e-3).code
    assert code.mean(0).abs().max() < 0.08
    assert (code.std(0) - 1).abs().max() < 0.06


@pytest.mark.parametrize("options", [{}, {"method": "hutchinson", "seeds": range(40), "probes": 3, "directions": 1}])
def test_what_a_sample_gets_does_not_depend_on_its_companions(options):
    denoiser = mix64(sd.VPSDE(), dimension=6)
    x = denoiser.sample_data(40, generator=generator())
    whole = sd.log_likelihood(denoiser, x, **options)
    if "seeds" in options:
        options = {**options, "seeds": range(10, 20)}
    part = sd.log_likelihood(denoiser, x[10:20], **options)
    assert torch.allclose(whole.nats[10:20], part.nats, atol=1e-9)
    assert torch.allclose(whole.standard_error[10:20], part.standard_error, atol=1e-9)
    assert (whole.nfe[10:20] == part.nfe).all()
    assert whole.nfe.min() < whole.nfe.max() == whole.calls


@pytest.mark.parametrize("options", [{}, {"method": "hutchinson", "distribution": "orthogonal", "probes": 2, "seeds": range(4)}])
def test_the_gradient_is_the_score_and_that_of_finite_differences(options):
    denoiser = ring(sd.VPSDE(), std=0.4)
    x = denoiser.sample_data(4, generator=generator()).requires_grad_()
    found = sd.log_likelihood(denoiser, x, differentiable=True, rtol=1e-7, atol=1e-7, **options)
    (gradient,) = torch.autograd.grad(found.nats.sum(), x)
    assert torch.allclose(gradient, denoiser.score(x.detach(), default_t_min(denoiser.sde)), rtol=1e-3, atol=1e-3)
    if not options:
        step = torch.tensor([1e-3, 0.0], dtype=torch.float64)
        above, below = (sd.log_likelihood(denoiser, x.detach() + s * step, rtol=1e-8, atol=1e-8).nats for s in (1, -1))
        assert torch.allclose(gradient[:, 0], (above - below) / 2e-3, rtol=1e-3, atol=1e-3)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x, c_noise):
        return self.layers(torch.cat([x.flatten(1), c_noise[:, None].to(x)], 1)).reshape(x.shape)


def test_a_network_in_float32_agrees_with_float64_and_with_any_variables():
    network = Network()
    x = torch.randn(20, 1, 2, 2, generator=generator())
    found = {}
    for dtype in (torch.float32, torch.float64):
        denoiser = sd.NetworkDenoiser(network.to(dtype), sd.VPSDE(), sd.V())
        for c in (0.7, 1.3):
            found[dtype, c] = sd.log_likelihood(denoiser, x.to(dtype), data_std=c).nats
    reference = found[torch.float64, 0.7]
    for nats in found.values():
        assert (nats - reference).abs().max() < 2e-3
    estimated = sd.log_likelihood(denoiser, x.double(), method="hutchinson", probes=4, distribution="orthogonal", generator=generator())
    assert (estimated.nats - reference).abs().max() < 2e-3, "four orthogonal probes of four dimensions are the exact trace"


def test_the_gradient_of_a_networks_likelihood_reaches_its_weights():
    denoiser = sd.NetworkDenoiser(Network().double(), sd.VPSDE(), sd.Epsilon())
    x = torch.randn(3, 1, 2, 2, generator=generator(), dtype=torch.float64)
    weight = denoiser.network.layers[0].bias

    def nats():
        return sd.log_likelihood(denoiser, x, differentiable=True, rtol=1e-6, atol=1e-6).nats.sum()

    (gradient,) = torch.autograd.grad(nats(), weight)
    with torch.no_grad():
        weight[3] += 1e-3
        above = nats()
        weight[3] -= 2e-3
        below = nats()
    assert gradient[3].item() == pytest.approx((above - below).item() / 2e-3, rel=1e-2)


def test_a_condition_is_handed_on_and_thinned_out_with_the_batch():
    class ByClass(nn.Module):
        classes = 2

        def forward(self, x, c_noise, cond):
            return torch.where(cond[:, None] == 0, 0.3, -0.3).to(x) + 0 * x

    denoiser = sd.NetworkDenoiser(ByClass(), sd.VPSDE(), sd.X0())
    x = torch.randn(30, 2, generator=generator())
    labels = torch.arange(30) % 2
    found = sd.log_likelihood(denoiser, x, cond=labels)
    first = sd.log_likelihood(denoiser, x[::2], cond=labels[::2])
    assert torch.allclose(found.nats[::2], first.nats)


def test_a_chain_has_the_density_of_its_first_node():
    chain = sd.VPSDE().discretize(1000)
    denoiser = ring(chain)
    x = denoiser.sample_data(50, generator=generator())
    assert default_t_min(chain) == 1e-3
    assert rms(sd.log_likelihood(denoiser, x).nats - denoiser.log_prob(x, 1e-3)) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 2, dtype=torch.long)}, "bits_per_dim"),
        ({"x": torch.tensor([[0.0, math.nan]])}, "not finite"),
        ({"x": torch.zeros(2)}, r"x\[None\]"),
        ({"x": torch.zeros(1, 257)}, "use method='hutchinson'"),
        ({"method": "monte-carlo"}, "'exact' or 'hutchinson'"),
        ({"method": "hutchinson", "probes": 0}, "probes"),
        ({"method": "hutchinson", "distribution": "normal"}, "'rademacher'"),
        ({"method": "hutchinson", "distribution": "orthogonal", "probes": 3}, "do not fit into 2"),
        ({"method": "hutchinson", "probes": 2, "directions": 2}, "leave at least one"),
        ({"t_min": 1.0}, "t_min must lie in"),
        ({"t_min": 1e-12}, "does not resolve"),
        ({"rtol": 0.0}, "rtol"),
    ],
)
def test_bad_input_is_refused_with_the_cure(change, message):
    options = {"x": torch.zeros(2, 2)} | change
    with pytest.raises(ValueError, match=message):
        sd.log_likelihood(ring(sd.VPSDE()), **options)


def test_guided_and_unconditioned_models_are_refused():
    class Labelled(nn.Module):
        classes = 10

        def forward(self, x, c_noise, cond=None):
            return x

    denoiser = sd.NetworkDenoiser(Labelled(), sd.VPSDE(), sd.Epsilon())
    x, labels = torch.zeros(2, 1, 2, 2), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="10 classes and was given no cond"):
        sd.log_likelihood(denoiser, x)
    guided = sd.ClassifierFreeGuidance(denoiser, 3.0, null=10)
    with pytest.raises(ValueError, match=r"guidance is on \(scale=3\)"):
        sd.log_likelihood(guided, x, cond=labels)
    with pytest.raises(ValueError, match="guidance is on"):
        sd.log_likelihood(sd.Clipped(guided), x, cond=labels)
    plain = sd.log_likelihood(sd.ClassifierFreeGuidance(denoiser, 1.0, null=10), x, cond=labels)
    assert torch.equal(plain.nats, sd.log_likelihood(denoiser, x, cond=labels).nats)


def test_networks_with_attention_have_gradients_of_likelihoods_and_sliced_losses():
    # torch's fused attention cannot be differentiated twice, and torch batches no products of it that can
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = sd.UNet(sd.UNetConfig(channels=1, width=8, multipliers=(1,), attention=(0,))).double()
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.05)
    denoiser = sd.NetworkDenoiser(network, sd.VPSDE(), sd.Epsilon())
    x = torch.randn(2, 1, 2, 2, generator=generator(), dtype=torch.float64).requires_grad_()
    options = {"rtol": 1e-3, "atol": 1e-3, "differentiable": True}
    for method in ({}, {"method": "hutchinson", "probes": 4, "distribution": "orthogonal", "generator": generator()}):
        (gradient,) = torch.autograd.grad(sd.log_likelihood(denoiser, x, **method, **options).nats.sum(), x)
        assert gradient.isfinite().all()
        assert gradient.abs().min() > 0
    sd.SlicedScoreMatching(steps=2)(denoiser, x.detach(), generator=generator()).mean().backward()
    assert network.last.weight.grad.abs().sum() > 0


def test_many_probes_at_once_are_those_one_by_one(monkeypatch):
    denoiser = sd.NetworkDenoiser(Network(), sd.VPSDE(), sd.V())
    x = torch.randn(5, 1, 2, 2, generator=generator())
    found = {}
    for products in (2048, 1):
        monkeypatch.setattr("sde_diffusion.denoisers.jacobian.PRODUCTS", products)
        found[products] = [
            sd.log_likelihood(denoiser, x, method=method, probes=3, generator=generator()).nats for method in ("exact", "hutchinson")
        ]
    for one, other in zip(*found.values(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
