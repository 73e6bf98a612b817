import math

import numpy as np
import pytest
import torch

from sde_diffusion.data import NAMED, Checkerboard, Patches, Signals, load, planar

PLANAR = ["moons", "ring", "checkerboard", "swiss_roll", "spirals", "pinwheel"]


def everything(name):
    data = load(name)
    return torch.cat([data.train.take().x, data.held_out.take().x])


def test_digits_are_1437_and_360_images_of_17_grey_levels_in_minus_one_to_one():
    data = load("digits")
    train = data.train.take()
    assert train.x.shape == (1437, 1, 8, 8)
    assert len(data.held_out) == 360
    assert data.range == (-1, 1)
    assert (data.levels, data.classes) == (17, 10)
    assert train.x.unique().tolist() == [k / 8 - 1 for k in range(17)]
    assert train.labels.bincount().min() > 100


def test_digits_are_scikit_learns_in_the_order_of_the_fixed_permutation():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    data = load("digits")
    x, y = torch.tensor(pixels / 8 - 1).float().reshape(-1, 1, 8, 8)[order], torch.tensor(labels)[order]
    assert torch.equal(data.train.take().x, x[:1437])
    assert torch.equal(data.held_out.take().x, x[1437:])
    assert torch.equal(data.held_out.take().labels, y[1437:])


@pytest.mark.parametrize("name", NAMED)
def test_every_named_data_set_is_the_same_each_time(name):
    first, second = load(name), load(name)
    assert torch.equal(first.train.take().x, second.train.take().x)
    assert first.held_out.take().x.shape[1:] == first.shape
    assert first.name == name
    assert first.classes == (0 if first.train.take().labels is None else int(first.train.take().labels.max()) + 1)


@pytest.mark.parametrize("name", PLANAR)
def test_planar_data_is_centred_and_of_unit_size(name):
    points = everything(name)
    assert points.shape == (planar.POINTS, 2)
    assert points.mean(dim=0).abs().max() < 0.05
    assert 0.3 < points.std() < 1


def test_the_ring_has_eight_modes_of_std_a_tenth_at_radius_one():
    ring = load("ring").train.take()
    for k in range(8):
        mode = ring.x[ring.labels == k]
        centre = torch.tensor([np.cos(np.pi * k / 4), np.sin(np.pi * k / 4)])
        assert mode.mean(dim=0).sub(centre).abs().max() < 0.02
        assert mode.std(dim=0).sub(0.1).abs().max() < 0.01


def test_the_checkerboard_fills_its_dark_cells_and_no_other():
    cells = ((everything("checkerboard") + 1) * 2).floor().long()
    assert (cells.sum(dim=1) % 2 == 0).all()
    assert (cells[:, 0] * 4 + cells[:, 1]).unique().numel() == 8
    with pytest.raises(ValueError, match="even number of cells per side, got 3"):
        Checkerboard(cells=3).load()


def test_points_of_a_spiral_lie_on_their_arm():
    batch = load("Spirals(std=0.0)").train.take()
    radius = batch.x.norm(dim=1)
    angle = math.pi * (3 * radius + batch.labels)
    assert torch.allclose(batch.x, radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=1), atol=1e-5)


def test_patches_come_from_regions_that_training_and_held_out_data_do_not_share():
    from sklearn.datasets import load_sample_images

    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2)
    data = Patches(size=8).load()
    for part, region in ((data.train, photographs[..., :512]), (data.held_out, photographs[..., 512:])):
        windows = region.unfold(2, 8, 1).unfold(3, 8, 1)
        for patch, label in zip(part.stored[part.rows[:5]], part.labels[part.rows[:5]], strict=True):
            corners = (windows[label, ..., 0, 0] == patch[:, 0, 0, None, None]).all(dim=0).nonzero()
            assert any(torch.equal(windows[label, :, row, column], patch) for row, column in corners)


def test_patches_wider_than_the_held_out_strip_are_refused():
    assert (len(load("patches").train), len(load("patches").held_out), load("patches").shape) == (8000, 2000, (3, 16, 16))
    with pytest.raises(ValueError, match=r"size must lie in 1\.\.128"):
        Patches(size=200).load()


def test_signals_have_the_covariance_of_their_law():
    law = Signals()
    batch = law.load().train.take()
    lags = torch.arange(64)[:, None] - torch.arange(64)
    for k in range(4):
        x = batch.x[batch.labels == k, 0]
        expected = law.a**2 * torch.cos(2 * math.pi * 2**k * lags / 64) + law.std**2 * law.rho ** lags.abs()
        # a covariance of n samples of variance v errs by at most about v sqrt(2/n); five of these over 4096 entries
        bound = 5 * (law.a**2 + law.std**2) * math.sqrt(2 / len(x))
        assert (x.T @ x / len(x) - expected).abs().max() < bound
        assert x.mean(dim=0).abs().max() < 5 * math.sqrt((law.a**2 + law.std**2) / len(x))


def test_the_table_is_standardised_by_its_training_part():
    batch = load("table").train.take()
    assert batch.x.shape == (455, 30)
    assert torch.allclose(batch.x.mean(dim=0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(batch.x.std(dim=0), torch.ones(30), atol=1e-5)
