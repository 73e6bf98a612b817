import numpy as np
import pytest
import torch

from sde_diffusion.training import data


def test_digits_are_1437_and_360_images_of_17_grey_levels_in_minus_one_to_one():
    set_ = data.digits()
    assert set_.train.shape == (1437, 1, 8, 8)
    assert set_.held_out.shape == (360, 1, 8, 8)
    assert set_.range == (-1, 1)
    assert set_.train.unique().tolist() == [k / 8 - 1 for k in range(17)]
    assert torch.equal(set_.train, data.digits().train)
    assert set_.train_labels.bincount().min() > 100


@pytest.mark.parametrize("name", ["moons", "ring", "checkerboard"])
def test_planar_data_is_fixed_centred_and_of_unit_size(name):
    points = torch.cat(data.load(name)[:2])
    assert points.shape == (data.POINTS, 2)
    assert torch.equal(data.load(name).train, data.load(name).train)
    assert points.mean(dim=0).abs().max() < 0.05
    assert 0.3 < points.std() < 1


def test_the_ring_has_eight_modes_of_std_a_tenth_at_radius_one():
    ring = data.load("ring")
    for k in range(8):
        mode = ring.train[ring.train_labels == k]
        centre = torch.tensor([np.cos(np.pi * k / 4), np.sin(np.pi * k / 4)])
        assert mode.mean(dim=0).sub(centre).abs().max() < 0.02
        assert mode.std(dim=0).sub(0.1).abs().max() < 0.01


def test_every_epoch_visits_every_sample_once_and_the_order_depends_on_the_seed_and_the_epoch():
    visits = torch.cat([data.batch_indices(10, 4, seed=3, step=k) for k in range(5)])  # two epochs, batches straddle them
    assert visits[:10].sort().values.tolist() == visits[10:].sort().values.tolist() == list(range(10))
    assert visits[:10].tolist() != visits[10:].tolist()
    assert visits[:4].tolist() != data.batch_indices(10, 4, seed=4, step=0).tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert data.batch_indices(3, 7, seed=0, step=0).bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_own_arrays_are_read_and_uint8_images_scaled(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", train=images, train_labels=np.arange(20))
    torch.save(torch.tensor(images), tmp_path / "a.pt")
    sets = [data.load(str(tmp_path / f"a.{suffix}")) for suffix in ("npy", "npz", "pt")]
    assert all(s.shape == (1, 4, 4) and len(s.train) == 16 and len(s.held_out) == 4 for s in sets)
    assert all(s.range[0] >= -1 and s.range[1] <= 1 for s in sets)
    assert torch.equal(sets[0].train, sets[1].train)
    assert torch.equal(sets[0].train, sets[2].train)
    assert len(sets[1].train_labels) == 16


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 8, 8)), r"shape \(5, 8, 8\)"),
        (np.full((5, 2), np.nan), "10 values that are NaN"),
        (np.full((5, 1, 8, 8), 16.0), "spans"),
        (np.zeros((5, 2), dtype=np.int64), "dtype"),
    ],
)
def test_own_arrays_of_the_wrong_kind_are_refused(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path / "a.npy"))


def test_unknown_names_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="use one of digits, moons, ring, checkerboard"):
        data.load("cifar")
    with pytest.raises(FileNotFoundError, match="no data file"):
        data.load(str(tmp_path / "none.npy"))


def test_a_pickled_object_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        data.load(str(tmp_path / "a.npy"))
