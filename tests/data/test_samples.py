import random

import numpy as np
import pytest
import torch

from sde_diffusion.data import Data, MapSamples, Pixels, TensorSamples, load, moments
from sde_diffusion.data.order import Order


class Tagged(torch.utils.data.Dataset):
    """Images (1, 2, 3) uint8 that hold their own number, labelled by parity."""

    classes = ("even", "odd")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.full((1, 2, 3), index, dtype=torch.uint8), index % 2


class Jittered(Tagged):
    """Draws from all three generators that a user's transforms use."""

    def __getitem__(self, index):
        return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])


def bytes_in_memory(**options):
    x = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSamples(x, torch.arange(10) % 2, pixels=Pixels(256, **options))


SAMPLES = {
    "memory": lambda: bytes_in_memory(flip=True, dequantize=True),
    "map": lambda: MapSamples(Tagged(), flip=True, dequantize=True),
    "random transforms": lambda: MapSamples(Jittered()),
}


def run(samples, n=5, **options):
    batches = samples.batches(8, seed=1, **options)
    return [next(batches) for _ in range(n)]


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(kind, ranks):
    samples = SAMPLES[kind]()
    slices = zip(*(run(samples, rank=r, ranks=ranks) for r in range(ranks)), strict=True)
    for whole, parts in zip(run(samples), slices, strict=True):
        assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
        assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
        assert whole.labels is None or torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


@pytest.mark.parametrize("kind", ["map", "random transforms"])
def test_batches_do_not_depend_on_the_number_of_workers(kind):
    samples = SAMPLES[kind]()
    assert all(map(same, run(samples, n=3, workers=2, rank=1, ranks=2), run(samples, n=3, rank=1, ranks=2)))


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_run_continues_from_a_step_or_a_state_as_if_it_had_never_stopped(kind):
    samples = SAMPLES[kind]()
    expected = run(samples)
    assert all(map(same, run(samples, n=2, start=3), expected[3:]))
    first, second = samples.batches(8, seed=1), samples.batches(8, seed=1)
    for _ in range(3):
        next(first)
    next(second)
    second.load_state_dict([first.state_dict()])
    assert same(next(second), expected[3])


def test_reading_batches_leaves_all_global_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for make in SAMPLES.values():
        run(make())
        make().take(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_every_epoch_visits_every_sample_once_and_the_order_depends_on_the_seed_and_the_epoch():
    samples = bytes_in_memory()
    batches = samples.batches(4, seed=3)
    visits = torch.cat([next(batches).indices for _ in range(5)])  # two epochs, batches straddle them
    assert visits[:10].sort().values.tolist() == visits[10:].sort().values.tolist() == list(range(10))
    assert visits[:10].tolist() != visits[10:].tolist()
    assert visits[:4].tolist() != next(samples.batches(4, seed=4)).indices.tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert Order(3, 0)(0, 7).bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantised_values_stay_in_their_level_and_are_uniform_in_it(levels):
    k = torch.arange(levels).repeat(4000 // levels + 1)[:, None]
    x = Pixels(levels, dequantize=True)(k, seed=0, step=0)
    assert x.min() >= -1
    assert x.max() < 1
    assert torch.equal(((x + 1) / 2 * levels).floor().long(), k)
    u = (x + 1) / 2 * levels - k
    # mean 1/2 and variance 1/12, four standard errors of 4000 draws
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / 4000) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / 4000) ** 0.5


def test_levels_span_minus_one_to_one():
    x = Pixels(256)(torch.arange(256, dtype=torch.uint8)[:, None], seed=0, step=0)
    assert torch.equal(x, torch.arange(256.0)[:, None] / 127.5 - 1)


def test_half_of_all_images_are_mirrored_and_taken_ones_are_not():
    x = torch.tensor([0.0, 1.0]).expand(1000, 1, 1, 2)
    samples = TensorSamples(x, pixels=Pixels(flip=True))
    first = next(samples.batches(1000, seed=0)).x[:, 0, 0, 0]
    assert abs(first.mean() - 1 / 2) < 4 * (1 / 4 / 1000) ** 0.5
    assert torch.equal(samples.take().x, x)


def test_dequantising_floats_is_refused():
    with pytest.raises(ValueError, match="needs quantised data"):
        Pixels(dequantize=True)


@pytest.mark.parametrize("kind", ["memory", "map"])
def test_taken_samples_differ_from_each_other_and_depend_on_the_seed(kind):
    samples = SAMPLES[kind]()
    batch = samples.take(6, seed=2)
    assert len(batch.indices.unique()) == 6
    assert same(batch, samples.take(6, seed=2))
    assert not same(batch, samples.take(6, seed=3))
    assert samples.take().indices.tolist() == list(range(10))
    with pytest.raises(ValueError, match="asked for 11 samples of 10"):
        samples.take(11)


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match="10 samples cannot be divided evenly over 4 ranks; use a multiple of 4, such as 8"):
        bytes_in_memory().batches(10, seed=0, ranks=4)
    with pytest.raises(ValueError, match=r"rank must lie in 0\.\.1, got 2"):
        bytes_in_memory().batches(10, seed=0, rank=2, ranks=2)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no samples"),
        ([{"pixels": torch.zeros(2)}], r"the keys \['pixels'\]"),
        ([(1, 2, 3)], "sequence of 3 things"),
        ([torch.zeros(2, dtype=torch.int64)], "dtype torch.int64"),
        ([torch.tensor([1.0, float("nan")])], "1 values that are NaN"),
        ([torch.full((1, 2, 2), 3.0)], r"spans \[3, 3\]"),
        ([(torch.zeros(2), 1)], "how many classes"),
    ],
)
def test_samples_of_the_wrong_kind_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        MapSamples(samples)


def test_samples_unlike_the_first_and_labels_out_of_range_are_refused_when_read():
    with pytest.raises(ValueError, match=r"sample 1 .* shape \(3,\), but the first has shape \(2,\)"):
        MapSamples([torch.zeros(2), torch.zeros(3)]).take()
    with pytest.raises(ValueError, match=r"label 2; there are 2 classes, 0\.\.1"):
        MapSamples([(torch.zeros(2), 2)], classes=2).take()


def test_dictionaries_tuples_and_bare_samples_mean_the_same():
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    pairs = MapSamples([(row, 1) for row in x], classes=2)
    dictionaries = MapSamples([{"x": row, "label": 1} for row in x], classes=2)
    assert same(pairs.take(), dictionaries.take())
    assert same(next(MapSamples(list(x)).batches(4, seed=0))[:1], next(pairs.batches(4, seed=0))[:1])


def test_torch_datasets_are_split_and_streams_share_out_every_fifth_sample():
    data = load(Tagged())
    assert (len(data.train), len(data.held_out), data.classes, data.levels, data.range) == (8, 2, 2, 256, (-1, 1))

    class Counting(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (torch.tensor([float(k)]) for k in range(10))

    data = load(Counting())
    assert data.held_out.take().x.flatten().tolist() == [4, 9]
    assert data.train.take().x.flatten().tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_moments_are_the_mean_of_each_coordinate_and_the_std_of_all():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 2 + torch.tensor([0.0, 1.0, 2.0])
    mean, std = moments(TensorSamples(x))
    assert torch.allclose(mean, x.mean(dim=0))
    assert std == pytest.approx(x.std(correction=0).item())
    assert moments(TensorSamples(x), limit=100).std == pytest.approx(std, rel=0.2)


def test_labels_that_are_asked_for_and_missing_are_refused():
    samples = TensorSamples(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="has no class labels"):
        Data(samples, samples, "points").require_labels()
    assert load("digits").require_labels().classes == 10
