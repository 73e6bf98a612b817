import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion import training
from sde_diffusion.data import Batch
from sde_diffusion.training import Experiment


def run(experiment, workdir, **options):
    return training.train(experiment, workdir, progress=False, device="cpu", **options)


class Pairs(torch.utils.data.Dataset):
    """A data set of one's own: points and their classes."""

    classes = ("a", "b", "c", "d", "e")  # as the data sets of torchvision name theirs

    def __len__(self):
        return 50

    def __getitem__(self, i):
        return torch.tensor([i % 5, -(i % 5)]) / 5, i % 5


class Own(nn.Module):
    """A network of one's own, told of a class, 5 being none."""

    def __init__(self):
        super().__init__()
        self.classes, self.layer = nn.Embedding(6, 4), nn.Linear(7, 2)

    def forward(self, x, c_noise, cond=None):
        return self.layer(torch.cat([x, c_noise[:, None], self.classes(cond)], 1))


def own(config, **changes):
    config.update({"data": "my pairs", "network": "my network", "conditional": True, "label_dropout": 0.5, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Own()
    return Experiment.build(config, data=Pairs(), network=network)


def test_an_experiment_takes_any_data_set_and_any_network(config, tmp_path):
    denoiser = run(own(config), tmp_path)
    with torch.random.fork_rng(devices=[]):
        loaded = training.open_checkpoint(tmp_path).denoiser(network=Own())
    labels = torch.tensor([0, 4, 5])
    x = sd.sample(loaded, shape=(3, 2), nfe=3, cond=labels, seeds=range(3))
    assert torch.equal(x, sd.sample(denoiser, shape=(3, 2), nfe=3, cond=labels, seeds=range(3)))
    with pytest.raises(ValueError, match="my network"):
        training.load_denoiser(tmp_path)


def test_an_experiment_is_trained_again_where_it_stopped(config, tmp_path):
    run(own(config), tmp_path / "whole")
    experiment = own(config, steps=10)
    run(experiment, tmp_path / "halves")
    experiment.config.steps = 20
    run(experiment, tmp_path / "halves", resume=True)
    whole, halves = (training.open_checkpoint(tmp_path / name).tensors("network") for name in ("whole", "halves"))
    assert all(torch.equal(whole[k], halves[k]) for k in whole)


def test_the_losses_of_the_parts_of_a_batch_are_those_of_the_batch(config):
    config.update({"data": "digits", "network": "UNet(UNetConfig(width=8, classes=10))", "conditional": True, "label_dropout": 0.5})
    experiment = Experiment.build(config)
    batch = next(experiment.data.train.batches(config.batch_size, seed=0))
    whole, times = experiment.losses(batch, 3)
    for a, b in ((0, 5), (5, 6), (6, 32)):
        part = Batch(*(column[a:b] for column in batch))
        losses, t = experiment.losses(part, 3, start=a)
        assert torch.equal(t, times[a:b])
        assert torch.allclose(losses, whole[a:b], rtol=1e-5)
    assert not torch.equal(experiment.losses(batch, 4)[1], times)


@pytest.mark.parametrize(("dropout", "told"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_the_null_class_is_told_as_often_as_it_should_be(dropout, told, config):
    config.update({"data": "digits", "network": "UNet(UNetConfig(width=8, classes=10))", "conditional": True, "batch_size": 512})
    config.label_dropout = dropout
    experiment = Experiment.build(config)
    conditions = []
    experiment.denoiser.network.register_forward_pre_hook(lambda module, inputs: conditions.append(inputs[2]))
    batch = next(experiment.data.train.batches(512, seed=0))
    with torch.no_grad():
        experiment.losses(batch, 0)
    null = conditions[0] == 10
    assert null.double().mean() == pytest.approx(told, abs=0.06)  # three standard deviations
    assert torch.equal(conditions[0][~null], batch.labels[~null])


def test_sigma_data_in_an_expression_is_the_standard_deviation_of_the_data(config):
    config.update({"parameterization": "EDM(sigma_data)", "loss": "DenoisingScoreMatching(EDMWeighting(sigma_data=sigma_data))"})
    experiment = Experiment.build(config)
    x = experiment.data.train.take().x
    assert experiment.denoiser.parameterization.sigma_data == pytest.approx((x - x.mean(0)).square().mean().sqrt().item(), rel=1e-3)
    assert experiment.loss.weighting.sigma_data == experiment.denoiser.parameterization.sigma_data
    assert experiment.config.parameterization == repr(experiment.denoiser.parameterization)
    assert config.parameterization == "EDM(sigma_data)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditional": True, "data": "checkerboard"}, "has no class labels"),
        ({"conditional": True, "data": "digits", "network": "UNet(UNetConfig(width=8, classes=7))"}, "and 10 classes, do not fit"),
        ({"snapshot_every": 5}, r"set it to \(0.05, 0.1\)"),
        ({"ema": ()}, "at least one decay"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_before_training(changes, message, config):
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        Experiment.build(config)
