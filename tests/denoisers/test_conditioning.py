import pytest
import torch
from torch import nn

import sde_diffusion as sd

CHAIN = sd.DDPMChain(sd.linear_betas(1000))


class Listens(nn.Module):
    """Remembers what it is told of the noise."""

    def forward(self, x, c_noise):
        self.told = c_noise
        return x


def told(conditioning, sde, t, *, way="forward"):
    network = Listens()
    denoiser = sd.NetworkDenoiser(network, sde, sd.Epsilon(), conditioning)
    x = torch.zeros(len(t), 2, dtype=torch.float64)
    if way == "forward":
        denoiser(x, t)
        return network.told
    if way == "at":
        answers = []
        for prediction in denoiser.at(t, x):
            prediction(x)
            answers.append(network.told[0])
        return torch.stack(answers)
    levels = sd.denoisers.base.Levels(*(f(t)[None, :, None] for f in (sde.alpha, sde.sigma, sde.log_snr)), lambda: t[None, :, None])
    denoiser.at_each(levels, x).raw[0](x, None)
    return network.told


@pytest.mark.parametrize("way", ["forward", "at", "at_each"])
def test_ddpm_labels_begin_at_zero_and_ncsn_counts_from_the_largest_sigma(way):
    nodes = torch.tensor([1, 2, 500, 1000], dtype=torch.float64) / 1000
    labels = told(sd.TimeLabel(1000, -1), CHAIN, nodes, way=way)
    torch.testing.assert_close(labels, torch.tensor([0.0, 1, 499, 999], dtype=torch.float64), rtol=0, atol=1e-9)
    ladder = sd.NCSNLadder(sd.geometric_sigmas(10, 0.01, 1.0))
    labels = told(sd.TimeLabel(-10, 10, whole=True), ladder, torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), way=way)
    assert labels.tolist() == [9, 5, 0]


@pytest.mark.parametrize("way", ["forward", "at", "at_each"])
def test_sigma_and_log_noise_are_what_they_say(way):
    t, sde = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64), sd.VPSDE()
    torch.testing.assert_close(told(sd.SigmaLabel(), sde, t, way=way), sde.sigma(t))
    torch.testing.assert_close(told(sd.SigmaLabel(log=True), sde, t, way=way), torch.log(sde.sigma(t)))
    torch.testing.assert_close(told(sd.NoiseRatio(), sde, t, way=way), sde.sigma(t) / sde.alpha(t))
    torch.testing.assert_close(told(sd.LogNoise(), sde, t, way=way), torch.log(sde.sigma(t) / sde.alpha(t)) / 4)


def test_another_process_asks_the_network_with_the_labels_it_was_trained_with():
    network = Listens()
    denoiser = sd.NetworkDenoiser(network, CHAIN, sd.Epsilon(), sd.TimeLabel(1000, -1)).under(sd.VESDE())
    t = sd.VESDE().t_of_log_snr(CHAIN.log_snr(torch.tensor([0.25], dtype=torch.float64)))
    denoiser(torch.zeros(1, 2, dtype=torch.float64), t)
    torch.testing.assert_close(network.told, torch.tensor([249.0], dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_label_of_no_scale_is_refused():
    for scale, offset in ((0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="scale must be finite and not 0"):
            sd.TimeLabel(scale, offset)


@pytest.mark.parametrize(
    "conditioning", [sd.LogNoise(), sd.TimeLabel(-10, 3), sd.SigmaLabel(), sd.SigmaLabel(log=True), sd.NoiseRatio()], ids=repr
)
@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(), CHAIN], ids=lambda s: type(s).__name__)
def test_the_time_of_a_label_is_the_time_that_has_it(conditioning, sde):
    t = torch.tensor([0.05, 0.4, 0.85], dtype=torch.float64)
    label = conditioning.label(sd.denoisers.base.Levels.at(sde, t))
    torch.testing.assert_close(conditioning.time(sde, label), t, rtol=1e-9, atol=1e-9)
