import random

import numpy as np
import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.noise import Brownian, Positioned, make_noise, mixed


def stream(seed: int = 0) -> sd.Stream:
    return sd.Stream(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [stream, lambda: sd.PerSample(range(3)), lambda: sd.Antithetic(stream()), lambda: sd.Record(stream())])
def test_noise_is_like_its_argument_and_leaves_it_alone(make, dtype):
    x = torch.ones(3, 2, 2, dtype=dtype)
    z = make()(x)
    assert (z.shape, z.dtype, z.device) == (x.shape, x.dtype, x.device)
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("make", [stream, lambda: sd.PerSample(range(1000)), lambda: sd.Antithetic(stream())])
def test_noise_is_standard_normal(make):
    source = make()
    z = torch.stack([source(torch.empty(1000, 3, dtype=torch.float64)) for _ in range(20)])
    n = z.numel() / 2  # antithetic pairs count once
    assert abs(z.mean().item()) < 4 / n**0.5
    assert abs(z.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**4).mean().item() - 3) < 4 * (96 / n) ** 0.5
    calls = z.flatten(1).T.corrcoef()
    assert calls.shape[0] == 3000
    assert abs((z[1:] * z[:-1]).mean().item()) < 4 / n**0.5  # calls are independent


def test_a_stream_is_its_generator():
    a, b = stream(3), torch.Generator().manual_seed(3)
    x = torch.empty(4, 5)
    for _ in range(3):
        assert torch.equal(a(x), torch.randn(4, 5, generator=b))


def test_streams_draw_on_their_generators_device():
    # `meta` stands for a GPU: a CPU generator's numbers are drawn on the CPU and moved
    assert stream()(torch.empty(2, 3, device="meta")).device.type == "meta"
    assert sd.PerSample([1, 2])(torch.empty(2, 3, device="meta")).device.type == "meta"


EVENTS = [(2,), (3, 4), (), (5000,), (2,), (7,), (4096,), (1,)]


def test_a_sample_has_its_own_numbers_whatever_the_batch_its_order_and_its_chunks():
    seeds = [11, 7, 7, 2**40, 0]
    whole, shuffled, chunks = sd.PerSample(seeds), sd.PerSample([0, 11, 2**40, 7, 7]), [sd.PerSample(seeds[:2]), sd.PerSample(seeds[2:])]
    for _ in range(40):  # past several refills of the buffer, with changing event sizes
        for event in EVENTS:
            z = whole(torch.empty(5, *event))
            assert torch.equal(z[[4, 0, 3, 1, 2]], shuffled(torch.empty(5, *event)))
            assert torch.equal(z, torch.cat([chunks[0](torch.empty(2, *event)), chunks[1](torch.empty(3, *event))]))
            assert torch.equal(z[1], z[2])
            if event == (2,):
                assert not torch.equal(z[0], z[1])


def test_the_numbers_of_a_seed_never_repeat():
    source = sd.PerSample([5])
    z = torch.cat([source(torch.empty(1, 7, dtype=torch.float64)).flatten() for _ in range(2000)])
    assert len(z.unique()) == len(z)


def test_seeds_far_apart_or_adjacent_are_independent():
    z = sd.PerSample(range(64))(torch.empty(64, 4000, dtype=torch.float64))
    correlations = z.corrcoef() - torch.eye(64)
    assert correlations.abs().max().item() < 5.5 / 4000**0.5


def test_an_empty_batch_gets_no_noise():
    assert sd.PerSample([])(torch.empty(0, 3)).shape == (0, 3)
    assert sd.PerSample([1])(torch.empty(1, 0)).shape == (1, 0)


def test_per_sample_refuses_another_batch_size():
    with pytest.raises(ValueError, match="PerSample has 2 seeds for a batch of 3; pass one seed per sample"):
        sd.PerSample([1, 2])(torch.empty(3, 2))


def test_per_sample_prints_as_what_makes_it():
    source = sd.build(repr(sd.PerSample([3, 1])))
    assert torch.equal(source(torch.empty(2, 4)), sd.PerSample([3, 1])(torch.empty(2, 4)))


@pytest.mark.parametrize("b", [1, 2, 5, 8])
def test_antithetic_pairs_sum_to_zero(b):
    half = (b + 1) // 2
    z = sd.Antithetic(stream())(torch.empty(b, 3))
    assert torch.equal(z[half:], -z[: b - half])
    assert torch.equal(z[:half], stream()(torch.empty(half, 3)))


def test_a_recording_replays_the_same_numbers_for_another_run():
    record, x = sd.Record(stream()), torch.empty(2, 3)
    drawn = [record(x), record(x)]
    replay = sd.Replay(record.draws)
    assert all(torch.equal(z, replay(x)) for z in drawn)
    assert sd.Replay(record.draws)(x.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="Replay holds 2 draws and was asked for one more"):
        replay(x)
    with pytest.raises(ValueError, match=r"draw 0 of Replay has shape \(2, 3\), the state has \(4, 3\)"):
        sd.Replay(drawn)(torch.empty(4, 3))


