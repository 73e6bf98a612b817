import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.likelihoods import held_out_likelihood, law_of


@pytest.mark.parametrize(
    ("quantization", "sde", "law"),
    [
        (sd.Quantization(17), sd.VPSDE(), "uniform"),
        (sd.Quantization(256, dequantized=False), sd.VPSDE(), "truncated_normal"),
        (sd.Quantization(17, dequantized=False), sd.VESDE(), "truncated_normal"),
        (sd.Quantization(256, dequantized=False), sd.VESDE(), "uniform"),  # sigma = 0.01 at t = 0, and half a bin of 1/255
    ],
)
def test_data_on_the_grid_get_the_process_s_noise_where_that_does_not_hide_the_grid(quantization, sde, law):
    assert law_of(quantization, sde) == law


def test_data_finer_than_the_noise_of_the_process_have_bits():
    denoiser = sd.GaussianDenoiser(torch.zeros(2), 0.5, sd.VESDE())
    x = sd.Quantization(256, dequantized=False).values(torch.tensor([[100, 127], [60, 200], [128, 130]]))
    found = held_out_likelihood(denoiser, x, levels=256)
    # -log2 N(x; 0, 1/4 + 1e-4)/2 - log2(2/255): bins are so narrow that where in them x lies does not matter
    density = -denoiser.log_prob(x, 0.0) / 2
    assert found.dequantization == "uniform"
    assert found.value == pytest.approx((density.mean().item() - torch.log(torch.tensor(2 / 255)).item()) / 0.693147, abs=0.02)


def test_the_options_of_the_probes_reach_them():
    denoiser = sd.GaussianMixtureDenoiser(torch.tensor([[1.0, -1.0, 0.5], [0.0, 1.0, -0.5]]), 0.4, None, sd.VPSDE())
    x = denoiser.sample_data(6, generator=torch.Generator().manual_seed(0))
    errors = [
        held_out_likelihood(denoiser, x, probes=3, distribution=distribution, directions=directions).probe_error
        for distribution, directions in (("rademacher", 0), ("gaussian", 0), ("gaussian", 1), ("orthogonal", 0))
    ]
    assert len(set(errors)) == 4
    assert errors[3] == pytest.approx(0, abs=1e-6)  # three directions at right angles in three dimensions are the trace


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 2), {}, "at least 2 samples"),
        (torch.zeros(4, 2), {"probes": -1}, "0 .exact. or more, got 4 and -1"),
        (torch.zeros(4, 2), {"n": 2.5}, "n must be a whole number"),
        (torch.zeros(4, 2, dtype=torch.long), {}, "integers have probabilities"),
        (torch.full((4, 2), torch.nan), {}, "8 values that are not finite"),
    ],
)
def test_mistakes_are_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        held_out_likelihood(sd.GaussianDenoiser(torch.zeros(2), 0.5, sd.VPSDE()), x, **options)


@pytest.mark.filterwarnings("error")
def test_a_learned_schedule_has_the_bits_of_its_table():
    sde = sd.LearnedVPSDE(6.0, -4.0)
    x = sd.Quantization(17, dequantized=False).values(torch.tensor([[4, 9], [12, 3], [5, 5]]))
    learned, table = (
        held_out_likelihood(sd.GaussianDenoiser(torch.zeros(2), 0.5, process), x, levels=17) for process in (sde, sde.frozen())
    )
    assert learned.value == pytest.approx(table.value, abs=1e-3)
    assert learned.t == pytest.approx(table.t, abs=1e-4)
