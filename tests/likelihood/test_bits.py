"""Oracles: for a mixture with axis-aligned modes the probability (3) of a bin is a sum of products of differences of normal quantiles."""

import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.likelihood.bits import bits_per_dim
from sde_diffusion.likelihood.dequantization import Quantization, TruncatedNormal

GRID = Quantization(17, False)


def exact(denoiser, quantization, k, t):
    """-log P(k) (b,): x/alpha at time t is N(m, s^2 + sigma^2/alpha^2) in each mode, on the bins of the data."""
    ratio = float(denoiser.sde.sigma(t) / denoiser.sde.alpha(t))
    std = (denoiser.variances + ratio**2).sqrt()
    centre, half = quantization.values(k)[:, None], quantization.width / 2
    high, low = (torch.special.ndtr((centre + side * half - denoiser.means) / std) for side in (1, -1))
    return -(denoiser.log_weights + (high - low).log().sum(-1)).logsumexp(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(std, sde=None, quantization=GRID):
    """Two modes in the plane, at two points of the grid."""
    means = quantization.values(torch.tensor([[4, 9], [12, 3]]))
    return sd.GaussianMixtureDenoiser(means, std, [0.3, 0.7], sde or sd.VPSDE())


def integers(denoiser, n, quantization=GRID):
    x = denoiser.sample_data(n, generator=generator())
    return ((x - quantization.values(torch.tensor(0))) / quantization.width).round().long().clamp(0, quantization.levels - 1)


def gaps(denoiser, k, **options):
    """Bound - exact, in nats per sample."""
    found = bits_per_dim(denoiser, k, quantization=GRID, generator=generator(1), **{"rtol": 1e-3, "atol": 1e-3, **options})
    return found.nats - exact(denoiser, GRID, k, found.t)


def mean_and_error(x):
    return x.mean().item(), x.std().item() / math.sqrt(len(x))


@pytest.mark.parametrize("law", ["uniform", "truncated_normal"])
def test_the_bound_lies_above_the_exact_bits_and_falls_to_them(law):
    denoiser = mixture(0.02)
    k = integers(denoiser, 150)
    one, few, many = (mean_and_error(gaps(denoiser, k, dequantization=law, importance=K, batch_size=10_000)) for K in (1, 4, 32))
    assert one[0] > 2 * one[1]
    assert one[0] > few[0] > many[0]
    assert abs(many[0]) < 0.1 + 4 * many[1]


@pytest.mark.parametrize(("std", "tighter"), [(0.02, "truncated_normal"), (0.3, "uniform")])
def test_the_processs_own_noise_is_tighter_on_the_grid_and_uniform_noise_on_smooth_data(std, tighter):
    denoiser = mixture(std)
    k = integers(denoiser, 150)
    found = {law: gaps(denoiser, k, dequantization=law).mean().item() for law in ("uniform", "truncated_normal")}
    assert min(found, key=found.get) == tighter
    assert found[tighter] < 0.3 * max(found.values())


@pytest.mark.parametrize("sde", [sd.VESDE(), sd.SubVPSDE(), sd.EDMSDE(), sd.RectifiedFlow()], ids=lambda sde: type(sde).__name__)
def test_all_processes_tell_the_same_bits(sde):
    # tau fixes sigma/alpha, and all is a function of x/alpha and sigma/alpha, but the prior, which ignores the mean m: |m z|/50 for VE
    k = integers(mixture(0.3), 20)
    options = {"quantization": GRID, "dequantization": "truncated_normal"}
    found = bits_per_dim(mixture(0.3, sde), k, generator=generator(1), **options).bits
    torch.testing.assert_close(found, bits_per_dim(mixture(0.3), k, generator=generator(1), **options).bits, rtol=0, atol=2e-2)


@pytest.mark.parametrize(("levels", "added"), [(17, 3.0875), (256, 7.0)])
def test_uniform_noise_adds_the_bits_of_a_bin_to_the_density(levels, added):
    # -log2 w = log2(17/2) = 3.087 for the digits and 7 for 8-bit images; noise 0 is u = 1/2, the bin's middle
    q, denoiser = Quantization(levels), sd.GaussianDenoiser(torch.zeros(2), 0.5, sd.VPSDE())
    k = torch.full((1, 2), levels // 3)
    found = bits_per_dim(denoiser, k, quantization=q, noise=sd.Replay([torch.zeros(1, 2, dtype=torch.float64)]))
    density = -denoiser.log_prob(q.values(k), found.t).item() / 2 / math.log(2)
    assert found.mean - density == pytest.approx(added, abs=1e-4)  # alpha = 1 - 5e-7, and the flow's tolerance


def test_numbers_in_a_bin_are_the_integer_of_the_bin():
    q, denoiser = Quantization(17), mixture(0.3, quantization=Quantization(17))
    k = torch.tensor([[4, 9], [12, 3]])
    by_integer, by_number = (
        bits_per_dim(denoiser, x, quantization=q, seeds=[1, 2]).bits for x in (k, ((k + 0.9) * 2 / 17 - 1).float())
    )  # fmt: skip
    assert torch.equal(by_integer, by_number)


@pytest.mark.parametrize("importance", [1, 3])
def test_with_seeds_a_samples_bits_do_not_depend_on_its_batch(importance):
    denoiser = mixture(0.1)
    k = integers(denoiser, 7)
    options = {"quantization": GRID, "importance": importance, "rtol": 1e-3, "atol": 1e-3}
    whole = bits_per_dim(denoiser, k, seeds=range(7), **options)
    parts = bits_per_dim(denoiser, k, seeds=range(7), batch_size=2, **options)
    alone = bits_per_dim(denoiser, k[3:4], seeds=[3], **options)
    torch.testing.assert_close(parts.bits, whole.bits, rtol=0, atol=1e-9)
    torch.testing.assert_close(alone.bits[0], whole.bits[3], rtol=0, atol=1e-9)


def test_the_standard_error_is_that_of_repetitions():
    denoiser = mixture(0.1)
    k = integers(denoiser, 1).expand(200, 2)
    found = bits_per_dim(denoiser, k, quantization=GRID, generator=generator(), importance=16, rtol=1e-3, atol=1e-3, batch_size=10_000)
    assert found.standard_error.mean().item() == pytest.approx(found.bits.std().item(), rel=0.25)


def test_hutchinsons_probes_leave_the_mean_and_report_their_error():
    denoiser = sd.GaussianMixtureDenoiser(0.5 * torch.randn(3, 16, generator=generator(3)), 0.2, None, sd.VPSDE())
    k = integers(denoiser, 100)
    options = {"quantization": GRID, "seeds": range(100), "rtol": 1e-4, "atol": 1e-4}  # the same states for both
    exactly = bits_per_dim(denoiser, k, **options)
    probed = bits_per_dim(denoiser, k, method="hutchinson", probes=4, **options)
    assert not exactly.standard_error.any()
    error = probed.standard_error.square().mean().sqrt().item()
    assert abs(probed.mean - exactly.mean) < 4 * error / 10
    assert (probed.bits - exactly.bits).std().item() == pytest.approx(error, rel=0.4)


@pytest.mark.parametrize("options", [{"distribution": "orthogonal"}, {"distribution": "gaussian", "directions": 1}, {"data_std": 0.3}])
def test_the_options_of_the_flow_reach_it(options):
    denoiser = sd.GaussianMixtureDenoiser(0.5 * torch.randn(3, 4, generator=generator(3)), 0.2, None, sd.VPSDE())
    k, probed = integers(denoiser, 3), {"method": "hutchinson", "probes": 2, **options}

    def source(like):
        return torch.zeros_like(like) if like.dtype == torch.float64 else sd.PerSample([0, 1, 2])(like)

    found = bits_per_dim(denoiser, k, quantization=GRID, noise=source, **probed)
    flow = sd.log_likelihood(denoiser, GRID.values(k) * denoiser.sde.alpha(found.t), noise=source, **probed)
    width = 4 * math.log(GRID.width * denoiser.sde.alpha(found.t))
    torch.testing.assert_close(found.nats, -flow.nats - width, rtol=0, atol=1e-9)
    plain = bits_per_dim(denoiser, k, quantization=GRID, noise=source, method="hutchinson", probes=2)
    assert not torch.equal(found.nats, plain.nats)


def test_the_condition_goes_with_its_sample():
    class Shifted(sd.Denoiser):
        """The mixture moved by cond: x0_hat(x - alpha cond) + cond."""

        def __init__(self):
            super().__init__(sd.VPSDE())
            self.inner = mixture(0.3)

        def forward(self, x, t, cond=None):
            alpha = sd.VPSDE().alpha(t).reshape(-1, 1) if torch.is_tensor(t) else sd.VPSDE().alpha(t)
            return self.inner(x - alpha * cond, t) + cond

    k = torch.tensor([[4, 8], [12, 3], [5, 5]])
    steps = torch.tensor([[0, 0], [1, -1], [2, 3]])
    options = {"quantization": GRID, "seeds": [0, 1, 2], "importance": 2, "batch_size": 4, "rtol": 1e-4, "atol": 1e-4}
    moved = bits_per_dim(Shifted(), k + steps, cond=steps * GRID.width, **options)
    torch.testing.assert_close(moved.bits, bits_per_dim(mixture(0.3), k, **options).bits, rtol=0, atol=2e-2)


def test_the_mean_has_the_error_of_a_mean():
    found = bits_per_dim(mixture(0.3), integers(mixture(0.3), 50), quantization=GRID, generator=generator())
    assert found.mean == pytest.approx(found.bits.mean().item())
    assert found.mean_error == pytest.approx(found.bits.std().item() / math.sqrt(50))
    torch.testing.assert_close(found.nats, found.bits * 2 * math.log(2))


@pytest.mark.filterwarnings("error")
def test_one_sample_has_a_mean_whose_error_nobody_knows():
    assert math.isnan(bits_per_dim(mixture(0.3), torch.tensor([[4, 9]]), quantization=GRID, seeds=[0]).mean_error)


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_in_one_dimension_the_bits_are_those_of_a_difference_of_quantiles(method):
    denoiser = sd.GaussianDenoiser(torch.zeros(1), 0.5, sd.VPSDE())
    k = torch.arange(17)[:, None].expand(17, 1)
    found = bits_per_dim(denoiser, k, quantization=GRID, method=method, dequantization="uniform", noise=torch.zeros_like)
    half, centres = GRID.width / 2, GRID.values(k[:, 0])
    p = torch.special.ndtr((centres + half) / 0.5) - torch.special.ndtr((centres - half) / 0.5)
    # the middle of a bin for its mean: (w/s)^2/24 |c^2/s^2 - 1| of p, 0.8 % at the ends
    torch.testing.assert_close(found.nats, -p.log(), rtol=0, atol=0.009)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": None}, r"Quantization\(256\) .* log_likelihood for the density of continuous data"),
        ({"quantization": 17}, r"quantization=17; pass Quantization\(256\)"),
        ({"dequantization": "logistic"}, r"must be 'uniform', 'truncated_normal' or a law such as TruncatedNormal\(\), got 'logistic'"),
        ({"dequantization": TruncatedNormal}, "got <class .*TruncatedNormal'>"),
        ({"importance": 0}, "importance must be a whole number, at least 1"),
        ({"importance": 2, "method": "hutchinson"}, "that is no bound; take importance=1 and more probes"),
        ({"seeds": [1]}, "one per sample, got 1 for 2 samples"),
        ({"dequantization": TruncatedNormal(), "t_min": 0.5}, "half a bin is .* standard deviations"),
        ({"t_min": 1.0}, r"t_min must lie in \[0, 1.0\), got 1"),
        ({"t_min": math.nan}, "t_min must lie in .*, got nan"),
        ({"t_min": 0.0, "dequantization": "truncated_normal"}, "t_min=0 has sigma/alpha=0"),
        ({"method": "hutchinson", "distribution": "cauchy"}, "distribution must be .*, got 'cauchy'"),
        ({"method": "hutchinson", "directions": 1}, "directions must leave at least one"),
        ({"data_std": 0.0}, "data_std must be a positive number"),
    ],
)
def test_mistakes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bits_per_dim(mixture(0.3), torch.tensor([[4, 9], [12, 3]]), **{"quantization": GRID, **options})
