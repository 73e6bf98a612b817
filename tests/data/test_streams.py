import itertools
import json

import pytest
import torch

from sde_diffusion.data import load
from sde_diffusion.data.streams import StreamSamples


class Counting(torch.utils.data.IterableDataset):
    """0..n-1, as points (1,), labelled by parity."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return ((torch.tensor([float(k)]), k % 2) for k in range(self.n))


def hugging_face(n, shards):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"x": [[float(k)] for k in range(n)]}).to_iterable_dataset(num_shards=shards)


def values(batches, n):
    return [next(batches).x.flatten().tolist() for _ in range(n)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_global_batches_of_a_torch_stream_do_not_depend_on_the_number_of_ranks(ranks):
    samples = StreamSamples(Counting(30), buffer=7, classes=2)
    expected = values(samples.batches(8, seed=1), 12)
    parts = [values(samples.batches(8, seed=1, rank=r, ranks=ranks), 12) for r in range(ranks)]
    assert [list(itertools.chain(*slices)) for slices in zip(*parts, strict=True)] == expected


def test_every_epoch_of_a_stream_visits_every_sample_once_in_another_order():
    visits = list(itertools.chain(*values(StreamSamples(Counting(30), buffer=7).batches(6, seed=0), 10)))
    assert sorted(visits[:30]) == sorted(visits[30:]) == list(range(30))
    assert visits[:30] != visits[30:]
    assert visits[:30] != sorted(visits[:30])


@pytest.mark.parametrize(("shards", "ranks"), [(1, 1), (4, 2), (3, 2), (1, 4)])
def test_the_ranks_of_a_hugging_face_stream_share_every_epoch_without_overlap(shards, ranks):
    samples = StreamSamples(hugging_face(24, shards), buffer=5)
    parts = [list(itertools.chain(*values(samples.batches(ranks, seed=0, rank=r, ranks=ranks), 24 // ranks))) for r in range(ranks)]
    assert sorted(itertools.chain(*parts)) == list(range(24))


@pytest.mark.parametrize("kind", ["torch", "hugging face"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 7, 12])
def test_a_stream_continues_exactly_on_the_same_number_of_ranks(kind, ranks, stop):
    samples = StreamSamples(Counting(20) if kind == "torch" else hugging_face(20, 4), buffer=6)
    ongoing = [samples.batches(4, seed=2, rank=r, ranks=ranks) for r in range(ranks)]
    for batches in ongoing:
        values(batches, stop)
    states = json.loads(json.dumps([batches.state_dict() for batches in ongoing]))
    for r, batches in enumerate(ongoing):
        resumed = samples.batches(4, seed=2, rank=r, ranks=ranks, workers=1)
        resumed.load_state_dict(states)
        assert values(resumed, 9) == values(batches, 9)


@pytest.mark.parametrize("kind", ["torch", "hugging face"])
def test_a_stream_continues_by_skipping_on_another_number_of_ranks(kind):
    samples = StreamSamples(Counting(20) if kind == "torch" else hugging_face(20, 4), buffer=6)
    ongoing = [samples.batches(4, seed=2, rank=r, ranks=2) for r in range(2)]
    for batches in ongoing:
        values(batches, 3)
    resumed = samples.batches(4, seed=2)
    resumed.load_state_dict([batches.state_dict() for batches in ongoing])
    uninterrupted = samples.batches(4, seed=2)
    values(uninterrupted, 3)
    assert values(resumed, 8) == values(uninterrupted, 8) == values(samples.batches(4, seed=2, start=3), 8)


@pytest.mark.parametrize("kind", ["torch", "hugging face"])
def test_two_readers_of_a_stream_do_not_disturb_each_other(kind):
    samples = StreamSamples(Counting(20) if kind == "torch" else hugging_face(20, 4), buffer=6)
    expected = values(samples.batches(4, seed=0), 8)
    first, second = samples.batches(4, seed=0), samples.batches(4, seed=1)
    found = []
    for _ in range(8):
        found += values(first, 1)
        values(second, 1)
        samples.take(3)
    assert found == expected


def test_reading_ahead_changes_nothing():
    samples = StreamSamples(Counting(20), buffer=6)
    assert values(samples.batches(4, seed=0, workers=1), 12) == values(samples.batches(4, seed=0), 12)


def test_samples_are_taken_from_a_shuffled_epoch_and_a_stream_has_no_length():
    samples = StreamSamples(Counting(20), buffer=6, classes=2)
    batch = samples.take(9, seed=3)
    assert len(batch.x.unique()) == 9
    assert torch.equal(batch.labels, batch.x.flatten().long() % 2)
    assert samples.take().x.flatten().tolist() == list(range(20))
    assert (samples.shape, samples.classes, samples.range, samples.levels) == ((1,), 2, (0, 19), None)
    with pytest.raises(ValueError, match="asked for 21 samples of 20"):
        samples.take(21)
    with pytest.raises(TypeError, match="no length"):
        len(samples)


def test_empty_and_irregular_streams_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        StreamSamples([])
    with pytest.raises(ValueError, match=r"sample 1 of the stream .* shape \(2,\)"):
        next(StreamSamples([torch.zeros(1), torch.zeros(2)]).batches(2, seed=0))
    with pytest.raises(ValueError, match=r"no samples for rank 2 of 3"):
        next(StreamSamples(hugging_face(2, 1)).batches(3, seed=0, rank=2, ranks=3))
    with pytest.raises(ValueError, match="label 5"):
        StreamSamples([(torch.zeros(1), 5)], classes=2)


def test_up_to_takes_part_of_what_is_large_and_all_of_what_is_small_streams_included():
    stream, small = StreamSamples(Counting(30), buffer=7), load("table").held_out
    assert len(set(stream.up_to(20).x.flatten().tolist())) == 20
    assert sorted(stream.up_to(100).x.flatten().tolist()) == list(range(30))
    assert torch.equal(small.up_to(10_000).x, small.take().x)
    assert torch.equal(small.up_to(5, seed=3).x, small.take(5, seed=3).x)
