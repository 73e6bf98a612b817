import pytest

from sde_diffusion.data import CIFAR10, MNIST, NAMED, SOURCES, Arrays, Digits, HubDataset, ImageFolder, Patches, Ring, Table, load, parse
from sde_diffusion.expressions import build

EXPRESSIONS = [
    *(source() for source in NAMED.values()),
    Digits(flip=True, dequantize=True),
    Patches(size=8),
    Ring(modes=5, std=0.2),
    Arrays("a.npy", dequantize=True),
    Table("x.csv", label="kind"),
    ImageFolder("photos", size=32, flip=True, on_error="skip"),
    HubDataset("uoft-cs/cifar10", image="img", label="label", held_out="test", streaming=True),
    HubDataset("a.parquet", columns=("a", "b")),
    CIFAR10("cifar", flip=True),
    MNIST("mnist"),
]


@pytest.mark.parametrize("source", EXPRESSIONS, ids=lambda source: type(source).__name__)
def test_sources_are_written_as_expressions_and_read_back(source):
    assert build(repr(source), SOURCES) == source
    assert parse(repr(source)) == source


def test_names_objects_and_data_mean_what_their_expressions_mean():
    data = load("digits")
    assert load(data) is data
    assert load(Digits()).shape == load("Digits()").shape == data.shape
    assert parse("digits") == Digits()


def test_unknown_names_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="use one of digits, patches, moons, ring, checkerboard"):
        load("cifar")
    with pytest.raises(FileNotFoundError, match="no data file"):
        load(str(tmp_path / "none.npy"))
    with pytest.raises(FileNotFoundError, match="no table"):
        load(str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="did you mean Digits"):
        load("digit()")
    with pytest.raises(ValueError, match="do not fit Digits"):
        load("Digits(size=4)")
    with pytest.raises(ValueError, match="cannot read data from int"):
        load(3)
    with pytest.raises(ValueError, match="holds no images"):
        load(tmp_path)
