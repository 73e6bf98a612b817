"""guided-diffusion's own answers on seeded weights (goldens/make_adm.py), against ours on the same weights."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sde_diffusion.networks import UNet, published

GOLDENS = Path(__file__).parent / "goldens"
sys.path.append(str(GOLDENS))

from make_adm import CLASSES, STEPS  # noqa: E402
from state import random_images, random_state  # noqa: E402

SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}


@pytest.mark.parametrize(
    ("seed", "name", "published_as", "changes"),
    [(0, "improved_ddpm", "improved_ddpm_cifar10", {}), (1, "adm", "adm_64", {"head_channels": 16, "classes": 5})],
)
def test_improved_ddpm_and_adm_answer_as_the_authors_code_does(seed, name, published_as, changes):
    with torch.device("meta"):
        config = dataclasses.replace(getattr(published, published_as)().config, **SMALL, **changes)
    network = UNet(config).eval()
    golden = safe_open(GOLDENS / "adm.safetensors", "pt")
    shapes = json.loads(golden.metadata()["shapes"])[name]
    state = random_state(shapes, seed)
    with torch.no_grad():  # both networks have their weights in the order of the data flow; ours has a null class more
        for ours, theirs in zip(network.parameters(), shapes, strict=True):
            ours.view(len(ours), -1)[: len(state[theirs])].copy_(state[theirs].view(len(state[theirs]), -1))
    labels = (torch.tensor(CLASSES),) if config.classes else ()
    output, expected = network(random_images((2, 3, 8, 8), 1), torch.tensor(STEPS), *labels), golden.get_tensor(name)
    assert (output - expected).norm() < 1e-5 * expected.norm()
