import dataclasses
import hashlib
import json
import os
import shutil
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sde_diffusion as sd
from sde_diffusion.denoisers.model_card import ModelCard
from sde_diffusion.training import default_config, open_checkpoint, train

VP, EPSILON = sd.VPSDE(), sd.Epsilon()


def make(network=lambda: sd.MLP(dim=2, width=16, depth=1), sde=VP, parameterization=EPSILON, **options):
    """A denoiser whose network's weights are all random, and no biases zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = network()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return sd.NetworkDenoiser(network, sde, parameterization, **options).eval()


def same(a, b, shape=(2,), dtype=torch.float32, cond=None):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    return torch.equal(a(x, t, cond), b(x, t, cond))


def fitted(sde, nfe):
    """A table of `nfe` calls, as if it were fitted."""
    return sd.FittedSolver(sd.DDIM().tableau(sde, sd.karras(sde, nfe)), sde, "DDIM()", sd.FitErrors(2.0, 1.0, 0.2, 0.1))


def rewrite(folder, **changes):
    """Changes denoiser.json, and brings its checksums up to date with the files."""
    path = folder / "denoiser.json"
    content = json.loads(path.read_text()) | changes
    content["sha256"] = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in content["sha256"]}
    path.write_text(json.dumps(content))


class MyNet(nn.Module):
    """A network that is not the package's: with a buffer, and two names for one weight."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 2)
        self.again = self.last
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, x, c_noise, cond=None):
        return self.again(torch.tanh(self.first(x) + self.shift + c_noise[:, None]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sde": sd.VESDE(sigma_max=10.0), "parameterization": sd.EDM(sigma_data=0.3)},
        {"sde": sd.DDPMChain(sd.linear_betas(100)), "parameterization": sd.V()},
        {"sde": sd.NCSNLadder((0.1, 0.5, 2.0)), "parameterization": sd.Score()},
        {"conditioning": sd.denoisers.TimeLabel(999.0)},
    ],
)
def test_a_denoiser_comes_back_to_the_bit(options, tmp_path):
    denoiser = make(**options)
    loaded = sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path / "model"))
    for part in ("sde", "parameterization", "conditioning"):
        assert getattr(loaded, part) == getattr(denoiser, part)
    assert same(loaded, denoiser)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_model_with_classes_comes_back_and_samples_the_same(tmp_path):
    denoiser = make(lambda: sd.MLP(dim=12, width=16, depth=2, classes=3))
    loaded = sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path))
    cond = torch.tensor([0, 2, 1])
    assert same(loaded, denoiser, (3, 2, 2), cond=cond)
    samples = [sd.sample(d, shape=(3, 3, 2, 2), nfe=4, cond=cond, seeds=range(3)) for d in (denoiser, loaded)]
    assert torch.equal(*samples)


