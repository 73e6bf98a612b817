"""Asks reference networks for the goldens of this folder.  It is run by hand; the tests need no reference.

    git clone https://github.com/ermongroup/ncsnv2 && git -C ncsnv2 checkout 1bcea03bd97d76a8357b9d674fa0bae5ff0f1093
    python tests/networks/goldens/make.py ncsn --reference ncsnv2

writes ncsn.safetensors: the authors' NCSN, NCSNv2, NCSNv2Deeper and NCSNv2Deepest, unmodified, of width 8 and with 10 noise levels, in
float64, on weights and images of state.py; NCSNv2's outputs times sigma, for our network leaves the division by it to others.

Why the authors' own repository: the port of these networks in yang-song/score_sde_pytorch (commit
cb1f359f4aadf0ff9a5e122fe8fffc9451fd6e44, models/ncsnv2.py) cannot be built, on any of its configs (ncsn_conv3x3 scales the bias of
convolutions that have none, ConditionalResidualBlock compares dilation=None with 1), and its dilated convolutions are not padded.
With a padded ncsn_conv3x3 that leaves the bias alone, its NCSNv2, NCSNv2_128 and NCSNv2_256 have the same keys as the three NCSNv2
above and give the same, to 4e-15.  So does CondRefineNetDilated of ermongroup/ncsn (7f27f4a16471d20a0af3be8b8b4c2ec57c8a0bc1) with NCSN.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from state import Golden, random_images, random_state, save_goldens

SEED = 0
SHAPE = (2, 3, 24, 16)  # not square, and large enough for the outer taps of convolutions dilated by 4 to matter at depths 4 and 5


def ncsn() -> dict[str, Golden]:
    """The four networks of ermongroup/ncsnv2, with and without `rescaled` (our `centered`)."""
    levels = (1, 8)
    goldens = {}
    for module, name, rescaled in (
        ("ncsn", "NCSN", False),
        ("ncsn", "NCSN", True),
        ("ncsnv2", "NCSNv2", False),
        ("ncsnv2", "NCSNv2", True),
        ("ncsnv2", "NCSNv2Deeper", False),
        ("ncsnv2", "NCSNv2Deepest", False),
    ):
        config = SimpleNamespace(
            device="cpu",
            data=SimpleNamespace(channels=3, image_size=32, logit_transform=False, rescaled=rescaled),
            model=SimpleNamespace(ngf=8, num_classes=10, spec_norm=False, normalization="InstanceNorm++", nonlinearity="elu",
                                  sigma_begin=50, sigma_end=0.01, sigma_dist="geometric"),
        )  # fmt: skip
        network = getattr(importlib.import_module(f"models.{module}"), name)(config)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items() if key != "sigmas"}
        network.load_state_dict(random_state(shapes, SEED), strict=False)
        labels = torch.tensor(levels)
        output = network(random_images(SHAPE, SEED + 1).double(), labels)
        if module == "ncsnv2":
            output = output * network.sigmas[labels, None, None, None]
        goldens[name + "_centered" * rescaled] = Golden(shapes, tuple(map(float, levels)), output, SEED)
    return goldens


FAMILIES: dict[str, Callable[[], dict[str, Golden]]] = {"ncsn": ncsn}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--reference", required=True, help="a checkout of the reference's repository")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.reference)
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        save_goldens(Path(__file__).with_name(f"{arguments.family}.safetensors"), FAMILIES[arguments.family]())
