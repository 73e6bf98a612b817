"""score_sde_pytorch's own answers on seeded weights (goldens/make_unets.py), against ours on the same weights."""

import pickle
import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.interop.score_sde import load_score_sde

HERE = Path(__file__).parent
sys.path += [str(HERE / "goldens"), str(HERE.parent / "networks" / "goldens")]

from cases import CASES, config  # noqa: E402
from state import load_goldens  # noqa: E402

GOLDENS = load_goldens(HERE / "goldens" / "unets.safetensors")  # their shapes in the order of the reference's state dict
FOURIER = "ve/cifar10_ncsnpp_continuous"


def write(path, name, *, rename=lambda key: key, **changes):
    """A checkpoint as score_sde_pytorch's save_checkpoint writes it; its averages are the golden's weights, its last weights are others."""
    drawn = GOLDENS[name].state()
    state = {key: drawn[key] for key in GOLDENS[name].shapes}
    fixed = {"all_modules.0.W"} if "all_modules.0.W" in state and state["all_modules.0.W"].ndim == 1 else set()
    last = {rename("module." + key): w if key in fixed else w + 1 for key, w in state.items()}
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": [w for key, w in state.items() if key not in fixed]}
    content = {"optimizer": {"state": {}, "param_groups": []}, "model": {"module.sigmas": torch.ones(1000), **last}, "ema": ema, "step": 7}
    torch.save(content | changes, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_score_of_every_family_and_flag_is_the_references(name, tmp_path):
    # its get_score_fn: -output/std for VP and sub-VP, the output itself for VE
    settings = config(name)
    denoiser = load_score_sde(write(tmp_path / "checkpoint_7.pth", name), settings)
    sde, continuous, centered, _ = CASES[name]
    known = GOLDENS[name]
    label, n, golden = torch.tensor(known.c_noise, dtype=torch.float64), 1000, known.output.double()
    if sde == "vesde":
        t = denoiser.sde.t_of_log_snr(-torch.log(label)) if continuous else 1 - label / n
        score = golden
        assert isinstance(denoiser.sde, sd.VESDE if continuous else sd.NCSNLadder)
    else:
        t = label / 999 if continuous else (label + 1) / n
        if sde == "subvpsde":
            std = 1 - torch.exp(-19.9 * t**2 / 2 - 0.1 * t)
        elif continuous:
            std = torch.sqrt(1 - torch.exp(-19.9 * t**2 / 2 - 0.1 * t))
        else:
            std = torch.sqrt(1 - torch.cumprod(1 - torch.linspace(0.1 / n, 20 / n, n, dtype=torch.float64), 0))[label.long()]
        score = -golden / std[:, None, None, None]
    ours = denoiser.score(known.images().double(), t)
    assert (ours - score).norm() < 1e-5 * score.norm()
    assert denoiser.network.config.recentre is not centered
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())


@pytest.mark.parametrize(
    ("golden", "family", "centered"),
    [
        ("NCSN", "ncsn", False),
        ("NCSN_centered", "ncsn", True),
        ("NCSNv2", "ncsnv2_64", False),
        ("NCSNv2Deeper", "ncsnv2_128", False),
        ("NCSNv2Deepest", "ncsnv2_256", False),
    ],
)
def test_the_score_of_ncsn_and_ncsnv2_is_the_authors(golden, family, centered, tmp_path):
    known = load_goldens(HERE.parent / "networks" / "goldens" / "ncsn.safetensors")[golden]
    content = {"model": {"module." + key: tensor for key, tensor in known.state().items()}, "step": 7}
    torch.save(content, tmp_path / "checkpoint_7.pth")
    model = {"name": family, "nf": 8, "num_scales": 10, "sigma_min": 0.01, "sigma_max": 1.0, "scale_by_sigma": family != "ncsn"}
    data, training = {"num_channels": 3, "centered": centered}, {"sde": "vesde", "continuous": False}
    denoiser = load_score_sde(tmp_path / "checkpoint_7.pth", {"data": data, "model": model, "training": training}, ema=False)
    label = torch.tensor(known.c_noise, dtype=torch.float64)  # counted from the largest of ten sigmas
    sigma = 0.01 ** (label / 9)
    score = known.output / (sigma[:, None, None, None] if family != "ncsn" else 1.0)
    ours = denoiser.score(known.images().double(), 1 - label / 10)
    assert (ours - score).norm() < 1e-5 * score.norm()


