import dataclasses

import pytest
import torch
from torch import nn

from sde_diffusion.networks import UNet, UNetConfig, published
from sde_diffusion.networks.blocks import Resample, attend, doubled

FULL = UNetConfig(channels=2, width=16, multipliers=(1, 2), slim=False, attention=(1,), classes=3)


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def awake(config):
    """A network whose weights depend on nothing but their names' order, none of them zero."""
    network = UNet(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(offset + 0.1 * torch.randn(parameter.shape, generator=generator))
        for buffer in network.buffers():
            if "periods" in dict(network.named_buffers()) and buffer.numel() > 1:
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return network.eval()


def answer(config, **options):
    sides = (8,) * config.dims
    return awake(config)(normal(2, config.channels, *sides), torch.tensor([0.3, -0.7]), **options)


@pytest.mark.parametrize(
    ("name", "parameters", "paper"),
    [
        # counted by building the authors' own networks (score_sde_pytorch, guided-diffusion, EDM), in millions as the papers print them
        ("ddpm_cifar10", 35_746_307, 35.7),
        ("improved_ddpm_cifar10", 52_546_438, 52.5),
        ("ddpmpp_cifar10", 61_804_419, 61.8),
        ("ncsnpp_cifar10", 62_758_787, 62.8),
        ("edm_ddpmpp_cifar10", 55_732_739, 55.7),
        ("edm_ncsnpp_cifar10", 56_395_523, 56.4),
        ("adm_64", 295_904_454 + 768, 295.9),  # and the row of the null class
    ],
)
def test_published_networks_have_the_papers_sizes(name, parameters, paper):
    with torch.device("meta"):
        network = getattr(published, name)()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert round(parameters / 1e6, 1) == paper


@pytest.mark.parametrize(
    "change",
    [
        {"attention": ()},
        {"attention": (1,), "heads": 4, "head_channels": 0},
        {"attention_up": "last"},
        {"embedding": "ddpm"},
        {"embedding": "adm"},
        {"embedding": "fourier"},
        {"film": False},
        {"block": "biggan"},
        {"block": "biggan", "project_resampled": True},
        {"block": "biggan", "fir": (1, 3, 3, 1)},
        {"resample_conv": True},
        {"resample_conv": True, "downsample_padding": "both"},
        {"fir": (1, 3, 3, 1)},
        {"fir": (1, 3, 3, 1), "resample_conv": True},
        {"progressive_input": "skip"},
        {"progressive_input": "skip", "combine": "cat"},
        {"progressive_input": "residual"},
        {"progressive_input": "residual", "fir": (1, 3, 3, 1)},
        {"progressive_output": "skip"},
        {"progressive_output": "residual"},
        {"progressive_output": "residual", "fir": (1, 3, 3, 1)},
        {"skip_rescale": False},
        {"groups": 1},
        {"group_channels": 4},
        {"norm_eps": 0.1},
        {"recentre": True},
        {"slim": True},
        {"blocks": 2},
    ],
    ids=str,
)
def test_every_choice_changes_the_output_and_reaches_all_weights(change):
    config = dataclasses.replace(FULL, blocks=2) if "attention_up" in change else FULL
    if "downsample_padding" in change:
        config = dataclasses.replace(config, resample_conv=True)
    if "combine" in change:
        config = dataclasses.replace(config, progressive_input="skip")
    if "project_resampled" in change:
        config = dataclasses.replace(config, block="biggan")
    network = awake(dataclasses.replace(config, **change))
    x = normal(2, 2, 8, 8)
    y = network(x, torch.tensor([0.3, -0.7]), torch.tensor([0, 2]))
    assert y.shape == x.shape
    assert not torch.allclose(y, awake(config)(x, torch.tensor([0.3, -0.7]), torch.tensor([0, 2])), rtol=0.01)
    y.square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_an_untrained_network_of_every_form_predicts_zero():
    for change in ({}, {"progressive_output": "skip"}, {"progressive_output": "residual"}, {"learned_variance": True}):
        network = UNet(dataclasses.replace(FULL, **change))
        y = network(normal(2, 2, 8, 8), normal(2))
        assert y.shape == (2, 4 if change.get("learned_variance") else 2, 8, 8)
        assert not y.any()


def test_dropout_acts_in_training_only():
    network = awake(dataclasses.replace(FULL, dropout=0.5))
    x, c = normal(2, 2, 8, 8), normal(2)
    assert torch.equal(network(x, c), awake(FULL)(x, c))
    network.train()
    assert not torch.equal(network(x, c), network(x, c))


@pytest.mark.parametrize("width", [6, 20, 40, 72])
def test_every_even_width_has_groups_that_fit(width):
    assert answer(dataclasses.replace(FULL, width=width, multipliers=(1, 3), head_channels=0)).isfinite().all()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("fir", [(), (1.0, 3.0, 3.0, 1.0)])
def test_resampling_keeps_a_constant_and_a_ramp_in_phase(dims, fir):
    # a linear function halved and doubled is itself away from the border: no shift by a fraction of a pixel
    ramp = torch.arange(16.0)
    ramp = sum(ramp.reshape([-1 if i == j else 1 for i in range(dims)]) * (j + 1) for j in range(dims)).expand((1, 1) + (16,) * dims)
    inner = (..., *[slice(4, 12)] * dims)
    half = Resample("down", fir, dims)(ramp)
    again = Resample("up", fir, dims)(half)
    centres = Resample("down", (), dims)(ramp)
    torch.testing.assert_close(half[(..., *[slice(2, 6)] * dims)], centres[(..., *[slice(2, 6)] * dims)])
    error = (again - ramp)[inner]
    assert error.mean().abs() < 1e-5
    if fir:
        torch.testing.assert_close(again[inner], ramp[inner])


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes_have_the_same_blocks(dims):
    config = dataclasses.replace(FULL, dims=dims, fir=(1, 3, 3, 1), block="biggan", progressive_input="residual")
    y = answer(config)
    assert y.shape == (2, 2, *(8,) * dims)
    assert y.isfinite().all()


def test_an_image_that_is_constant_along_one_side_is_a_signal():
    # a 2-D network whose kernels are those of the 1-D one in their middle column, zero beside it, sees each column as the signal
    config = dataclasses.replace(FULL, dims=1, group_channels=16)
    line, plane = awake(config), awake(dataclasses.replace(config, dims=2))
    own = line.state_dict()
    with torch.no_grad():
        for name, weight in plane.state_dict().items():
            if weight.ndim == 4 and weight.shape[-1] == 3:
                weight.zero_()
                weight[..., 1] = own[name]
            else:
                weight.copy_(own[name].reshape(weight.shape))
    x, c = normal(2, 2, 8), normal(2)
    y = plane(x[..., None].expand(2, 2, 8, 4), c)
    torch.testing.assert_close(y, line(x, c)[..., None].expand_as(y), rtol=1e-4, atol=1e-4)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        network = awake(dataclasses.replace(FULL, checkpointing=checkpointing)).train()
        network(normal(2, 2, 8, 8), normal(2)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None and recomputed is None) or torch.equal(plain, recomputed)


def test_recomputing_keeps_fewer_activations():
    def kept(checkpointing):
        network, numbers = awake(dataclasses.replace(FULL, checkpointing=checkpointing)), []

        def pack(tensor):
            numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(normal(2, 2, 8, 8), normal(2))
        return sum(numbers)

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.parametrize("name", ["ddpm_cifar10", "ncsnpp_cifar10", "improved_ddpm_cifar10"])
def test_a_network_compiles_without_graph_breaks(name):
    with torch.device("meta"):
        config = dataclasses.replace(getattr(published, name)().config, width=16, blocks=1)
    network = awake(config)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    x, c = normal(2, config.channels, 16, 16), torch.tensor([0.3, -0.7])
    torch.testing.assert_close(compiled(x, c), network(x, c))


def test_channels_last_changes_no_number_and_stays():
    network = awake(FULL)
    x, c = normal(2, 2, 8, 8), normal(2)
    before = network(x, c)
    network.to(memory_format=torch.channels_last)
    layouts = []
    for block in network.modules():
        if isinstance(block, nn.Conv2d) and block.kernel_size == (3, 3):
            block.register_forward_hook(lambda _, inputs, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last), c), before, rtol=1e-4, atol=1e-5)
    assert all(layouts)


