import pytest

from sde_diffusion.training import default_config


@pytest.fixture
def config():
    """A run of 20 steps that takes a second: a tiny perceptron on the ring."""
    config = default_config()
    config.update(
        {
            "network": "MLP(dim=2, width=16, depth=1)",
            "data": "ring",
            "batch_size": 32,
            "steps": 20,
            "warmup": 5,
            "checkpoint_every": 10,
            "log_every": 5,
        }
    )
    return config
