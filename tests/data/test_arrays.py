import numpy as np
import pytest
import torch

from sde_diffusion.data import Arrays, Table, arrays, load


def test_own_arrays_are_read_and_uint8_images_scaled(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", train=images, train_labels=np.arange(20))
    torch.save(torch.tensor(images), tmp_path / "a.pt")
    sets = [load(str(tmp_path / f"a.{suffix}")) for suffix in ("npy", "npz", "pt")]
    assert all(s.shape == (1, 4, 4) and len(s.train) == 16 and len(s.held_out) == 4 and s.levels == 256 for s in sets)
    assert all(s.range[0] >= -1 and s.range[1] <= 1 for s in sets)
    assert torch.equal(sets[0].train.take().x, sets[1].train.take().x)
    assert torch.equal(sets[0].train.take().x, sets[2].train.take().x)
    assert len(sets[1].train.take().labels) == 16
    everything = torch.cat([part.take().x for part in (sets[0].train, sets[0].held_out)])
    assert torch.equal(everything.unique(), torch.tensor(images).unique() / 127.5 - 1)


@pytest.mark.parametrize("shape", [(10, 3), (10, 2, 16), (10, 1, 4, 4), (10, 1, 4, 4, 4)])
def test_points_signals_images_and_volumes_are_read(shape, tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, shape)
    np.save(tmp_path / "a.npy", x)
    data = load(tmp_path / "a.npy")
    batch = next(data.train.batches(4, seed=0))
    assert data.shape == shape[1:]
    assert data.levels is None
    assert batch.x.dtype == torch.float32
    assert data.range[0] >= x.min() - 1e-6


@pytest.mark.parametrize("suffix", ["npy", "pt"])
def test_memory_mapped_files_give_the_same_samples(suffix, tmp_path, monkeypatch):
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"a.{suffix}"
    torch.save(x, path) if suffix == "pt" else np.save(path, x.numpy())
    before = load(path)
    monkeypatch.setattr(arrays, "MAPPED", 0)
    after = load(path)
    assert torch.equal(next(before.train.batches(8, seed=0)).x, next(after.train.batches(8, seed=0)).x)
    assert before.range == after.range


def test_a_held_out_part_that_is_given_is_used(tmp_path):
    torch.save({"train": torch.zeros(4, 2), "held_out": torch.ones(3, 2)}, tmp_path / "a.pt")
    data = load(tmp_path / "a.pt")
    assert (len(data.train), len(data.held_out), data.held_out.take().x.min()) == (4, 3, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((5, 1, 2, 2, 2, 2)), "shape"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (np.full((5, 2), np.nan), "10 values that are NaN"),
        (np.full((5, 1, 8, 8), 16.0), "spans"),
        (np.zeros((5, 2), dtype=np.int64), "dtype"),
        (np.array([{"a": 1}], dtype=object), "allow_pickle"),
    ],
)
def test_own_arrays_of_the_wrong_kind_are_refused(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 2))}, "name the array to train on 'train'"),
        ({"train": np.zeros((4, 2)), "train_labels": np.zeros(3, dtype=int)}, r"integers >= 0 of shape \(4,\)"),
        ({"train": np.zeros((4, 2)), "train_labels": np.full(4, -1)}, "the smallest -1"),
        ({"train": np.zeros((4, 2)), "held_out": np.zeros((4, 3))}, "must be alike"),
        ({"train": np.zeros((4, 2)), "held_out": np.zeros((4, 2)), "train_labels": np.zeros(4, dtype=int)}, "or neither"),
    ],
)
def test_files_with_parts_that_do_not_fit_are_refused(content, message, tmp_path):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "a.npz"))


def test_flips_of_what_is_no_image_and_dequantised_floats_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match="flip=True is for images"):
        Arrays(str(tmp_path / "a.npy"), flip=True).load()
    with pytest.raises(ValueError, match="needs quantised data"):
        Arrays(str(tmp_path / "a.npy"), dequantize=True).load()


def test_a_table_is_standardised_by_its_training_rows_and_words_are_labels(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (50, 2))
    rows = [f"{a},{('cat', 'dog')[k % 2]},{b},7" for k, (a, b) in enumerate(x.tolist())]
    (tmp_path / "a.csv").write_text("\n".join(["first,kind,second,same", *rows]))
    data = Table(str(tmp_path / "a.csv"), label="kind").load()
    batch = data.train.take()
    assert (data.shape, len(data.train), data.classes) == ((3,), 40, 2)
    assert torch.allclose(batch.x.mean(dim=0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(batch.x.std(dim=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-6)


def test_a_table_without_names_is_read_by_column_number(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(f"{k},{k % 3}" for k in range(20)))
    data = Table(str(tmp_path / "a.csv"), label=1).load()
    assert (data.shape, data.classes, load(tmp_path / "a.csv").shape) == ((1,), 3, (2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2", "holds 1 rows"),
        ("", "holds 0 rows"),
        ("a,b\n1,2\n3\n", r"row 1 of .* has 1 cells"),
        ("a,b\n1,x\n3,4\n", "column 'b' holds 'x' in row 0"),
        ("a,b\n1,nan\n3,4\n", "1 values that are NaN"),
    ],
)
def test_tables_that_are_not_numbers_are_refused(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.csv")


def test_an_unknown_label_column_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"no column 'c' in .*; its columns are a, b"):
        Table(str(tmp_path / "a.csv"), label="c").load()
