import importlib.util
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sde_diffusion import EDMSDE, VESDE, VPSDE, GaussianDenoiser, RectifiedFlow, plotting
from sde_diffusion.training import tracking
from sde_diffusion.training.tracking import History, LossByLevel, Progress, check_trackers, save_samples


def lines(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def accelerator(workdir, trackers):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, log_with=list(trackers) or None, project_dir=workdir)


def events(workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loaded = EventAccumulator(str(workdir / tracking.PROJECT))
    loaded.Reload()
    return {tag: [(e.step, e.value) for e in loaded.Scalars(tag)] for tag in loaded.Tags()["scalars"]}


def test_a_log_has_one_line_per_call_with_plain_numbers(tmp_path):
    history = History(tmp_path / "run")
    history.log(5, loss=torch.tensor(0.5), lr=1e-3)
    history.log(10, loss=0.25, gradient_norm=torch.tensor(float("inf")), note="warm")
    first, second = lines(tmp_path / "run")
    assert first["step"] == 5
    assert {k: v for k, v in first.items() if k not in ("step", "seconds")} == {"loss": 0.5, "lr": 1e-3}
    assert (second["loss"], second["gradient_norm"], second["note"]) == (0.25, None, "warm")
    assert 0 <= first["seconds"] <= second["seconds"]


def test_a_resumed_log_loses_the_lines_of_steps_to_be_done_again_and_the_one_that_was_cut_off(tmp_path):
    history = History(tmp_path)
    for step in (5, 10, 15):
        history.log(step, loss=float(step))
    whole = (tmp_path / "log.jsonl").read_bytes()
    for cut in range(len(whole.splitlines()[2]) + 1):  # killed anywhere in the last line
        (tmp_path / "log.jsonl").write_bytes(whole[: len(whole) - 1 - cut])
        again = History(tmp_path, step=15)
        again.log(20, loss=20.0)
        assert [line["step"] for line in lines(tmp_path)] == ([5, 10, 15, 20] if cut == 0 else [5, 10, 20])
    History(tmp_path, step=5)
    assert [line["step"] for line in lines(tmp_path)] == [5]


def test_other_processes_write_nothing(tmp_path):
    class Other:
        is_main_process = False

    history = History(tmp_path / "run", Other())
    history.log(1, loss=torch.tensor(1.0))
    history.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_given_the_numbers_of_the_log_and_the_loss_of_each_level(tmp_path):
    pytest.importorskip("tensorboard")
    config = {"trackers": ("tensorboard",), "lr": 1e-3, "ema": (0.999,)}
    history = History(tmp_path, accelerator(tmp_path, config["trackers"]), config=config)
    levels = {"edges": [0.0, 1.0, 2.0], "loss": [0.5, None], "count": [3, 0]}
    history.log(5, loss=torch.tensor(0.25), loss_by_level=levels)
    history.log(10, loss=0.125, loss_by_level=levels)
    history.close()
    found = events(tmp_path)
    assert found["loss"] == [(5, 0.25), (10, 0.125)]
    assert found["loss_by_level/0"] == [(5, 0.5), (10, 0.5)]
    assert "loss_by_level/1" not in found
    assert lines(tmp_path)[0]["loss_by_level"] == levels


def test_tensorboard_shows_the_steps_of_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    config = {"trackers": ["tensorboard"]}
    for start, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        history = History(tmp_path, accelerator(tmp_path, config["trackers"]), config=config, step=start)
        for step in steps:
            history.log(step, loss=float(step + 10 * start))
        history.close()
        folder = tmp_path / tracking.PROJECT
        for i, file in enumerate(sorted(folder.glob("events*"))):  # names end in numbers of this process: order them by age
            file.rename(folder / f"events.out.tfevents.{i}.{file.name.rsplit('.', 1)[-1]}")
    assert events(tmp_path)["loss"] == [(1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]


def test_trackers_are_given_numbers_and_texts_only_and_end_with_the_log(tmp_path, monkeypatch):
    class Tracker:
        finished = 0

        def finish(self):
            self.finished += 1

    class Accelerator:
        is_main_process, trackers, given, started = True, [], [], []

        def init_trackers(self, project, *, config, init_kwargs):
            self.trackers.append(Tracker())
            self.started.append((project, config, sorted(init_kwargs)))

        def log(self, values, *, step):
            self.given.append((step, values))

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    process = Accelerator()
    history = History(tmp_path, process, config={"trackers": ["wandb"], "lr": 1.0, "ema": (0.9,)})
    history.log(
        5, loss=torch.tensor(1.0), gradient_norm=float("nan"), loss_by_level={"edges": [0, 1, 2], "loss": [None, 2.0], "count": [0, 1]}
    )
    tracker = process.trackers[0]
    history.close()
    assert process.started == [("sde_diffusion", {"trackers": "['wandb']", "lr": 1.0, "ema": "(0.9,)"}, ["wandb"])]
    ((step, values),) = process.given
    assert values.pop("seconds") >= 0
    assert (step, values) == (5, {"loss": 1.0, "loss_by_level/1": 2.0})
    assert tracker.finished == 1
    assert process.trackers == []


@pytest.mark.parametrize(("name", "cure"), [("tensorboard", r"pip install 'sde_diffusion\[tracking\]'"), ("wandb", "pip install wandb")])
def test_a_missing_tracker_is_named_with_its_cure(name, cure, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=cure):
        History(tmp_path, config={"trackers": (name,)})


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="use tensorboard and wandb"):
        check_trackers(["mlflow"])


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), EDMSDE(), RectifiedFlow(), VPSDE().discretize(100)], ids=lambda s: type(s).__name__)
def test_losses_by_level_are_the_means_over_bins_of_log_snr(sde):
    generator = torch.Generator().manual_seed(0)
    low = sde.t_min if sde.length is None else 1 / sde.length
    levels, t, losses = LossByLevel(sde, bins=7), [], []
    for _ in range(3):
        t.append(low + (sde.t_max - low) * torch.rand(400, generator=generator))
        losses.append(torch.rand(400, generator=generator))
        levels.add(t[-1], losses[-1])
    found = levels.result()
    lam, values = sde.log_snr(torch.cat(t).double()), torch.cat(losses).double()
    edges = torch.linspace(float(sde.log_snr(torch.tensor(sde.t_max).double())), float(sde.log_snr(torch.tensor(low).double())), 8)
    np.testing.assert_allclose(found["edges"], edges, atol=1e-4)
    for i, (a, b) in enumerate(itertools.pairwise(edges.double())):
        here = (lam >= a if i else lam >= -torch.inf) & (lam < b if i < 6 else lam <= torch.inf)
        assert abs(found["count"][i] - int(here.sum())) <= 1  # float32 times on an edge
        if here.sum() > 20 and found["count"][i] == int(here.sum()):
            assert found["loss"][i] == pytest.approx(values[here].mean().item(), rel=1e-5)
    assert sum(found["count"]) == 1200
    assert levels.result()["count"] == [0] * 7
    assert levels.result()["loss"] == [None] * 7


