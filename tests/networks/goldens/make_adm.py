"""Makes adm.safetensors: what guided-diffusion's own U-Net answers, as improved DDPM and as ADM build it.

    python tests/networks/goldens/make_adm.py --reference PATH

PATH is a checkout of github.com/openai/guided-diffusion at 22e0df8183507e13a7813f8d38d51b072ca1e67c. Its networks are built small, in
evaluation mode, with weights and images of state.py (NumPy's frozen RandomState), so that the file holds the names and shapes of the
weights, in their order, and the outputs only. Attention has its "new order", in which heads divide the queries.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import torch
from state import Golden, random_images, random_state, save_goldens

HERE = Path(__file__).parent
COMMON = {
    "image_size": 8,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "use_scale_shift_norm": True,
    "use_new_attention_order": True,
}
CASES = {
    "improved_ddpm": COMMON | {"num_heads": 4},
    "adm": COMMON | {"num_head_channels": 16, "resblock_updown": True, "num_classes": 5},
}
STEPS, CLASSES = [3.0, 700.25], [4, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path)
    sys.path.insert(0, str(parser.parse_args().reference))
    package = types.ModuleType("guided_diffusion")  # whose own __init__ asks for MPI
    package.__path__ = [str(Path(sys.path[0]) / "guided_diffusion")]
    sys.modules["guided_diffusion"] = package
    from guided_diffusion.unet import UNetModel

    goldens = {}
    for seed, (name, options) in enumerate(CASES.items()):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = UNetModel(**options).eval()
            shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
            network.load_state_dict(random_state(shapes, seed))
            labels = {"y": torch.tensor(CLASSES)} if "num_classes" in options else {}
            output = network(random_images((2, 3, 8, 8), seed + 1), torch.tensor(STEPS), **labels)
        goldens[name] = Golden(shapes, tuple(STEPS), output, seed)
        print(name, tuple(output.shape), f"std {output.std():.3g}")
    save_goldens(HERE / "adm.safetensors", goldens)


if __name__ == "__main__":
    main()
