import pytest
import torch


@pytest.fixture(autouse=True)
def _lend_global_generator():
    """Modules draw their weights from the global generator; this gives it back as it was."""
    with torch.random.fork_rng(devices=[]):
        yield