def test_times_outside_of_the_process_count_for_the_bins_at_the_ends():
    levels = LossByLevel(VPSDE(), bins=3)
    levels.add(torch.tensor([0.0, 1e-6, 1.0]), torch.tensor([1.0, 3.0, 5.0], dtype=torch.float16))
    assert levels.result()["loss"] == [5.0, None, 2.0]


def test_the_bar_tells_samples_per_second(capsys):
    bar = Progress(10, initial=4, batch_size=8)
    bar.update()
    bar.show(loss=torch.tensor(0.5))
    bar.close()
    shown = capsys.readouterr().err
    assert "5/10" in shown
    assert "loss 0.5" in shown
    assert "samples/s" in shown


def test_a_bar_that_is_switched_off_shows_nothing(capsys):
    bar = Progress(10, disable=True)
    bar.update()
    bar.show(loss=0.5)
    bar.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("shape", "suffix"), [((1, 4, 4), ".png"), ((2,), ".png"), ((5,), ".npz")])
def test_samples_are_drawn_from_fixed_seeds_and_saved_as_a_picture_or_as_numbers(shape, suffix, tmp_path):
    denoiser = GaussianDenoiser(torch.zeros(shape), 0.1, VPSDE())
    path = save_samples(denoiser, tmp_path / "samples" / "1.png", shape=shape, n=4, nfe=5)
    again = save_samples(denoiser, tmp_path / "samples" / "2.png", shape=shape, n=4, nfe=5)
    assert path.suffix == again.suffix == suffix
    assert sorted(p.name for p in path.parent.iterdir()) == [f"1{suffix}", f"2{suffix}"]
    if suffix == ".png":
        a, b = (np.asarray(Image.open(p)) for p in (path, again))
    else:
        a, b = (np.load(p)["samples"] for p in (path, again))
        assert a.shape == (4, 5)
    assert (a == b).all()


def test_samples_of_a_conditional_model_go_through_its_classes(tmp_path):
    seen = []

    class Spy(GaussianDenoiser):
        def forward(self, x, t, cond=None):
            seen.append(cond)
            return super().forward(x, t)

    save_samples(Spy(torch.zeros(2), 0.1, VPSDE()), tmp_path / "a.png", shape=(2,), classes=3, n=5, nfe=2)
    assert seen[0].tolist() == [0, 1, 2, 0, 1]


def drawn(monkeypatch):
    """The figures that are saved, in order."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: (figures.append(self), save(self, path, **options)))
    return figures


def test_plots_show_the_numbers_of_the_log(tmp_path, monkeypatch):
    figures, history = drawn(monkeypatch), History(tmp_path)
    for step in range(1, 8):
        levels = {"edges": [-1.0, 0.0, 1.0], "loss": [step / 2, None], "count": [3, 0]}
        history.log(step, loss=1 / step, lr=0.0 if step == 7 else 0.1, gradient_norm=None, loss_by_level=levels)
    plotting.training_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    plotting.loss_by_level(tmp_path / "log.jsonl", tmp_path / "levels.png", curves=3)
    assert {p.name for p in tmp_path.glob("*.png")} == {"curves.png", "levels.png"}
    loss, rate = (axes.lines[0].get_xydata().tolist() for axes in figures[0].axes)
    assert loss == [[step, 1 / step] for step in range(1, 8)]
    assert rate == [[step, 0.1] for step in range(1, 7)]
    stairs = figures[1].axes[0].patches
    assert [stair.get_label() for stair in stairs] == ["step 1", "step 4", "step 7"]
    assert [stair.get_data().values[0] for stair in stairs] == [0.5, 2.0, 3.5]


def test_a_log_without_losses_by_level_has_no_such_picture(tmp_path):
    History(tmp_path).log(1, loss=1.0)
    with pytest.raises(ValueError, match="no losses by noise level"):
        plotting.loss_by_level(tmp_path / "log.jsonl", tmp_path / "levels.png")
