import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from sde_diffusion.training.ema import Averages, PowerAverage
from sde_diffusion.training.post_hoc import coefficients, inner, reconstruct, save_snapshot, snapshots

STEPS, EVERY = 600, 30
TRACKED = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)


@pytest.fixture(autouse=True)
def _lend_global_generator():
    """Modules draw their weights from the global generator; this gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A walk of 600 steps in float64, averages of two widths stored every 30 steps, those of six tracked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20)).double()
    generator = torch.Generator().manual_seed(1)
    stored, tracked = Averages(network, stds=(0.05, 0.1)), Averages(network, decays=(), stds=TRACKED)
    folders = {dtype: tmp_path_factory.mktemp(str(dtype)) for dtype in (None, torch.float16, torch.bfloat16)}
    for n in range(STEPS):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, dtype=p.dtype, generator=generator), alpha=0.02)
            network[1].num_batches_tracked.fill_(n + 1)
        stored.update(network, n)
        tracked.update(network, n)
        if (n + 1) % EVERY == 0:
            for dtype, folder in folders.items():
                save_snapshot(folder, n + 1, stored, dtype=dtype)
    return folders, tracked


def distance(a, b):
    keys = [key for key in b if b[key].is_floating_point()]
    flat = [torch.cat([state[key].double().flatten() for key in keys]) for state in (a, b)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.7)])
@pytest.mark.parametrize(("std", "other"), [(0.05, 0.1), (0.02, 0.28), (0.1, 0.1)])
def test_inner_products_of_profiles_are_their_integrals(std, other, t, s):
    a, b, n = PowerAverage(std).gamma, PowerAverage(other).gamma, 200_000
    tau = (np.arange(n) + 0.5) / n * min(t, s)  # midpoints: the sum is the integral to O(n^-2)
    product = (a + 1) * tau**a / t ** (a + 1) * (b + 1) * tau**b / s ** (b + 1)
    assert inner(a, t, b, s) == pytest.approx(product.mean() * min(t, s), rel=1e-6)


@pytest.mark.parametrize("std", TRACKED)
def test_the_misfit_is_the_distance_of_the_summed_profiles_by_quadrature(run, std):
    stored = snapshots(run[0][None])
    weights, misfit = coefficients(stored, PowerAverage(std), STEPS)
    n = 60_000
    tau = (np.arange(n) + 0.5) / n * STEPS

    def density(gamma, t):
        return np.where(tau < t, (gamma + 1) * np.minimum(tau / t, 1) ** gamma / t, 0.0)

    wanted = density(PowerAverage(std).gamma, STEPS)
    made = sum(w * density(s.profile.gamma, s.step) for w, s in zip(weights, stored, strict=True))
    assert misfit == pytest.approx(math.sqrt(((made - wanted) ** 2).mean() / (wanted**2).mean()), rel=1e-2, abs=1e-6)
    assert weights.sum() == pytest.approx(1, abs=1e-9)


def test_a_reconstructed_average_is_the_one_that_was_tracked(run):
    folders, tracked = run
    errors = {std: distance(reconstruct(folders[None], std), tracked.network(f"power-{std}").state_dict()) for std in TRACKED}
    # measured: 2e-4, 0, 2e-5, 0, 3e-5, 2e-4, where the widths differ among themselves by 0.1 to 0.2
    assert errors[0.05] == errors[0.1] == 0
    assert max(errors.values()) < 1e-3
    assert errors[0.07] < 1e-4
    apart = distance(tracked.network("power-0.05").state_dict(), tracked.network("power-0.2").state_dict())
    assert apart > 50 * max(errors.values())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2.0**-9), (torch.bfloat16, 2.0**-6)])
def test_an_average_made_of_rounded_snapshots_is_off_by_a_few_of_their_roundings(run, dtype, bound):
    folders, tracked = run
    for std in (0.05, 0.07, 0.1, 0.15):
        assert distance(reconstruct(folders[dtype], std), tracked.network(f"power-{std}").state_dict()) < bound


def test_a_stored_average_is_returned_to_the_bit_and_counters_are_those_of_the_step(run):
    folder = run[0][None]
    found = reconstruct(folder, 0.1, step=300)
    with safe_open(folder / "snapshots" / "00000300" / "power-0.1.safetensors", "pt") as file:
        assert file.metadata() == {"profile": "PowerAverage(std=0.1)", "step": "300"}
        assert all(torch.equal(found[key], file.get_tensor(key)) for key in found)
    assert found["1.num_batches_tracked"] == 300


def test_an_average_is_reconstructed_at_the_step_of_an_earlier_snapshot(tmp_path):
    """Weights that grow linearly have the average (gamma+1)/(gamma+2) t, up to the half step of a sum against its integral."""
    network = nn.Linear(1, 1, bias=False).double()
    averages = Averages(network, decays=(), stds=(0.05, 0.1))
    for n in range(400):
        nn.init.constant_(network.weight, n + 0.5)  # its mean over (n, n + 1]
        averages.update(network, n)
        if (n + 1) % 10 == 0:
            save_snapshot(tmp_path, n + 1, averages)
    gamma = PowerAverage(0.08).gamma
    assert reconstruct(tmp_path, 0.08, step=310)["weight"].item() == pytest.approx((gamma + 1) / (gamma + 2) * 310, rel=1e-5)
    with pytest.raises(ValueError, match=r"no width can be had at this step; use that of a snapshot, such as 300"):
        reconstruct(tmp_path, 0.08, step=304)


def test_weights_that_never_moved_are_found_unmoved(tmp_path):
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    averages = Averages(network, decays=(), stds=(0.05, 0.1))
    for n in range(40):
        averages.update(network, n)
        if n % 10 == 9:
            save_snapshot(tmp_path, n + 1, averages)
    assert reconstruct(tmp_path, 0.08)["weight"].item() == 1


def test_widths_and_steps_that_cannot_be_had_are_refused_with_those_that_can(run, tmp_path):
    folder = run[0][None]
    with pytest.raises(ValueError, match=r"misfit .* at this step use 0\.0\d+ to 0\.2\d+"):
        reconstruct(folder, 0.005)
    with pytest.raises(ValueError, match=r"lie in \[1, 600\]"):
        reconstruct(folder, 0.1, step=601)
    with pytest.raises(ValueError, match="no width can be had"):
        reconstruct(folder, 0.1, step=2)
    with pytest.raises(FileNotFoundError, match="train with snapshot_every"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(ValueError, match="widest is the uniform"):
        reconstruct(folder, 0.4)
    with pytest.raises(ValueError, match=r"set ema_power=\(0\.05, 0\.1\)"):
        save_snapshot(tmp_path, 1, Averages(nn.Linear(1, 1)))


def test_a_snapshot_that_was_cut_off_is_not_seen(run, tmp_path):
    folder = tmp_path / "snapshots" / "00000001"
    folder.mkdir(parents=True)
    (folder / "writing-power-0.05").write_bytes(b"half")
    assert snapshots(tmp_path) == []
