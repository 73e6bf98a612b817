import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.guidance import ClassifierFreeGuidance
from sde_diffusion.interop.programs import METADATA, export, load_exported
from sde_diffusion.networks.unet import UNet, UNetConfig

SDES = {"vp": sd.VPSDE(), "ve": sd.VESDE(), "ddpm": sd.DDPMChain(sd.linear_betas(100))}


def make(network, sde=SDES["vp"], parameterization=sd.EDM()):  # noqa: B008
    """A denoiser whose network's weights are all random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = network()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return sd.NetworkDenoiser(network, sde, parameterization).eval()


def mlp(**options):
    return sd.MLP(dim=2, width=8, depth=1, **options)


def unet():
    return UNet(UNetConfig(width=8, attention=(1,)))


def states(n, *shape):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, *shape, generator=generator), torch.rand(n, generator=generator, dtype=torch.float64)


def check_in_a_fresh_process(denoisers, shape, folder):
    """Whether PyTorch alone gets from the exported files what the denoisers give."""
    for name, denoiser in denoisers.items():
        export(denoiser, folder / f"{name}.pt2", shape=shape)
    batches = [states(n, *shape) for n in (1, 2, 5)]
    torch.save(batches, folder / "batches.pt")
    code = (
        "import sys, torch\n"
        "batches = torch.load('batches.pt')\n"
        "for name in sys.argv[1:]:\n"
        "    program = torch.export.load(f'{name}.pt2').module()\n"
        "    torch.save([program(x, t).detach() for x, t in batches], f'{name}.out')\n"
        "assert 'sde_diffusion' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, *denoisers], cwd=folder, check=True)
    for name, denoiser in denoisers.items():
        for (x, t), got in zip(batches, torch.load(folder / f"{name}.out"), strict=True):
            wanted = denoiser(x, t)
            assert (got - wanted).norm() < 1e-6 * wanted.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("network", "shape"), [(mlp, (2,)), (unet, (1, 8, 8))])
def test_pytorch_alone_runs_an_exported_denoiser_at_every_batch_size(network, shape, tmp_path):
    check_in_a_fresh_process({name: make(network, sde) for name, sde in SDES.items()}, shape, tmp_path)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_a_loaded_program_is_the_denoiser_and_samples_the_same(sde, tmp_path):
    denoiser = make(mlp, sde)
    loaded = load_exported(export(denoiser, tmp_path / "model.pt2", shape=(2,)))
    assert loaded.sde == sde
    assert not any(p.requires_grad for p in loaded.parameters())
    for n in (1, 4):
        x, t = states(n, 2)
        assert torch.equal(loaded(x, t), denoiser(x, t))
        assert torch.equal(loaded(x, 0.5), denoiser(x, 0.5))
        torch.testing.assert_close(loaded.score(x, 0.5), denoiser.score(x, 0.5), rtol=1e-5, atol=1e-5)  # from x0_hat
        samples = [sd.sample(d, sd.DDIM(), shape=(n, 2), steps=3, seeds=range(n)) for d in (loaded, denoiser)]
        torch.testing.assert_close(*samples)  # not to the bit: the sampler adds up the network's weights in another order
    assert loaded(x.double(), 0.5).dtype == torch.float64


@pytest.mark.parametrize(
    "wrap", [lambda inner: inner.under(sd.VESDE()), lambda inner: ClassifierFreeGuidance(inner, 2.0)], ids=["under", "guidance"]
)
def test_a_wrapper_is_exported_with_what_it_wraps(wrap, tmp_path):
    denoiser, cond = wrap(make(lambda: mlp(classes=3), SDES["ddpm"])), torch.tensor([0, 2, 1])
    loaded = load_exported(export(denoiser, tmp_path / "model.pt2", shape=(2,), cond=cond))
    x, t = states(3, 2)
    assert loaded.sde == denoiser.sde
    assert torch.equal(loaded(x, t, cond), denoiser(x, t, cond))


def test_a_condition_is_a_third_argument(tmp_path):
    denoiser = make(lambda: mlp(classes=3))
    loaded = load_exported(export(denoiser, tmp_path / "model.pt2", shape=(2,), cond=torch.tensor([1])))
    (x, t), cond = states(4, 2), torch.tensor([0, 2, 1, 1])
    assert torch.equal(loaded(x, t, cond), denoiser(x, t, cond))
    with pytest.raises(ValueError, match="exported with a condition, got cond=None; pass cond"):
        loaded(x, t)


class Stubborn(nn.Module):
    """A network with a fault."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.weight = fault, nn.Parameter(torch.ones(2))

    def forward(self, x, c_noise, cond=None):
        match self.fault:
            case "branch":
                return x * self.weight if x.sum() > 0 else -x * self.weight
            case "random":
                return x + torch.rand_like(x) * self.weight
        return (x.reshape(2, 2) * self.weight).reshape(x.shape)


