import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sde_diffusion.evaluation.digits_classifier import DigitsClassifier, Recipe, user_cache
from sde_diffusion.evaluation.features import Classifier, FeatureExtractor, ModuleFeatures, Pixels, cached_features, write_tensors
from sde_diffusion.evaluation.inception import WEIGHTS, Inception, to_bytes


def test_training_the_classifier_is_deterministic(tmp_path):
    short = Recipe(epochs=1)
    assert DigitsClassifier.load(tmp_path / "a", recipe=short).key == DigitsClassifier.load(tmp_path / "b", recipe=short).key


def test_the_classifier_can_be_trained_where_gradients_are_off(tmp_path):
    with torch.no_grad():
        DigitsClassifier.load(tmp_path, recipe=Recipe(epochs=1))


def test_the_cache_lies_where_the_platform_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "sde_diffusion"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    assert user_cache().parts[-2:] == (".cache", "sde_diffusion")


def test_extractors_keep_their_protocol(tmp_path):
    classifier, pixels = DigitsClassifier.load(tmp_path, recipe=Recipe(epochs=1)), Pixels()
    assert isinstance(classifier, Classifier)
    assert isinstance(pixels, FeatureExtractor)
    assert not isinstance(pixels, Classifier)
    assert repr(pixels) == "Pixels(name='pixels')"
    assert pixels(torch.zeros(2, 1, 3, 3)).shape == (2, 9)


class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.dropout(x.mean((2, 3)))[:, :, None]


def test_modules_run_in_evaluation_mode_in_batches_without_gradients():
    module = Mean().train()
    features = ModuleFeatures(module, name="mean", batch=4)
    x = torch.ones(10, 3, 2, 2, requires_grad=True)
    out = features(x)
    assert torch.equal(out, torch.ones(10, 3))
    assert not out.requires_grad
    assert module.sizes == [4, 4, 2]
    assert module.training


def test_features_are_cached_by_data_and_weights(tmp_path):
    module = Mean()
    features, x = ModuleFeatures(module, name="mean"), torch.ones(3, 1, 2, 2)
    for _ in range(3):
        assert torch.equal(cached_features(x, features, tmp_path), torch.ones(3, 1))
    assert len(module.sizes) == 1
    cached_features(2 * x, features, tmp_path)
    assert len(module.sizes) == 2


def test_networks_that_differ_only_in_layers_without_weights_have_different_keys():
    with torch.random.fork_rng(devices=[]):
        linear = torch.nn.Linear(2, 2)
    keys = {ModuleFeatures(torch.nn.Sequential(linear, last()), name="n").key for last in (torch.nn.ReLU, torch.nn.SiLU)}
    assert len(keys) == 2


def test_an_interrupted_write_leaves_nothing(tmp_path):
    class Unwritable:
        def contiguous(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "x.safetensors", {"x": Unwritable()})
    assert list(tmp_path.iterdir()) == []
    write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(2)})
    assert load_file(tmp_path / "x.safetensors")["x"].sum() == 2


class Bytes(torch.nn.Module):
    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return x.flatten(1), x[:, :, 0, 0]


def test_inception_sees_bytes_in_three_channels():
    x = torch.tensor([-1.0, 1.0, 0.0, 3 / 255, 1.4, -7.0]).reshape(1, 1, 2, 3)
    assert to_bytes(x)[0, 2].flatten().tolist() == [0, 255, 128, 129, 255, 0]  # 127.5 rounds to even
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(levels / 127.5 - 1)[:, :1], levels.to(torch.uint8))
    inception = Inception(module=Bytes(), batch=2)
    assert torch.equal(inception(x.expand(5, 3, 2, 3))[4], to_bytes(x).flatten(1)[0].float())
    assert inception.logits(x.expand(5, 3, 2, 3)).shape == (5, 3)
    assert isinstance(inception, Classifier)
    with pytest.raises(ValueError, match="1 or 3"):
        inception(torch.zeros(2, 2, 4, 4))


def test_missing_parts_of_inception_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install torch-fidelity, and put https://.*{WEIGHTS} at "):
        Inception()
    made = []

    class Extractor(torch.nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path):
            super().__init__()
            made.append((name, features_list, feature_extractor_weights_path))

    stub = type(sys)("stub")
    stub.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", type(sys)("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", stub)
    with pytest.raises(FileNotFoundError, match="pass weights="):
        Inception(weights=tmp_path / "none.pth")
    (tmp_path / "weights.pth").touch()
    Inception(weights=tmp_path / "weights.pth")
    assert made == [("inception-v3-compat", ["2048", "logits_unbiased"], str(tmp_path / "weights.pth"))]


@pytest.mark.slow
def test_importing_the_metrics_imports_no_optional_package():
    code = (
        "import sys, sde_diffusion.evaluation.measure; assert not {'ot', 'torchmetrics', 'torch_fidelity', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
