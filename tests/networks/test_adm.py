"""guided-diffusion's own answers on seeded weights (goldens/make_adm.py), against ours on the same weights."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from sde_diffusion.networks import UNet, published

GOLDENS = Path(__file__).parent / "goldens"
sys.path.append(str(GOLDENS))

from make_adm import CLASSES  # noqa: E402
from state import load_goldens, random_images  # noqa: E402

SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}


@pytest.mark.parametrize(
    ("name", "published_as", "changes"),
    [("improved_ddpm", "improved_ddpm_cifar10", {}), ("adm", "adm_64", {"head_channels": 16, "classes": 5})],
)
def test_improved_ddpm_and_adm_answer_as_the_authors_code_does(name, published_as, changes):
    with torch.device("meta"):
        config = dataclasses.replace(getattr(published, published_as)().config, **SMALL, **changes)
    network = UNet(config).eval()
    golden = load_goldens(GOLDENS / "adm.safetensors")[name]
    state = golden.state()
    with torch.no_grad():  # both networks have their weights in the order of the data flow; ours has a null class more
        for ours, theirs in zip(network.parameters(), golden.shapes, strict=True):
            ours.view(len(ours), -1)[: len(state[theirs])].copy_(state[theirs].view(len(state[theirs]), -1))
    labels = (torch.tensor(CLASSES),) if config.classes else ()
    output = network(random_images((2, 3, 8, 8), golden.seed + 1), torch.tensor(golden.c_noise), *labels)
    assert (output - golden.output).norm() < 1e-5 * golden.output.norm()
