import itertools
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sde_diffusion.data import HubDataset, TensorSamples, load

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets.disable_progress_bars()


def pictures(n, *, start=0, labels=None):
    """n images whose pixels all hold 10 times their number, labelled by parity."""
    images = [Image.fromarray(np.full((8, 8, 3), 10 * (start + k), dtype=np.uint8)) for k in range(n)]
    features = datasets.Features({"img": datasets.Image(), "label": labels or datasets.ClassLabel(names=["even", "odd"])})
    kinds = [k % 2 if labels is None else ("even", "odd")[k % 2] for k in range(n)]
    return datasets.Dataset.from_dict({"img": images, "label": kinds}, features=features)


def numbers(x):
    return ((x[:, 0, 0, 0] + 1) * 12.75).round().int().tolist()


@pytest.fixture
def parquet(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for part in range(2):
        pictures(8, start=8 * part).to_parquet(folder / f"train-{part}.parquet")
    pictures(4, start=16).to_parquet(folder / "test-0.parquet")
    return folder


def test_images_and_labels_of_parquet_files_are_read(parquet):
    data = HubDataset(str(parquet), image="img", label="label", held_out="test").load()
    assert isinstance(data.train, TensorSamples)
    assert (data.shape, data.classes, data.levels) == ((3, 8, 8), 2, 256)
    assert numbers(data.train.take().x) == list(range(16))
    assert data.train.take().labels.tolist() == [0, 1] * 8
    assert numbers(data.held_out.take().x) == [16, 17, 18, 19]


def test_a_fifth_is_held_out_where_no_split_is_named(parquet):
    data = HubDataset(str(parquet / "train-*.parquet"), image="img").load()
    assert (len(data.train), len(data.held_out), data.classes) == (12, 4, 0)
    assert sorted(numbers(data.train.take().x) + numbers(data.held_out.take().x)) == list(range(16))


def test_a_split_that_no_file_is_named_after_is_refused_for_it_would_train_on_what_is_held_out(parquet):
    with pytest.raises(ValueError, match=r"no file .* is named after the split 'validation' \(test-0"):
        HubDataset(str(parquet), image="img", held_out="validation").load()


def test_a_folder_written_by_save_to_disk_is_read(tmp_path):
    datasets.DatasetDict({"train": pictures(6), "test": pictures(2)}).save_to_disk(tmp_path / "saved")
    data = HubDataset(str(tmp_path / "saved"), image="img", held_out="test", size=4, channels=1).load()
    assert (data.shape, len(data.train), len(data.held_out)) == ((1, 4, 4), 6, 2)
    with pytest.raises(ValueError, match="no split 'validation'; its splits are train, test"):
        HubDataset(str(tmp_path / "saved"), image="img", held_out="validation").load()


def test_words_are_labels_in_alphabetical_order(tmp_path):
    pictures(10, labels=datasets.Value("string")).save_to_disk(tmp_path / "saved")
    batch = HubDataset(str(tmp_path / "saved"), image="img", label="label").load().train.take()
    assert batch.labels.tolist() == [k % 2 for k in numbers(batch.x)]


@pytest.mark.parametrize("workers", [0, 1])
def test_images_decoded_when_needed_are_those_decoded_to_memory(parquet, workers):
    memory, lazy = (HubDataset(str(parquet), image="img", flip=True, memory=limit).load().train for limit in (10**6, 0))
    assert not isinstance(lazy, TensorSamples)
    one, other = memory.batches(4, seed=0), lazy.batches(4, seed=0, workers=workers)
    assert all(torch.equal(next(one).x, next(other).x) for _ in range(3))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_streamed_data_set_visits_all_and_continues_exactly(parquet, ranks):
    data = HubDataset(str(parquet), image="img", label="label", held_out="test", streaming=True, buffer=5).load()
    ongoing = [data.train.batches(4, seed=0, rank=r, ranks=ranks) for r in range(ranks)]
    visits = [numbers(next(batches).x) for batches in ongoing for _ in range(4)]
    assert sorted(itertools.chain(*visits)) == list(range(16))
    for batches in ongoing:
        next(batches)
    states = json.loads(json.dumps([batches.state_dict() for batches in ongoing]))
    for r, batches in enumerate(ongoing):
        resumed = data.train.batches(4, seed=0, rank=r, ranks=ranks)
        resumed.load_state_dict(states)
        for _ in range(5):
            a, b = next(resumed), next(batches)
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.labels, b.labels)
    assert numbers(data.held_out.take().x) == [16, 17, 18, 19]


def test_columns_of_numbers_are_standardised(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (50, 2))
    path = str(tmp_path / "table.parquet")
    datasets.Dataset.from_dict({"a": x[:, 0], "b": x[:, 1], "kind": ["u", "v"] * 25}).to_parquet(path)
    data = HubDataset(path, columns=("a", "b"), label="kind").load()
    batch = data.train.take()
    assert (data.shape, len(data.train), data.classes) == ((2,), 40, 2)
    assert torch.allclose(batch.x.mean(dim=0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(batch.x.std(dim=0), torch.ones(2), atol=1e-6)
    with pytest.raises(ValueError, match="no column 'image'; its columns are a, b, kind"):
        load(path)


def test_a_name_that_is_out_of_reach_is_refused():
    with pytest.raises(FileNotFoundError, match=r"no data set 'nobody/nothing' .* give a local folder or parquet file"):
        HubDataset("nobody/nothing").load()


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    path = str(tmp_path / "table.parquet")
    datasets.Dataset.from_dict({"image": ["a", "b", "c"]}).to_parquet(path)
    with pytest.raises(ValueError, match="'image' holds str, not images"):
        HubDataset(path).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"streaming": True}, "held_out='test'"), ({"columns": ("a",), "flip": True}, "leave out"), ({"channels": 4}, "channels")],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HubDataset("x", **options)


def test_the_extra_is_named_when_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'sde_diffusion\[data\]'"):
        HubDataset("x").load()
