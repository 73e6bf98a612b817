"""The diffusion transformer, against what the authors' own code answers on the same weights (goldens/make_dit.py)."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import sde_diffusion as sd
from sde_diffusion.expressions import build
from sde_diffusion.networks.dit import DiT, DiTConfig, dit_b_2, dit_l_2, dit_s_2, dit_xl_2

GOLDENS = Path(__file__).parent / "goldens"
sys.path.append(str(GOLDENS))

from make_dit import CLASSES, STEPS  # noqa: E402
from state import random_images, random_state  # noqa: E402

TINY = DiTConfig(channels=2, size=8, width=16, depth=2, heads=2, classes=3)
X = random_images((2, 2, 8, 8), 1)
C = torch.tensor([0.3, -0.7])
LABELS = torch.tensor([2, 0])


def made(config=TINY):
    """A network none of whose weights is zero; configs of equal shapes have equal weights."""
    network = DiT(config)
    shapes = {key: tuple(p.shape) for key, p in network.named_parameters()}
    network.load_state_dict(random_state(shapes, 0), strict=False)
    return network


def test_it_answers_as_the_authors_code_does_on_its_state_dict():
    golden = safe_open(GOLDENS / "dit.safetensors", "pt")
    shapes = json.loads(golden.metadata()["shapes"])
    network = DiT(DiTConfig(channels=3, size=8, width=32, depth=2, heads=4, classes=5, embedding="positional", learned_variance=True))
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == shapes
    assert torch.allclose(network.pos_embed, golden.get_tensor("pos_embed"), rtol=0, atol=1e-7)
    network.load_state_dict(random_state(shapes, 0) | {"pos_embed": golden.get_tensor("pos_embed")})
    output, expected = network(random_images((2, 3, 8, 8), 1), torch.tensor(STEPS), torch.tensor(CLASSES)), golden.get_tensor("output")
    assert (output - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("constructor", "trained", "paper"),
    # Trained: summed by `count` from width and depth. Paper: its figures, in millions.
    [(dit_s_2, 32_865_056, 33), (dit_b_2, 130_315_808, 130), (dit_l_2, 457_840_672, 458), (dit_xl_2, 674_834_720, 675)],
)
def test_the_papers_networks_have_the_papers_numbers_of_parameters(constructor, trained, paper):
    with torch.device("meta"):
        network = constructor()
    assert sum(p.numel() for p in network.parameters()) == trained == count(network.config)
    assert round(trained / 1e6) == paper


def count(c):
    """The number of parameters by hand: weights, then biases."""
    w, pixels = c.width, c.patch**2
    block = (3 + 1 + 4 + 4 + 6) * w * w + (3 + 1 + 4 + 1 + 6) * w
    embeddings = c.channels * pixels * w + w + 256 * w + w * w + 2 * w + (c.classes + 1) * w
    return c.depth * block + embeddings + 2 * w * w + 2 * w + (w + 1) * pixels * c.outputs


def test_an_untrained_network_predicts_zero_and_its_blocks_are_identities():
    network = DiT(TINY)
    assert torch.equal(network(X, C), torch.zeros_like(X))
    h = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 16, 16)
    assert torch.equal(network.blocks[0](h, torch.ones(2, 16)), h)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": 4},
        {"depth": 3},
        {"heads": 4},
        {"width": 32},
        {"mlp_ratio": 2},
        {"embedding": "positional"},
        {"classes": 0},
        {"learned_variance": True},
    ],
    ids=str,
)
def test_every_option_changes_the_output(changes):
    changed = made(dataclasses.replace(TINY, **changes))(X, C)
    assert changed.shape == (2, 4 if "learned_variance" in changes else 2, 8, 8)
    assert not torch.allclose(changed[:, :2], made()(X, C), rtol=1e-3)


def test_noise_class_and_place_change_the_output_and_no_class_is_the_null_class():
    network = made()
    outputs = [network(X, C), network(X, -C), network(X, C, LABELS), network(X.roll(2, 3), C).roll(-2, 3), network(X.mT, C).mT]
    for i in range(len(outputs)):
        for j in range(i):
            assert not torch.allclose(outputs[i], outputs[j], rtol=1e-3)
    assert torch.equal(network(X, C), network(X, C, torch.tensor([3, 3])))


@pytest.mark.parametrize("changes", [{}, {"embedding": "positional", "learned_variance": True}, {"classes": 0}], ids=str)
def test_gradients_reach_every_parameter_and_checkpointing_leaves_them_as_they_are(changes):
    gradients = []
    for checkpointing in (False, True):
        network = made(dataclasses.replace(TINY, checkpointing=checkpointing, **changes))
        network(X, C, LABELS if network.config.classes else None).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        assert torch.equal(gradient, gradients[1][name]), name


def test_checkpointing_computes_each_block_again_in_the_backward_pass_only():
    calls = []
    network = made(dataclasses.replace(TINY, checkpointing=True))
    network.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(X, C)
    assert len(calls) == 1
    network(X, C).sum().backward()
    assert len(calls) == 3


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"classes": 0, "embedding": "positional"}], ids=str)
def test_it_compiles_as_one_graph(changes):
    network = made(dataclasses.replace(TINY, depth=1, **changes))
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(X, C), network(X, C), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"embedding": "positional"}], ids=str)
def test_under_autocast_it_is_close_to_float32_and_tells_close_noise_apart(changes):
    network = made(dataclasses.replace(TINY, **changes))
    c = torch.tensor([999.0, 1000.0] if changes else [0.1000, 0.1001])  # equal in bfloat16
    expected = network(X, c)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, features = network(X, c), network.t_embedder.features(c)
    assert (output - expected).norm() < 0.02 * expected.norm()  # bfloat16 has 8 bits: 0.004 per operation
    assert features.dtype == torch.float32
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_output_has_the_dtype_of_the_network(dtype):
    assert made().to(dtype)(X.to(dtype), C.to(dtype)).dtype == dtype


def test_samples_of_a_batch_do_not_see_each_other():
    network = made().double()
    assert torch.allclose(network(X.double(), C.double())[1:], network(X[1:].double(), C[1:].double()), rtol=0, atol=1e-12)


def test_as_a_denoiser_its_channels_are_the_noise_and_its_variance():
    chain = sd.DDPMChain(sd.linear_betas(1000))
    network = made(dataclasses.replace(TINY, embedding="positional", learned_variance=True))
    denoiser = sd.NetworkDenoiser(network, chain, sd.LearnedVariance(), sd.TimeLabel(1000, -1))
    output = network(X, torch.tensor([499.0, 499.0]), LABELS)
    x0_hat, v = denoiser.with_variance(X, 0.5, LABELS)
    assert torch.allclose(x0_hat, (X - chain.sigma(0.5).float() * output[:, :2]) / chain.alpha(0.5).float(), rtol=1e-5, atol=1e-5)
    assert torch.allclose(v, (output[:, 2:] + 1) / 2, rtol=0, atol=1e-6)
    guided = sd.ClassifierFreeGuidance(denoiser, scale=2.0)
    grid = torch.linspace(1, 0, 4, dtype=torch.float64)
    for belief, solver in ((denoiser, sd.Ancestral("learned")), (guided, sd.DDIM())):
        assert sd.sample(belief, solver, x=X, grid=grid, cond=LABELS, noise=torch.zeros_like).isfinite().all()


def test_the_expression_builds_it_again():
    network = DiT(TINY)
    assert build(network.expression, {"DiT": DiT, "DiTConfig": DiTConfig}).config == TINY


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiT(TINY)(X[:, :1], C), r"takes images \(b, 2, 8, 8\), got \(2, 1, 8, 8\); set"),
        (lambda: DiT(TINY)(random_images((2, 2, 8, 16), 1), C), "takes images"),
        (lambda: DiT(TINY)(X[0], C), "takes images"),
        (lambda: DiT(dataclasses.replace(TINY, classes=0))(X, C, LABELS), "without classes"),
        (lambda: DiTConfig(size=7), "multiple of patch=2"),
        (lambda: DiTConfig(width=30), "multiple of 4"),
        (lambda: DiTConfig(width=32, heads=3), "heads=3"),
        (lambda: DiTConfig(depth=0), "depth must be at least 1"),
        (lambda: DiTConfig(classes=-1), "classes must not be negative"),
        (lambda: DiTConfig(embedding="rotary"), "'octaves' or 'positional'"),
    ],
)
def test_a_misfit_is_refused_with_its_cure(make, message):
    with pytest.raises(ValueError, match=message):
        make()
