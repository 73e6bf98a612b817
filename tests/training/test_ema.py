import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sde_diffusion.training.ema import WIDEST, Averages, ExponentialAverage, PowerAverage


@pytest.fixture(autouse=True)
def _lend_global_generator():
    """Modules draw their weights from the global generator; this gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def scalar(value=0.0):
    network = nn.Linear(1, 1, bias=False).double()
    return follow(network, value)


@torch.no_grad()
def follow(network, value):
    for p in network.parameters():
        p.fill_(value)
    return network


def test_exponential_averages_follow_their_recursion_with_and_without_warm_up():
    source = scalar()
    warm, cold = Averages(source, decays=(0.5, 0.9)), Averages(source, decays=(0.5,), warmup=False)
    expected, plain = [0.0, 0.0], 0.0
    for n in range(30):
        follow(source, float(n))
        warm.update(source, n)
        cold.update(source, n)
        for i, decay in enumerate((0.5, 0.9)):
            d = min(decay, (1 + n) / (10 + n))
            expected[i] = d * expected[i] + (1 - d) * n
        plain = (plain + n) / 2
        assert [warm.network(name).weight.item() for name in ("0.5", "0.9")] == pytest.approx(expected, rel=1e-14)
        assert cold.network().weight.item() == pytest.approx(plain, rel=1e-14)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, WIDEST])
def test_a_power_average_is_the_sum_of_all_weights_by_shares_of_its_density(std):
    values = np.random.default_rng(0).standard_normal(200)
    source = scalar(7.0)  # which the first update forgets
    averages, gamma = Averages(source, decays=(), stds=(std,)), PowerAverage(std).gamma
    for n, value in enumerate(values):
        averages.update(follow(source, value), n)
    i = np.arange(1, 201)
    shares = (i / 200) ** (gamma + 1) - ((i - 1) / 200) ** (gamma + 1)
    assert averages.network().weight.item() == pytest.approx(shares @ values, rel=1e-12)


@pytest.mark.parametrize("std", [0.001, 0.05, 0.1, 0.28])
def test_the_width_of_a_power_average_is_the_standard_deviation_of_its_density(std):
    gamma, n = PowerAverage(std).gamma, 400_000
    tau = (np.arange(n) + 0.5) / n  # midpoints: the sums are the integrals to O(n^-2)
    p = (gamma + 1) * tau**gamma
    mean = (p * tau).mean()
    assert math.sqrt((p * (tau - mean) ** 2).mean()) == pytest.approx(std, rel=1e-5)


def test_the_widest_power_average_is_the_mean_of_all_weights():
    source = scalar()
    averages = Averages(source, decays=(), stds=(WIDEST,))
    for n in range(10):
        averages.update(follow(source, float(n)), n)
    assert averages.network().weight.item() == pytest.approx(4.5, rel=1e-12)


def test_counters_are_copied_and_float_buffers_averaged():
    source = nn.BatchNorm1d(1)
    averages = Averages(source)
    source.running_mean.fill_(1.0)
    source.num_batches_tracked.fill_(7)
    averages.update(source, 0)
    assert averages.network().num_batches_tracked == 7
    assert averages.network().running_mean.item() == pytest.approx(0.9)  # beta = (1 + 0)/(10 + 0)


def test_shared_and_parametrized_weights_are_averaged_once():
    source = parametrizations.weight_norm(nn.Linear(2, 2, bias=False))
    source.twin = source.parametrizations.weight
    averages = Averages(source, decays=(0.0,))
    averages.update(follow(source, 3.0), 5)
    mine = averages.network()
    assert mine.twin is mine.parametrizations.weight
    assert all((p == 3.0).all() for p in mine.parameters())


def test_averages_of_bfloat16_weights_are_float32_and_keep_differences_that_bfloat16_would_lose():
    source = follow(nn.Linear(1, 1).to(torch.bfloat16), 1.0)
    averages = Averages(source, decays=(0.9999,), warmup=False)
    averages.update(follow(source, 1.0078125), 0)
    assert averages.network().weight.dtype == torch.float32
    assert averages.network().weight.item() == pytest.approx(1 + 0.0078125e-4, abs=6e-8)  # half an ulp of float32 at 1
    assert source.weight.dtype == torch.bfloat16


def test_copies_evaluate_need_no_gradient_and_leave_the_source_alone():
    source = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    before = copy.deepcopy(source.state_dict())
    averages = Averages(source)
    mine = averages.network()
    follow(mine, 0.0)
    assert source.training
    assert not mine.training
    assert not mine[1].training
    assert all(p.requires_grad for p in source.parameters())
    assert not any(p.requires_grad for p in mine.parameters())
    assert all(torch.equal(before[key], value) for key, value in source.state_dict().items())


def test_a_loaded_state_goes_on_bit_identically():
    source = nn.Linear(3, 3)
    whole, again = (Averages(source, decays=(0.9,), stds=(0.1,)) for _ in range(2))
    for n in range(10):
        whole.update(follow(source, math.sin(n)), n)
        if n == 4:
            kept = {name: {key: value.clone() for key, value in tensors.items()} for name, tensors in whole.state_dict().items()}
    again.load_state_dict(kept)
    for n in range(5, 10):
        again.update(follow(source, math.sin(n)), n)
    assert whole.names == again.names == ("0.9", "power-0.1")
    for name in whole.names:
        assert all(torch.equal(a, b) for a, b in zip(whole.network(name).parameters(), again.network(name).parameters(), strict=True))


def test_the_parts_of_sharded_weights_are_averaged_as_the_whole_is(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    if distributed.is_initialized():
        pytest.skip("this process has a group of its own")
    plain = nn.BatchNorm1d(4)  # with buffers, which are not sharded
    averages, expected = Averages(plain, stds=(0.1,)), Averages(plain, stds=(0.1,))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        mesh, sharded = init_device_mesh("cpu", (1,)), copy.deepcopy(plain)
        for network in (sharded, *map(averages.network, averages.names)):
            for name, p in list(network.named_parameters()):
                setattr(network, name, nn.Parameter(distribute_tensor(p.data, mesh, [Shard(0)]), requires_grad=False))
        for n in range(3):
            averages.update(follow(sharded, float(n)), n)
            expected.update(follow(plain, float(n)), n)
        for name in averages.names:
            mine, whole = averages.network(name), expected.network(name)
            assert torch.equal(mine.weight.full_tensor(), whole.weight)
            assert torch.equal(mine.running_mean, whole.running_mean)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialAverage(1.0), "must lie in"),
        (lambda: PowerAverage(0.3), "widest is the uniform average"),
        (lambda: PowerAverage(0.0), "must lie in"),
        (lambda: Averages(nn.Linear(1, 1), decays=()), "one or more"),
        (lambda: Averages(nn.Linear(1, 1), decays=(0.9, 0.9)), "each once"),
        (lambda: Averages(nn.Linear(1, 1)).network("0.9"), "use one of 0.999"),
        (lambda: Averages(nn.Linear(1, 1), stds=(0.1,)).load_state_dict({"0.999": {}}), "not power-0.1"),
    ],
)
def test_wrong_profiles_names_and_states_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