@pytest.mark.parametrize("fault", ["branch", "size"])
def test_a_network_that_cannot_be_traced_is_reported_with_the_usual_causes(fault, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)could not be traced .*usual causes are branches"):
        export(make(lambda: Stubborn(fault)), tmp_path / "model.pt2", shape=(2,))
    assert not list(tmp_path.iterdir())


def test_a_program_that_computes_something_else_is_not_written(tmp_path):
    with torch.random.fork_rng(devices=[]), pytest.raises(RuntimeError, match=r"deviates from the denoiser by .* random numbers"):
        export(make(lambda: Stubborn("random")), tmp_path / "model.pt2", shape=(2,))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_with_its_cure(tmp_path):
    denoiser, path = make(mlp), tmp_path / "model.pt2"
    with pytest.raises(ValueError, match=r"must end with \.pt2 or \.onnx, got 'model\.pth'"):
        export(denoiser, tmp_path / "model.pth", shape=(2,))
    with pytest.raises(ValueError, match=r"training mode.*denoiser\.eval\(\)"):
        export(make(mlp).train(), path, shape=(2,))
    with pytest.raises(ValueError, match=r"cond must be a tensor \(n, ...\)"):
        export(denoiser, path, shape=(2,), cond=3)
    with pytest.raises(ValueError, match="this MLP takes 2"):
        export(denoiser, path, shape=(3,))
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        export(denoiser, path, shape=(2,))
    assert path.read_text() == "mine"
    loaded = load_exported(export(denoiser, path, shape=(2,), overwrite=True))
    with pytest.raises(ValueError, match=r"takes states \(b, 2\), got \(4, 3\)"):
        loaded(torch.zeros(4, 3), 0.5)
    with pytest.raises(ValueError, match="exported without a condition"):
        loaded(torch.zeros(4, 2), 0.5, torch.zeros(4))
    with pytest.raises(ValueError, match="evaluation mode for good"):
        loaded.train()
    assert loaded.eval() is loaded


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*write it with export"):
        load_exported(tmp_path / "model.pt2")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"onnxruntime\.InferenceSession"):
        load_exported(tmp_path / "model.onnx")
    program = torch.export.export(nn.Identity(), (torch.zeros(3, 2),))
    torch.export.save(program, tmp_path / "foreign.pt2")
    with pytest.raises(ValueError, match="does not say what it is for"):
        load_exported(tmp_path / "foreign.pt2")
    torch.export.save(program, tmp_path / "new.pt2", extra_files={METADATA: json.dumps({"format": 2})})
    with pytest.raises(ValueError, match="has format 2"):
        load_exported(tmp_path / "new.pt2")


def test_without_onnxscript_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'sde_diffusion\[onnx\]'"):
        export(make(mlp), tmp_path / "model.onnx", shape=(2,))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize(("network", "shape"), [(mlp, (2,)), (unet, (1, 8, 8))])
def test_onnxruntime_agrees_at_every_batch_size(network, shape, sde, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    denoiser = make(network, sde)
    session = onnxruntime.InferenceSession(export(denoiser, tmp_path / "model.onnx", shape=shape))
    assert json.loads(session.get_modelmeta().custom_metadata_map[METADATA])["sde"] == repr(sde)
    for n in (1, 2, 5):
        x, t = states(n, *shape)
        (got,) = session.run(["x0_hat"], {"x": x.numpy(), "t": t.numpy()})
        wanted = denoiser(x, t)
        assert (torch.from_numpy(got) - wanted).norm() < 2e-6 * wanted.norm()  # other kernels, in float32
