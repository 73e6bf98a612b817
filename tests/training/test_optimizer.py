import itertools
import math

import pytest
import torch
from torch import nn

from sde_diffusion.training.optimizer import learning_rate_factor, make_optimizer

OPTIONS = {"name": "adam", "lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.0}


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.GroupNorm(1, 3)).double()


def descend(network, options, steps=5):
    """The weights after some steps on the gradients sin(step + w)."""
    optimizer = make_optimizer(network, **{**OPTIONS, **options})
    for step in range(steps):
        for p in network.parameters():
            p.grad = torch.sin(step + p.detach())
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weights_follow_the_papers_recursion(network, name):
    decay, (b1, b2), lr, eps = 0.3, OPTIONS["betas"], OPTIONS["lr"], OPTIONS["eps"]
    expected = [p.detach().clone() for p in network.parameters()]
    m, v = ([torch.zeros_like(w) for w in expected] for _ in range(2))
    for step in range(5):
        for i, w in enumerate(expected):
            g = torch.sin(step + w)
            if name == "adam":
                g = g + decay * w
            elif w.ndim > 1:
                w = w - lr * decay * w
            m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g**2
            expected[i] = w - lr * (m[i] / (1 - b1 ** (step + 1))) / ((v[i] / (1 - b2 ** (step + 1))).sqrt() + eps)
    descend(network, {"name": name, "weight_decay": decay})
    for p, w in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)


def test_the_weights_of_a_network_on_the_cpu_are_updated_by_one_kernel(network):
    assert all(group["fused"] for group in descend(network, {}).param_groups)


def test_adamw_decays_matrices_and_not_norms_and_biases(network):
    groups = make_optimizer(network, **{**OPTIONS, "name": "adamw", "weight_decay": 0.1}).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.1, [2]), (0.0, [1, 1, 1])]


def test_frozen_parameters_are_left_out(network):
    network[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimizer(network, **OPTIONS).param_groups) == 2


def test_a_constant_rate_warms_up_in_the_steps_asked_for():
    for warmup in (0, 1, 7, 200):
        for step in range(300):
            assert learning_rate_factor("constant", step, warmup=warmup, steps=300) == min(1.0, (step + 1) / max(1, warmup))


def test_a_cosine_rate_falls_from_one_by_half_to_zero():
    rate = [learning_rate_factor("cosine", step, warmup=0, steps=100) for step in range(101)]
    assert rate[0] == 1
    assert rate[50] == pytest.approx(0.5)
    assert rate[100] == 0
    assert all(a > b for a, b in itertools.pairwise(rate))
    assert rate[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_an_inverse_square_root_rate_is_flat_to_its_reference_step_and_halves_at_four_times_it():
    rate = [learning_rate_factor("inverse_sqrt", step, warmup=100, steps=10) for step in range(1000)]
    assert rate[49] == pytest.approx(0.5)  # (49 + 1)/100, the warm-up
    assert rate[99] == rate[100] == 1
    assert rate[400] == 0.5
    assert rate[900] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sgd"}, "use one of adam, adamw"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"betas": (0.9, 1.0)}, "two numbers in"),
        ({"eps": -1.0}, "eps must be"),
        ({"weight_decay": math.inf}, "weight_decay must be"),
    ],
)
def test_options_out_of_range_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(network, **{**OPTIONS, **options})


def test_an_unknown_schedule_and_a_network_without_parameters_are_refused():
    with pytest.raises(ValueError, match="constant, cosine, inverse_sqrt"):
        learning_rate_factor("linear", 0, warmup=0, steps=1)
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(nn.Identity(), **OPTIONS)