def test_the_averages_are_taken_unless_the_last_weights_are_asked_for(tmp_path):
    path = write(tmp_path / "checkpoint_7.pth", FOURIER)
    averaged, last = (load_score_sde(path, config(FOURIER), ema=ema).network for ema in (True, False))
    torch.testing.assert_close(last.first.weight, averaged.first.weight + 1)
    assert torch.equal(last.embed.features.periods, averaged.embed.features.periods)
    path = write(tmp_path / "checkpoint_8.pth", FOURIER, ema={})
    load_score_sde(path, config(FOURIER), ema=False)
    with pytest.raises(ValueError, match="no averaged weights; load the last ones with ema=False"):
        load_score_sde(path, config(FOURIER))


def test_a_loaded_model_samples(tmp_path):
    name = "vp/cifar10_ddpmpp"
    denoiser = load_score_sde(write(tmp_path / "checkpoint_7.pth", name), config(name).to_dict())
    x = sd.sample(denoiser, sd.DDIM(), steps=3, shape=(2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    assert x.isfinite().all()


def changed(name, **changes):
    settings = config(name)
    for key, value in changes.items():
        group, field = key.split("_", 1)
        settings[group][field] = value
    return settings


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (FOURIER, {"model_num_res_blocks": 2}, r"missing: all_modules.*Likely model.num_res_blocks"),
        (
            FOURIER,
            {"model_nf": 32},
            r"of another shape: all_modules.0.W has shape \(16,\), the config\w+ makes it \(32,\).*Likely model.nf",
        ),
        (FOURIER, {"data_image_size": 16}, "Likely model.attn_resolutions or data.image_size"),
        (FOURIER, {"model_embedding_type": "positional"}, "does not go with training.sde='vesde' and continuous=True"),
        (FOURIER, {"model_fir": False}, "Likely model.fir"),
        (
            "vp/cifar10_ddpmpp_continuous",
            {"model_resblock_type": "ddpm"},
            "Likely model.num_res_blocks, model.ch_mult or model.resblock_type",
        ),
        (FOURIER, {"training_sde": "cosine"}, "training.sde must be one of"),
        (FOURIER, {"training_sde": "vpsde"}, "scale_by_sigma is for training.sde='vesde'"),
        (FOURIER, {"model_name": "dit"}, "model.name must be"),
        (FOURIER, {"model_nonlinearity": "elu"}, "model.nonlinearity must be one of"),
        (FOURIER, {"model_resblock_type": "ddpm"}, "fails in score_sde_pytorch too"),
    ],
)
def test_another_configuration_is_refused_with_the_likely_setting(name, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_score_sde(write(tmp_path / "checkpoint_7.pth", name), changed(name, **changes))


def test_of_many_misfits_ten_are_listed(tmp_path):
    path = write(tmp_path / "checkpoint_7.pth", FOURIER, rename=lambda key: key.replace("all_modules", "layers"))
    with pytest.raises(ValueError, match=r"\d\d+ missing: (all_modules\S+, ){10}\.\.\.; \d\d+ unexpected: (layers\S+, ){10}\.\.\."):
        load_score_sde(path, config(FOURIER))


class _Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_file_that_is_no_such_checkpoint_is_refused_before_anything_is_built(tmp_path, capsys):
    path = tmp_path / "checkpoint_7.pth"
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_score_sde(path, config(FOURIER))
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ValueError, match="cannot be opened as weights only"):
        load_score_sde(path, config(FOURIER))
    torch.save({"model": _Evil()}, path)
    with pytest.raises(ValueError, match="cannot be opened as weights only"):
        load_score_sde(path, config(FOURIER))
    assert "code ran" not in capsys.readouterr().out
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"holds \['state_dict'\], not score_sde's model, ema, optimizer and step"):
        load_score_sde(path, config(FOURIER))
    with pytest.raises(ValueError, match=r"the configuration has no training\.sde"):
        load_score_sde(write(path, FOURIER), {"model": {}})
