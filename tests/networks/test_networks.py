import pytest
import torch

from sde_diffusion.networks import MLP, UNet, UNetConfig
from sde_diffusion.networks.embeddings import FourierFeatures


def awake(network):
    """Gives the layers that start at zero random weights, so that outputs depend on inputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("network", "shape"), [(MLP(dim=2), (2,)), (MLP(dim=12), (3, 4)), (UNet(), (1, 8, 8))])
def test_an_untrained_network_predicts_zero_in_the_shape_of_x(network, shape):
    x = normal(5, *shape)
    assert torch.equal(network(x, normal(5)), torch.zeros_like(x))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (32, 20)])
@pytest.mark.parametrize("options", [{}, {"multipliers": (1, 2, 2), "blocks": 2, "attention": (1, 2)}, {"multipliers": (1,)}])
def test_a_unet_takes_every_size_divisible_by_its_strides(height, width, options):
    network = awake(UNet(UNetConfig(channels=3, width=16, **options)))
    x = normal(2, 3, height, width)
    assert network(x, normal(2)).shape == x.shape


@pytest.mark.parametrize(("network", "shape"), [(MLP(), (2,)), (UNet(UNetConfig(width=16)), (1, 8, 8))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_has_the_dtype_of_the_network(network, shape, dtype):
    network = network.to(dtype)
    assert network(normal(2, *shape, dtype=dtype), normal(2, dtype=dtype)).dtype == dtype


def test_under_autocast_the_noise_level_is_embedded_in_float32():
    c = torch.tensor([0.1000, 0.1001])  # equal in bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = FourierFeatures(64)(c)
        assert awake(UNet(UNetConfig(width=16)))(normal(2, 1, 8, 8), c).dtype == torch.bfloat16
    assert features.dtype == torch.float32
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize(("network", "shape"), [(MLP(classes=3), (2,)), (UNet(UNetConfig(width=16, classes=3)), (1, 8, 8))])
def test_the_noise_level_and_the_class_change_the_output_and_no_class_is_the_null_class(network, shape):
    network = awake(network)
    x = normal(1, *shape)
    c, label = torch.tensor([0.3]), torch.tensor([0])
    outputs = [network(x, c), network(x, -c), network(x, c, label), network(x, c, label + 1)]
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(outputs[i], outputs[j])
    assert torch.equal(network(x, c), network(x, c, torch.tensor([3])))


@pytest.mark.parametrize(("network", "shape"), [(MLP(), (2,)), (UNet(UNetConfig(width=16, attention=(0, 1))), (1, 8, 8))])
def test_samples_of_a_batch_do_not_see_each_other(network, shape):
    network = awake(network).double()
    x, c = normal(4, *shape, dtype=torch.float64), normal(4, dtype=torch.float64)
    assert torch.allclose(network(x, c)[1:2], network(x[1:2], c[1:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet()(normal(2, 3, 8, 8), normal(2)), "takes images"),
        (lambda: UNet()(normal(2, 1, 7, 8), normal(2)), "divisible by 2"),
        (lambda: UNet()(normal(2, 2), normal(2)), "use MLP"),
        (lambda: MLP(dim=2)(normal(2, 3), normal(2)), "dim=3"),
        (lambda: MLP()(normal(2, 2), normal(2), torch.tensor([0, 1])), "without classes"),
        (lambda: FourierFeatures(3), "must be even"),
    ],
)
def test_a_misfit_is_refused_with_its_cure(make, message):
    with pytest.raises(ValueError, match=message):
        make()