@pytest.mark.parametrize("embedding", ["octaves", "ddpm", "adm", "fourier"])
def test_under_bfloat16_labels_that_differ_by_one_stay_apart(embedding):
    # 998 and 999 are the same number in bfloat16
    network = awake(dataclasses.replace(FULL, embedding=embedding))
    c = torch.tensor([998.0, 999.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.embed.features(c)
        y = network(normal(2, 2, 8, 8), c)
    assert features.dtype == torch.float32
    assert not torch.equal(features[0], features[1])
    assert y.dtype == torch.bfloat16
    exact = network(normal(2, 2, 8, 8), c)
    assert (y - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(*network.bfloat16().embed.features(c))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": ()}, "multipliers must be at least 1, one per level"),
        ({"attention": (2,)}, r"attention names levels 0 \(the finest\) to 1"),
        ({"fir": (1, 2, 1)}, "fir must have an even number of weights"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"block": "resnet"}, "block must be one of"),
        ({"width": 21}, "width must be even and at least 4"),
        ({"attention": (0,), "width": 16, "head_channels": 0, "heads": 3}, "do not divide into 3 heads"),
        ({"slim": True, "progressive_input": "skip"}, "need slim=False"),
        ({"blocks": 0}, "blocks must be at least 1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**options)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_doubling_and_a_convolution_are_one_transposed_convolution(dims):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 5, 3, padding=1).double()
    x = normal(2, 4, *(4, 5, 6)[:dims], dtype=torch.float64)
    torch.testing.assert_close(doubled(x, conv), conv(Resample("up", (), dims)(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pixels", [16, 1089])  # written out, and fused
def test_attention_in_bfloat16_is_that_of_float32_and_so_are_its_gradients(pixels):
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(2, 2, pixels, 8, generator=generator).bfloat16() for _ in range(4))
    wide = [a.float().requires_grad_() for a in (q, k, v)]
    narrow = [a.requires_grad_() for a in (q, k, v)]
    expected, found = torch.nn.functional.scaled_dot_product_attention(*wide), attend(*narrow)
    pairs = [(found, expected), *zip(torch.autograd.grad(found, narrow, g), torch.autograd.grad(expected, wide, g.float()), strict=True)]
    for a, b in pairs:
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() < 0.02 * b.norm()  # bfloat16 has 8 bits: 0.004 per operation