def test_two_samplers_can_share_their_noise():
    denoiser = sd.GaussianDenoiser(torch.zeros(2), 0.5, sd.VPSDE())
    record = sd.Record(stream())
    one = sd.sample(denoiser, sd.DDIM(1.0), shape=(3, 2), steps=5, noise=record)
    two = sd.sample(denoiser, sd.Ancestral(), shape=(3, 2), steps=5, noise=sd.Replay(record.draws))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def times(*values: float, n: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).expand(n) if len(values) == 1 else torch.tensor(values, dtype=torch.float64)


def test_a_brownian_path_that_was_looked_at_too_far_ahead_has_the_covariance_of_one_that_was_not():
    n, source, accept = 20_000, stream(), torch.ones(20_000, dtype=torch.bool)
    like = torch.empty(n, 1, dtype=torch.float64)
    path, w = Brownian(like), {}
    for t in (0.8, 0.3, 0.5, 0.1):  # four rejections
        w[t] = path.at(times(t, n=n), source(like))
        path.move(times(t, n=n), w[t], ~accept)
    for t in (0.1, 0.2, 0.3, 0.6, 0.8, 1.0):  # then steps, to known points and between them
        again = path.at(times(t, n=n), source(like))
        if t in w:
            torch.testing.assert_close(again, w[t], rtol=1e-12, atol=1e-12)
        w[t] = again
        path.move(times(t, n=n), again, accept)
    assert path.times[1:].isnan().all()
    at = sorted(w)
    covariance = torch.cat([w[t] for t in at], 1).T.cov()
    expected = torch.minimum(*torch.meshgrid(torch.tensor(at), torch.tensor(at), indexing="ij"))
    # var of an estimated covariance of two normal numbers: (c_ii c_jj + c_ij^2)/n
    error = ((expected.diag()[:, None] * expected.diag() + expected**2) / n).sqrt()
    assert ((covariance - expected).abs() < 4 * error).all()


def test_each_brownian_path_moves_on_its_own():
    like, z = torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    path = Brownian(like)
    t = times(0.25, 1.0, 4.0, n=3)
    w = path.at(t, z)
    torch.testing.assert_close(w, t.sqrt()[:, None].expand(3, 2), rtol=1e-12, atol=0)
    path.move(t, w, torch.tensor([True, False, True]))
    assert path.times[0].tolist() == [0.25, 0.0, 4.0]
    path.select(torch.tensor([1, 2]))
    middle = path.at(times(0.5, 5.0, n=2), torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(middle, torch.tensor([[0.5, 0.5], [2.0, 2.0]], dtype=torch.float64))


def test_only_one_source_can_be_named():
    g = torch.Generator()
    for options in ({"noise": stream(), "generator": g}, {"generator": g, "seeds": [1]}, {"noise": stream(), "seeds": []}):
        with pytest.raises(ValueError, match=" and ".join(options) + " each name a source of randomness; pass one of them"):
            make_noise(**options)


def test_make_noise_makes_what_was_named():
    source, g = stream(), torch.Generator()
    assert make_noise(source) is source
    assert make_noise(generator=g).generator is g
    assert make_noise(seeds=[4]).seeds == (4,)


def test_without_a_source_every_run_is_new_and_the_global_state_is_untouched():
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    x = torch.empty(2, 3)
    assert not torch.equal(make_noise()(x), make_noise()(x))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("shape", [(300, 2), (70, 1, 8, 8), (5, 3, 40, 40)])
def test_positioned_numbers_are_the_same_in_whatever_parts_they_are_drawn(shape):
    x = torch.empty(shape)
    whole = Positioned((7, 3))(x)
    n = len(x)
    parts = [Positioned((7, 3), start)(x[start:end]) for start, end in ((0, 1), (1, n // 2), (n // 2, n))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(Positioned((7, 3))(x), whole)
    assert not torch.equal(Positioned((7, 4))(x), whole)


def test_positioned_numbers_are_standard_normal_and_unrelated_from_step_to_step():
    z = torch.stack([Positioned((0, step))(torch.empty(200, 8)) for step in range(50)])
    assert z.mean().abs() < 4 / z.numel() ** 0.5
    assert (z.var() - 1).abs() < 4 * (2 / z.numel()) ** 0.5
    correlations = torch.corrcoef(z.flatten(1)).fill_diagonal_(0)
    assert correlations.abs().max() < 4.5 / 1600**0.5  # of 1225 pairs


def test_seeds_of_neighbouring_keys_differ():
    assert len({mixed(seed, step, use) for seed in range(10) for step in range(100) for use in range(3)}) == 3000
