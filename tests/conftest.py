"""One thread, and no test may move the global random state: whoever draws, draws from a generator of its own."""

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

EXEMPT = (
    "tests/networks/",  # torch's modules draw their weights from the global generator; training lends it to them by fork_rng
    "tests/training/test_ema.py",
    "tests/training/test_loop.py::test_the_global_random_state_is_left_alone",  # seeds it, to see that nobody moves it
    "tests/cli/test_cli.py::test_sample_is_deterministic_in_its_seed_and_leaves_the_global_generator_alone",
)


def _states() -> dict[str, str]:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.random.get_rng_state().numpy().tobytes().hex(),
        "numpy": f"{kind} {keys.tobytes().hex()} {rest}",
        "random": repr(random.getstate()),
    }


@pytest.fixture(autouse=True)
def _global_random_state_is_untouched(request):
    if request.node.nodeid.startswith(EXEMPT):
        with torch.random.fork_rng(devices=[]):
            numpy_state = np.random.get_state()
            yield
            np.random.set_state(numpy_state)
        return
    before = _states()
    yield
    after = _states()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the global random state of {' and '.join(changed)} was changed; pass a generator or a seed"


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
