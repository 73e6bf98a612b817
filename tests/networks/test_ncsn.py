from pathlib import Path

import pytest
import torch
from goldens.state import load_goldens, random_images, random_state

from sde_diffusion.expressions import build
from sde_diffusion.networks.ncsn import NCSN, NCSNv2, ncsn_cifar10, ncsnv2_cifar10
from sde_diffusion.networks.refinenet import ConditionalInstanceNormPlus, InstanceNormPlus

GOLDENS = load_goldens(Path(__file__).parent / "goldens" / "ncsn.safetensors")  # how they were made: goldens/make.py
OURS = {
    "NCSN": lambda: NCSN(width=8),
    "NCSN_centered": lambda: NCSN(width=8, centered=True),
    "NCSNv2": lambda: NCSNv2(width=8),
    "NCSNv2_centered": lambda: NCSNv2(width=8, centered=True),
    "NCSNv2Deeper": lambda: NCSNv2(width=8, depth=5),
    "NCSNv2Deepest": lambda: NCSNv2(width=8, depth=6),
}
c = torch.tensor([1.0, 8.0])


def known(network):
    """The network with weights that are drawn by their keys, so that two networks of the same shapes have the same weights."""
    network.load_state_dict(random_state({key: tuple(value.shape) for key, value in network.state_dict().items()}, seed=0))
    return network


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", OURS)
def test_a_network_has_the_keys_of_the_authors_code_and_gives_its_output(name):
    golden, network = GOLDENS[name], OURS[name]()
    network.load_state_dict(golden.state())  # strict: no key is missing, none is too many, and shapes agree
    with torch.no_grad():
        assert relative(network(golden.images(), torch.tensor(golden.c_noise)), golden.output) < 1e-5  # float32 all along
        exact = network.double()(golden.images().double(), torch.tensor(golden.c_noise))
    assert relative(exact, golden.output) < 1e-7  # the golden was computed in float64 and stored in float32


def test_the_goldens_are_told_apart():
    assert set(GOLDENS) == set(OURS)
    outputs = [golden.output for golden in GOLDENS.values()]
    assert all(relative(a, b) > 0.1 for i, a in enumerate(outputs) for b in outputs[:i])


# The numbers are those of the authors' code (ermongroup/ncsnv2, see goldens/make.py) with its configs' ngf=128 and 10 or 232 levels.
@pytest.mark.parametrize(("make", "parameters"), [(ncsn_cifar10, 30_117_635), (ncsnv2_cifar10, 29_694_083)])
def test_the_named_networks_have_the_size_of_the_authors(make, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == parameters


@pytest.mark.parametrize("name", OURS)
def test_the_expression_of_a_network_builds_it_again(name):
    network = OURS[name]()
    again = build(network.expression, {"NCSN": NCSN, "NCSNv2": NCSNv2})
    assert again.expression == network.expression
    x = random_images((2, 3, 16, 8), 1)
    assert torch.equal(known(again)(x, c), known(network)(x, c))


@pytest.mark.parametrize("name", OURS)
def test_the_gradient_reaches_every_parameter(name):
    network = known(OURS[name]())
    network(random_images((2, 3, 16, 8), 1), c).square().sum().backward()
    idle = [key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not idle


def test_ncsn_sees_the_noise_level_and_ncsnv2_does_not():
    x = random_images((2, 3, 8, 8), 1)
    first, second = known(NCSN(width=8)), known(NCSNv2(width=8))
    assert relative(first(x, c), first(x, c.flip(0))) > 0.1
    assert torch.equal(first(x, c), first(x, c + 0.4))  # rounded
    assert torch.equal(second(x, c), second(x, c.flip(0)))


@pytest.mark.parametrize("make", [NCSN, NCSNv2])
def test_images_in_0_1_and_in_minus_1_1_mean_the_same_to_the_two_values_of_centered(make):
    x = random_images((2, 3, 8, 8), 1).double()
    inside, centered = known(make(width=8)).double(), known(make(width=8, centered=True)).double()
    assert relative(inside(x, c), centered(2 * x - 1, c)) < 1e-12
    assert relative(inside(x, c), centered(x, c)) > 0.1


@pytest.mark.parametrize("make", [NCSN, NCSNv2])
def test_samples_of_a_batch_do_not_see_each_other(make):
    network, x = known(make(width=8)).double(), random_images((2, 3, 8, 8), 1).double()
    assert relative(network(x, c)[1:], network(x[1:], c[1:])) < 1e-12


def test_instance_norm_plus_gives_the_means_back_as_an_independent_computation_does():
    x = random_images((2, 5, 4, 6), 1).double()
    mean, deviation = x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-5).sqrt()
    shift = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True) + 1e-5).sqrt()
    norm = known(InstanceNormPlus(5)).double()
    expected = torch.stack([torch.stack([
        norm.gamma[k] * ((x[i, k] - mean[i, k]) / deviation[i, k] + norm.alpha[k] * shift[i, k]) + norm.beta[k]
        for k in range(5)]) for i in range(2)])  # fmt: skip
    assert relative(norm(x, c), expected) < 1e-12


def test_norms_start_as_the_paper_starts_them():
    torch.manual_seed(0)
    plain, table = InstanceNormPlus(4096), ConditionalInstanceNormPlus(512, levels=8).embed.weight
    gamma, alpha, beta = table.chunk(3, dim=1)
    for scale in (plain.alpha, plain.gamma, gamma, alpha):  # N(1, 0.02^2): 4096 draws, so the mean is within 5 sigma = 0.0016
        assert abs(scale.mean().item() - 1) < 0.0016
        assert abs(scale.std().item() - 0.02) < 0.0012
    assert not plain.beta.any()
    assert not beta.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSNv2(width=8, depth=3), "depth must be"),
        (lambda: NCSNv2(width=1), "at least 2"),
        (lambda: NCSN(width=8)(torch.zeros(2, 1, 8, 8), c), "takes images"),
        (lambda: NCSNv2(width=8)(torch.zeros(2, 4, 8, 8), c), "takes images"),
        (lambda: NCSNv2(width=8, depth=6)(torch.zeros(2, 3, 8, 12), c), "divisible by 8"),
        (lambda: NCSNv2(width=8, depth=6)(torch.zeros(2, 3, 8, 8), c), "not both 8"),
        (lambda: NCSNv2(width=8)(torch.zeros(2, 3), c), "takes images"),
        (lambda: NCSN(width=8)(torch.zeros(2, 3, 8, 8), c, torch.tensor([0, 1])), "no classes"),
        (lambda: NCSN(width=8)(torch.zeros(2, 3, 8, 8), torch.tensor([0.0, 10.0])), "0 .largest sigma. .. 9"),
        (lambda: NCSN(width=8)(torch.zeros(2, 3, 8, 8), torch.tensor([0.0, -1.2])), "0 .largest sigma. .. 9"),
    ],
)
def test_a_misfit_is_refused_with_its_cure(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["NCSN", "NCSNv2"])
def test_a_network_compiles_without_graph_breaks(name):
    torch.compiler.reset()
    network = known(OURS[name]())
    x = random_images((2, 3, 16, 16), 1)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c), network(x, c))
