"""Makes dit.safetensors: what the authors' own DiT answers (Peebles & Xie 2022).

    python tests/networks/goldens/make_dit.py --reference PATH

PATH is a checkout of github.com/facebookresearch/DiT. Its three parts from timm are written out below, by timm's formulas and with timm's
names. The network is built small, in evaluation mode, with weights and images of state.py (NumPy's frozen RandomState) except for its own
fixed `pos_embed`, so that the file holds the names and shapes of the weights, `pos_embed` and the output.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file
from state import random_images, random_state
from torch import nn

HERE = Path(__file__).parent
OPTIONS = {"input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
STEPS, CLASSES = [3.0, 700.25], [4, 5]  # 5 is the null class


class PatchEmbed(nn.Module):
    def __init__(self, size, patch, channels, width, bias):
        super().__init__()
        self.patch_size, self.num_patches = (patch, patch), (size // patch) ** 2
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch, bias=bias)

    def forward(self, x):
        return torch.stack([column.flatten(1) for column in self.proj(x).unbind(1)], dim=2)


class Attention(nn.Module):
    def __init__(self, width, num_heads, qkv_bias):
        super().__init__()
        self.heads, self.qkv, self.proj = num_heads, nn.Linear(width, 3 * width, bias=qkv_bias), nn.Linear(width, width)

    def forward(self, x):
        outputs = []
        q, k, v = self.qkv(x).chunk(3, dim=2)
        for q_head, k_head, v_head in zip(*(part.chunk(self.heads, dim=2) for part in (q, k, v)), strict=True):
            scores = torch.einsum("bic,bjc->bij", q_head, k_head) / q_head.shape[2] ** 0.5
            outputs.append(torch.einsum("bij,bjc->bic", scores.softmax(2), v_head))
        return self.proj(torch.cat(outputs, dim=2))


class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features, act_layer, drop):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(in_features, hidden_features), act_layer(), nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path)
    sys.path.insert(0, str(parser.parse_args().reference))
    timm = types.ModuleType("timm.models.vision_transformer")
    timm.PatchEmbed, timm.Attention, timm.Mlp = PatchEmbed, Attention, Mlp
    sys.modules |= {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models"), timm.__name__: timm}
    from models import DiT

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = DiT(**OPTIONS).eval()
        places = network.pos_embed.clone()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(random_state(shapes, 0) | {"pos_embed": places})
        output = network(random_images((2, 3, 8, 8), 1), torch.tensor(STEPS), torch.tensor(CLASSES)).contiguous()
    print(tuple(output.shape), f"std {output.std():.3g}")
    save_file({"output": output, "pos_embed": places}, HERE / "dit.safetensors", metadata={"shapes": json.dumps(shapes)})


if __name__ == "__main__":
    main()
