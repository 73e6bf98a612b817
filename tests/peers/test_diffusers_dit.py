"""diffusers' DiT with our weights. It embeds the step with other frequencies than the authors' code, which ours follows."""

import math

import pytest
import torch

from sde_diffusion.networks.dit import DiT, DiTConfig

diffusers = pytest.importorskip("diffusers")

CONFIG = DiTConfig(channels=2, size=8, width=32, depth=2, heads=4, classes=5, embedding="positional", learned_variance=True)


def in_their_words(state):
    """The same weights under diffusers' names; there, every block has its own copy of the embeddings."""
    emb = {f"timestep_embedder.linear_{i + 1}.{w}": state[f"t_embedder.mlp.{2 * i}.{w}"] for i in (0, 1) for w in ("weight", "bias")}
    emb["class_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"]
    theirs = {}
    for w in ("weight", "bias"):
        theirs[f"pos_embed.proj.{w}"] = state[f"x_embedder.proj.{w}"]
        theirs[f"proj_out_1.{w}"] = state[f"final_layer.adaLN_modulation.1.{w}"]
        theirs[f"proj_out_2.{w}"] = state[f"final_layer.linear.{w}"]
        for i in range(CONFIG.depth):
            ours, block = f"blocks.{i}", f"transformer_blocks.{i}"
            theirs |= {f"{block}.norm1.emb.{key}": value for key, value in emb.items()}
            theirs[f"{block}.norm1.linear.{w}"] = state[f"{ours}.adaLN_modulation.1.{w}"]
            for name, part in zip("qkv", state[f"{ours}.attn.qkv.{w}"].chunk(3), strict=True):
                theirs[f"{block}.attn1.to_{name}.{w}"] = part
            theirs[f"{block}.attn1.to_out.0.{w}"] = state[f"{ours}.attn.proj.{w}"]
            theirs[f"{block}.ff.net.0.proj.{w}"] = state[f"{ours}.mlp.fc1.{w}"]
            theirs[f"{block}.ff.net.2.{w}"] = state[f"{ours}.mlp.fc2.{w}"]
    return theirs


@pytest.fixture
def pair():
    torch.manual_seed(0)  # conftest.py lends the global generator
    ours = DiT(CONFIG).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.width // CONFIG.heads,
        in_channels=CONFIG.channels,
        out_channels=CONFIG.outputs,
        num_layers=CONFIG.depth,
        sample_size=CONFIG.size,
        patch_size=CONFIG.patch,
        num_embeds_ada_norm=CONFIG.classes,
        norm_eps=1e-6,
    ).eval()
    theirs.load_state_dict(in_their_words(ours.state_dict()))
    return ours, theirs


@torch.no_grad()
def difference(ours, theirs, steps):
    x, labels = torch.randn(2, 2, 8, 8), torch.tensor([4, 5])  # 5 is the null class
    expected = theirs(x, timestep=torch.tensor(steps), class_labels=labels).sample
    return ((ours(x, torch.tensor(steps), labels) - expected).norm() / expected.norm()).item()


def test_it_answers_as_diffusers_does_but_for_the_frequencies(pair):
    ours, theirs = pair
    assert difference(ours, theirs, [0, 0]) < 1e-5  # where frequencies do not matter
    assert difference(ours, theirs, [3, 700]) > 1e-3
    ours.t_embedder.features.frequencies = torch.exp(
        -math.log(1e4) * torch.arange(128) / 127
    )  # to 1/10000 itself; the authors stop a step short of it
    assert difference(ours, theirs, [3, 700]) < 1e-5
