import math

import pytest
import torch

from sde_diffusion import VESDE, VPSDE, RectifiedFlow, Stream, build
from sde_diffusion.data import load
from sde_diffusion.data.embedded import Digits, Patches
from sde_diffusion.likelihood.dequantization import LAWS, Quantization, TruncatedNormal, Uniform


def stream(seed=0):
    return Stream(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dequantized", [True, False])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_integers_survive_becoming_numbers(levels, dequantized):
    q = Quantization(levels, dequantized)
    k = torch.arange(levels)
    assert torch.equal(q.integers(q.values(k)), k)
    assert torch.equal(q.integers(q.values(k).float()), k)
    assert torch.equal(q.integers(k.to(torch.uint8)), k)


@pytest.mark.parametrize("source", [Digits, Patches])
@pytest.mark.parametrize("dequantized", [True, False])
def test_data_sets_are_read_as_the_integers_they_store(source, dequantized):
    part = load(source(dequantize=dequantized)).held_out
    k = Quantization(part.levels, dequantized).integers(part.take(100).x)
    assert torch.equal(k, part.stored[part.rows[part.take(100).indices]].long())


def test_a_number_at_the_lower_end_of_its_bin_belongs_to_it_in_float32():
    for levels in (17, 256):
        k = torch.arange(levels)
        assert torch.equal(Quantization(levels).integers((k.float() * (2 / levels)) - 1), k)


def test_widths_are_those_of_the_two_conventions():
    assert Quantization(17).width == pytest.approx(2 / 17)
    assert Quantization(17, False).width == pytest.approx(1 / 8)  # pixel/8 - 1
    assert Quantization(256, False, low=0.0, high=255.0).width == 1.0


def test_objects_build_back_from_their_repr():
    names = {"Quantization": Quantization, "Uniform": Uniform, "TruncatedNormal": TruncatedNormal}
    for obj in (Quantization(17, False, 0.0, 1.0), Uniform(), TruncatedNormal(4.0)):
        assert build(repr(obj), names) == obj


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantization(1), "levels must be a whole number, at least 2, got 1"),
        (lambda: Quantization(17, low=1.0, high=0.0), "low must be less than high"),
        (lambda: Quantization(17).integers(torch.tensor([3, 17])), r"17 levels are the integers 0\.\.16, got 3\.\.17"),
        (lambda: Quantization(17).integers(torch.tensor([0.2, 1.2])), r"lie in -1\.\.1, got 1\.2"),
        (lambda: Quantization(17).integers(torch.tensor([math.nan])), "got nan; leave those samples out"),
        (lambda: Quantization(17).integers(torch.tensor([True])), "got torch.bool; convert them"),
        (lambda: Quantization(17).integers(torch.tensor([1j])), "got torch.complex64"),
        (lambda: Quantization(17, False).integers(torch.tensor([0.0, 0.3])), r"0\.3 is none of the 17 numbers .* dequantized=True"),
        (lambda: TruncatedNormal(0.5), "tau must be a number of at least 1"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SDES = [VPSDE(), RectifiedFlow(), VESDE()]


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_draws_stay_in_their_bins_and_q_integrates_to_one(law, sde):
    # E_q[1/q] over a bin is its volume, alpha w: checked with the draws themselves
    q = Quantization(17)
    t = law.time(sde, q, 1e-3)
    k = torch.full((100_000, 1), 5)
    x, log_q = law.draw(sde, t, q, k, stream())
    alpha = float(sde.alpha(t))
    centre, half = alpha * q.values(k[0]), alpha * q.width / 2
    assert (x - centre).abs().max() <= half * (1 + 1e-12)
    inverse = (-log_q).exp()
    # 1/q has heavy tails at tau = 3: standard error 2 % of 100 000 draws
    assert inverse.mean().item() == pytest.approx(2 * half, abs=4 * inverse.std().item() / math.sqrt(len(k)) + 1e-12)


def test_the_truncated_normal_has_the_variance_of_its_closed_form():
    # var z = 1 - 2 tau phi(tau)/erf(tau/sqrt 2)
    q, sde, tau = Quantization(17, False), VESDE(), 2.0
    law = TruncatedNormal(tau)
    t = law.time(sde, q, 1e-3)
    x, _ = law.draw(sde, t, q, torch.full((200_000, 1), 8), stream())
    z = x / float(sde.sigma(t))
    expected = 1 - 2 * tau * math.exp(-(tau**2) / 2) / math.sqrt(2 * math.pi) / math.erf(tau / math.sqrt(2))
    assert z.var().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(1e5))  # var of z^2 is less than 2 var(z)^2


def test_half_a_bin_is_tau_deviations_of_the_noise_at_the_time_chosen():
    q = Quantization(256)
    for sde in (VPSDE(), RectifiedFlow()):
        t = TruncatedNormal(3.0).time(sde, q, 0.5)
        assert float(sde.alpha(t) * q.width / 2 / sde.sigma(t)) == pytest.approx(3.0)


def test_noise_that_hides_the_integers_is_refused_for_the_truncated_normal():
    sde = VESDE()  # sigma = 0.01 at t = 0, and half a bin of 1/256
    law, q = TruncatedNormal(), Quantization(256)
    t = law.time(sde, q, 0.0)
    assert t == 0.0
    with pytest.raises(ValueError, match=r"half a bin is 0\.391 standard deviations .* dequantization='uniform'"):
        law.draw(sde, t, q, torch.zeros(1, 1, dtype=torch.long), stream())


def test_a_chain_is_taken_at_a_node_or_later():
    sde = VPSDE().discretize(100)  # sigma/alpha of its first node is 0.024: early for 2 levels, late for 256
    assert TruncatedNormal().time(sde, Quantization(2), 0.5) > 1 / 100
    assert TruncatedNormal().time(sde, Quantization(256), 0.5) == 1 / 100
