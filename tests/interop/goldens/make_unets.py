"""Makes unets.safetensors: what score_sde_pytorch's own U-Nets answer, for every family and flag that its configurations use.

    python tests/interop/goldens/make_unets.py --reference PATH

PATH is a checkout of github.com/yang-song/score_sde_pytorch at cb1f359f4aadf0ff9a5e122fe8fffc9451fd6e44. Its networks are built small,
in evaluation mode, with weights and images of tests/networks/goldens/state.py (NumPy's frozen RandomState), so that the file holds the
names and shapes of the weights and the outputs only. `upfirdn2d`, a CUDA extension with a plain PyTorch version, runs as the latter;
`interpolate(x, size, "nearest")`, which passes the mode as the scale and fails, is mended.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "networks" / "goldens"))
sys.path.insert(0, str(HERE))

from cases import CASES, LABELS, config  # noqa: E402
from state import Golden, random_images, random_state, save_goldens  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path)
    reference = parser.parse_args().reference
    sys.path.insert(0, str(reference))
    native = {}
    source = (reference / "op" / "upfirdn2d.py").read_text()
    start = source.index("def upfirdn2d_native")
    exec("import torch\nfrom torch.nn import functional as F\n" + source[start:], native)
    op = types.ModuleType("op")
    op.upfirdn2d = lambda x, k, up=1, down=1, pad=(0, 0): native["upfirdn2d_native"](x, k, up, up, down, down, *pad, *pad)
    sys.modules["op"] = op
    interpolate = torch.nn.functional.interpolate
    torch.nn.functional.interpolate = lambda x, size, mode: interpolate(x, size, mode=mode)
    from models import ddpm, ncsnpp  # noqa: F401
    from models.utils import get_model

    goldens = {}
    for seed, name in enumerate(CASES):
        settings = config(name)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = get_model(settings.model.name)(settings).eval()
            own = network.state_dict()
            shapes = {key: tuple(value.shape) for key, value in own.items() if key != "sigmas"}
            network.load_state_dict(random_state(shapes, seed) | {"sigmas": own["sigmas"]})
            output = network(random_images((2, 3, 8, 8), seed + 1), torch.tensor(LABELS[name]))
        goldens[name] = Golden(shapes, tuple(LABELS[name]), output, seed)
        print(name, tuple(output.shape), f"std {output.std():.3g}")
    save_goldens(HERE / "unets.safetensors", goldens)


if __name__ == "__main__":
    main()