@pytest.mark.parametrize("options", [{}, {"embedding": "fourier", "attention": (1,), "fir": (1.0, 3.0, 3.0, 1.0)}])
def test_a_unet_comes_back_with_the_random_frequencies_that_it_drew(options, tmp_path):
    denoiser = make(lambda: sd.networks.UNet(sd.networks.UNetConfig(width=8, **options)))
    loaded = sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path))
    assert same(loaded, denoiser, (1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_the_weights_and_of_buffers_that_are_not_saved_is_kept(dtype, tmp_path):
    denoiser = make()
    denoiser.network.to(dtype)
    loaded = sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert same(loaded, denoiser, dtype=dtype)


def test_loading_and_saving_draw_no_random_numbers(tmp_path):
    denoiser, state = make(), torch.random.get_rng_state()
    sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_averaged_weights_of_a_run_and_what_was_fitted_to_them_are_handed_on(tmp_path):
    config = default_config()
    config.update(network="MLP(dim=2, width=16, depth=1)", data="ring", batch_size=32, steps=4, warmup=2, checkpoint_every=4, log_every=4)
    train(config, tmp_path / "run", progress=False)
    checkpoint = open_checkpoint(tmp_path / "run")
    checkpoint.keep_fitted(5, fitted(checkpoint.denoiser().sde, 5))
    denoiser = checkpoint.denoiser()
    loaded = sd.Denoiser.from_pretrained(denoiser.save_pretrained(tmp_path / "model"))
    assert same(loaded, denoiser)
    assert not same(loaded, checkpoint.denoiser(ema=False))
    assert list(loaded.fitted) == [5]
    assert loaded.fitted[5].table == denoiser.fitted[5].table
    again = sd.Denoiser.from_pretrained(loaded.save_pretrained(tmp_path / "again"))  # what is handed on can be handed on
    assert same(again, denoiser)
    for file in ("model.safetensors", "denoiser.json", "fitted/5.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_a_network_of_ones_own_is_named_when_saving_and_when_loading(tmp_path):
    denoiser = make(MyNet)
    with pytest.raises(ValueError, match=r"what builds this MyNet is not known.*pass network='MyNet\(...\)' when saving"):
        denoiser.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"5 of another shape: .*first\.weight \(8, 2\) for \(9, 2\).*width"):
        denoiser.save_pretrained(tmp_path, network="MyNet(width=9)")
    assert not list(tmp_path.iterdir())
    denoiser.save_pretrained(tmp_path, network="MyNet(width=8)")
    assert same(sd.Denoiser.from_pretrained(tmp_path, names={"MyNet": MyNet}), denoiser)
    with pytest.raises(ValueError, match=r"network: unknown name 'MyNet'.*pass names="):
        sd.Denoiser.from_pretrained(tmp_path)


class Doubled(sd.MLP):
    """Another network than the one whose expression it inherits."""

    def forward(self, x, c_noise, cond=None):
        return 2 * super().forward(x, c_noise, cond)


@pytest.mark.parametrize("network", [lambda: Doubled(dim=2, width=8), lambda: torch.compile(sd.MLP(dim=2, width=8))])
def test_a_network_that_only_inherits_an_expression_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match=r"builds a network of type MLP, the denoiser's is a (Doubled|OptimizedModule); pass network="):
        make(network).save_pretrained(tmp_path)


def test_a_network_tells_its_expression_by_its_config(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int = 8

    class Configured(MyNet):
        def __init__(self, config):
            super().__init__(config.width)
            self.config = config

    Config.__qualname__ = "Config"  # as of a class at the top of a module: a dataclass prints it
    denoiser, names = make(lambda: Configured(Config(4))), {"Configured": Configured, "Config": Config}
    denoiser.save_pretrained(tmp_path, names=names)
    assert json.loads((tmp_path / "denoiser.json").read_text())["network"] == "Configured(Config(width=4))"
    assert same(sd.Denoiser.from_pretrained(tmp_path, names=names), denoiser)


def test_the_card_says_what_the_model_is_and_how_it_is_used(tmp_path, monkeypatch):
    denoiser = make(sde=sd.VESDE())
    denoiser.fitted = {5: fitted(denoiser.sde, 5)}
    card = ModelCard(data="Eight points on a ring.", license="apache-2.0", metrics={"energy distance": 0.01}, notes="A toy.", shape=(2,))
    denoiser.save_pretrained(tmp_path / "ring", card=card)
    text = (tmp_path / "ring" / "README.md").read_text()
    header, body = text.split("---\n")[1:]
    assert header.splitlines()[0] == "library_name: sde_diffusion"
    assert 'license: "apache-2.0"' in header
    assert '"VESDE"' in header
    parameters = f"{sum(p.numel() for p in denoiser.parameters()):,} (float32)"
    expressions = ("`VESDE(", "`MLP(dim=2, width=16, depth=1, classes=0)`", "`Epsilon()`", "`LogNoise()`")
    for said in (*expressions, parameters, "Eight points", "| energy distance | 0.01 |", "## Notes\n\nA toy.", "# ring\n"):
        assert said in body
    scope = {}
    monkeypatch.chdir(tmp_path)
    exec(body.split("```python\n")[1].split("```")[0], scope)  # the example runs
    assert scope["samples"].shape == (16, 2)
    with pytest.raises(ValueError, match="one line"):
        ModelCard(license="apache-2.0\ntags: [x]")


def test_nothing_is_replaced_unless_told_to_and_then_no_old_table_stays(tmp_path):
    old, new = make(), make(lambda: sd.MLP(dim=2, width=8))
    old.fitted = {5: fitted(old.sde, 5), 8: fitted(old.sde, 8)}
    old.save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"model\.safetensors, README\.md, denoiser\.json already; pass overwrite=True"):
        new.save_pretrained(tmp_path)
    assert same(sd.Denoiser.from_pretrained(tmp_path), old)
    new.fitted = {8: fitted(new.sde, 8)}
    new.save_pretrained(tmp_path, overwrite=True)
    loaded = sd.Denoiser.from_pretrained(tmp_path)
    assert same(loaded, new)
    assert list(loaded.fitted) == [8]
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model.safetensors", "denoiser.json", "README.md", "notes.txt", "fitted/8.json"}


def test_another_readme_is_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("of a project")
    with pytest.raises(FileExistsError, match=r"has README\.md already"):
        make().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_death_while_replacing_is_noticed(tmp_path, monkeypatch):
    make().save_pretrained(tmp_path)
    replace, moved = os.replace, []

    def dies(source, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        make(lambda: sd.MLP(dim=2, width=8)).save_pretrained(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that denoiser\.json was written with"):
        sd.Denoiser.from_pretrained(tmp_path)
    assert not list(tmp_path.glob("writing-*"))


@pytest.mark.parametrize(
    ("wrapped", "message"),
    [
        (lambda: make().under(sd.VESDE()), r"a ChangeOfVariables wraps .*: denoiser\.inner; save that"),
        (lambda: sd.NFECounter(make().under(sd.VESDE())), r"denoiser\.inner\.inner; save that"),
        (lambda: sd.GaussianDenoiser(torch.zeros(2), torch.ones(2), sd.VPSDE()), "a GaussianDenoiser has no network to save"),
    ],
)
def test_a_wrapper_is_refused_and_its_inner_denoiser_named(wrapped, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        wrapped().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_without_an_expression_is_refused(tmp_path):
    sde = sd.AffineSDE.from_coefficients(lambda t: -t, lambda t: torch.sqrt(2 * t))
    with pytest.raises(ValueError, match="sde: "):
        make(sde=sde).save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version reads format 1"),
        ({"sde": None}, "sde is None, not an expression"),
        ({"sde": "VPSDE(beta=3)"}, "sde: the arguments in 'VPSDE"),
        ({"sde": "Epsilon()"}, r"sde: 'Epsilon\(\)' builds a Epsilon, not a AffineSDE"),
        ({"network": "load('x.pth')"}, "network: unknown name 'load'"),
        ({"network": "sample"}, "network: unknown name 'sample'"),
        ({"network": "__import__('os').system('ls')"}, "network: .* is not allowed"),
        ({"network": "MLP(dim=2, width=24, depth=1)"}, r"of another shape: embed\S+ \(16, 16\) for \(24, 24\).*Likely cause: its width"),
        ({"network": "MLP(dim=2, width=16, depth=3)"}, r"16 missing: blocks\.1\.norm\.weight, .*, \.\.\.\. Likely cause: its depth"),
        ({"network": "MLP(dim=2, width=16, depth=0)"}, r"8 unexpected: blocks\.0\.\S+, .*Likely cause: its depth"),
        ({"sha256": {}}, "sha256 must list"),
        ({"sha256": {"model.safetensors": "", "fitted/../../1.json": ""}}, "sha256 must list"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_with_its_cause(changes, message, tmp_path):
    make().save_pretrained(tmp_path)
    if "sha256" in changes:
        path = tmp_path / "denoiser.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    else:
        rewrite(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        sd.Denoiser.from_pretrained(tmp_path)


def test_weights_of_a_wrapped_module_are_recognised(tmp_path):
    make().save_pretrained(tmp_path)
    save_file({f"module.{key}": t for key, t in load_file(tmp_path / "model.safetensors").items()}, tmp_path / "model.safetensors")
    rewrite(tmp_path)
    with pytest.raises(ValueError, match=r"18 missing: embed.*18 unexpected: module\.blocks.*all their names begin with 'module\.'"):
        sd.Denoiser.from_pretrained(tmp_path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no denoiser\.json: it was not written by"):
        sd.Denoiser.from_pretrained(tmp_path)
    denoiser = make()
    denoiser.fitted = {5: fitted(sd.VESDE(), 5)}
    denoiser.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"5\.json was fitted for 'VESDE.*', and the denoiser's process is VPSDE"):
        sd.Denoiser.from_pretrained(tmp_path)
    (tmp_path / "fitted" / "5.json").unlink()
    with pytest.raises(ValueError, match=r"fitted/5\.json is not the file"):
        sd.Denoiser.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not")
    make().save_pretrained(tmp_path, overwrite=True)
    (tmp_path / "model.safetensors").write_bytes(b"not")
    rewrite(tmp_path)
    with pytest.raises(ValueError, match="is no safetensors file"):
        sd.Denoiser.from_pretrained(tmp_path)
    (tmp_path / "denoiser.json").write_text("[]")
    with pytest.raises(ValueError, match=r"denoiser\.json does not describe a denoiser"):
        sd.Denoiser.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: pytorch_model\.bin can run code when read"):
        sd.Denoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.pth", "model.pkl", "model.ckpt"])
def test_a_pickle_is_not_opened(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name} can run code when read .*ask for safetensors"):
        sd.Denoiser.from_pretrained(tmp_path / name)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder, under the name of the real one."""
    store, calls = tmp_path / "hub", []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision, allow_patterns))
        if not (store / repo_id).exists():
            raise ConnectionError("offline")
        return str(store / repo_id)

    class HfApi:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append((repo_id, private, exist_ok))
            (store / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
            calls.append((commit_message, delete_patterns))
            shutil.copytree(folder_path, store / repo_id, dirs_exist_ok=True)

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download, module.HfApi, module.calls = snapshot_download, HfApi, calls
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_what_is_pushed_to_the_hub_comes_back_from_it(hub):
    denoiser = make()
    denoiser.fitted = {5: fitted(denoiser.sde, 5)}
    url = denoiser.push_to_hub("someone/ring", card=ModelCard(shape=(2,)), private=True, token="secret", message="First")
    assert url == "https://huggingface.co/someone/ring"
    assert hub.calls == ["secret", ("someone/ring", True, True), ("First", ["fitted/*.json"])]
    loaded = sd.Denoiser.from_pretrained("someone/ring", revision="main")
    assert hub.calls[-1] == ("someone/ring", "main", ["*.json", "*.safetensors", "*.md"])
    assert same(loaded, denoiser)
    assert list(loaded.fitted) == [5]


def test_a_hub_that_cannot_be_reached_and_ids_that_are_none_are_reported_with_a_cure(hub, monkeypatch, tmp_path):
    with pytest.raises(OSError, match=r"nothing was fetched of 'someone/ring' at revision 'v2'.*ConnectionError: offline; check the name"):
        sd.Denoiser.from_pretrained("someone/ring", revision="v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match=r"nothing was fetched .*; unset HF_HUB_OFFLINE"):
        sd.Denoiser.from_pretrained("someone/ring")
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere; give one"):
        sd.Denoiser.from_pretrained("nowhere")
    with pytest.raises(ValueError, match="is called 'user/name', got 'ring'"):
        make().push_to_hub("ring")
    with pytest.raises(ValueError, match="has no revision='v2'"):
        sd.Denoiser.from_pretrained(tmp_path, revision="v2")
    (tmp_path / "file.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; give the folder"):
        sd.Denoiser.from_pretrained(tmp_path / "file.safetensors")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: sd.Denoiser.from_pretrained("someone/ring"), lambda: make().push_to_hub("someone/ring")):
        with pytest.raises(ImportError, match=r"pip install 'sde_diffusion\[hub\]'"):
            act()
