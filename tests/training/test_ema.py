import pytest
import torch
from torch import nn

from sde_diffusion.training import EMA


@pytest.fixture(autouse=True)
def _lend_global_generator():
    """Modules draw their weights from the global generator; this gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_average_follows_its_formula_with_warm_up():
    source, average = nn.Linear(1, 1, bias=False).double(), None
    with torch.no_grad():
        source.weight.fill_(0.0)
        average = EMA(source, 0.5)
        expected = 0.0
        for n in range(20):
            source.weight.fill_(float(n))
            average.update(source, n)
            d = min(0.5, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * n
            assert average.network.weight.item() == pytest.approx(expected, abs=1e-12)


def test_counters_are_copied_and_float_buffers_averaged():
    source = nn.BatchNorm1d(1)
    average = EMA(source, 0.999)
    source.running_mean.fill_(1.0)
    source.num_batches_tracked.fill_(7)
    average.update(source, 0)
    assert average.network.num_batches_tracked == 7
    assert average.network.running_mean.item() == pytest.approx(0.9)  # d = (1 + 0)/(10 + 0)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="must lie in"):
        EMA(nn.Linear(1, 1), 1.0)
