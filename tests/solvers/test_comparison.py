import csv
import math

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.solvers.comparison import sliced_wasserstein


def ring(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return sd.GaussianMixtureDenoiser(torch.stack([angles.cos(), angles.sin()], 1), 0.1, None, sde)


SOLVERS = (sd.DDIM(), sd.Heun(), sd.DPMSolver(3), sd.AdamsBashforth(3), sd.Ancestral())


@pytest.fixture(scope="module")
def table() -> sd.WorkPrecision:
    return sd.compare(ring(sd.VPSDE()), budgets=(2, 8, 16), shape=(256, 2), solvers=SOLVERS, grids=(sd.vp_power, sd.log_snr))


def test_calls_are_counted_and_within_the_budget(table):
    assert {m.budget for m in table.measurements} == {2, 8, 16}
    for m in table.measurements:
        assert 0 < m.nfe <= m.budget
    assert {m.nfe for m in table.measurements if m.solver == sd.DPMSolver(3)} == {6, 15}  # three calls do not fit into two


def test_the_higher_order_has_the_smaller_error_and_auto_is_among_them(table):
    best = {str(m.solver): m for m in table.best() if m.budget == 16}
    assert best["AdamsBashforth(order=3)"].rms < best["DDIM()"].rms / 3
    assert best["auto"].rms < best["DDIM()"].rms / 3
    assert best["auto"].median <= best["auto"].rms


def test_a_solver_that_adds_noise_has_a_law_but_no_path(table):
    stochastic = [m for m in table.measurements if m.solver == sd.Ancestral()]
    assert stochastic
    assert all(m.rms is None and m.median is None and m.distance > 0 for m in stochastic)
    assert table.floor > 0


def test_the_table_prints_the_best_grid_of_each_and_is_saved_whole(table, tmp_path):
    text = str(table)
    assert len(text.splitlines()) == 2 + len(table.best())
    assert "perfect solver" in text
    table.save(tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == len(table.measurements)
    assert float(rows[0]["distance"]) == table.measurements[0].distance
    assert sd.build(rows[-1]["solver"]) == sd.Ancestral()
    with pytest.raises(FileExistsError):
        table.save(tmp_path / "table.csv")


def test_data_as_the_reference_give_shape_and_floor():
    denoiser = ring(sd.VESDE())
    data = denoiser.sample_data(256, generator=torch.Generator().manual_seed(0))
    table = sd.compare(denoiser, budgets=[10], reference=data, solvers=[sd.Euler()], grids=[sd.karras])
    assert table.floor < 0.2
    assert all(m.distance < 1 for m in table.measurements)


def test_a_process_without_a_grid_is_measured_on_the_others():
    table = sd.compare(
        ring(sd.DDPMChain(sd.linear_betas(20))), budgets=[5], shape=(16, 2), solvers=[sd.DDIM()], grids=[sd.chain_grid, sd.uniform]
    )
    assert {str(m.grid) for m in table.measurements} >= {"auto", "uniform()"}
    table = sd.compare(ring(sd.VPSDE()), budgets=[5], shape=(16, 2), solvers=[sd.DDIM()], grids=[sd.chain_grid, sd.uniform])
    assert {str(m.grid) for m in table.measurements} == {"auto", "uniform()"}


def test_sliced_wasserstein_in_one_dimension_is_the_distance_of_quantiles():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    assert sliced_wasserstein(x, x.flip(0) + 3) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="one shape"):
        sliced_wasserstein(x, x[:2])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="budget must be a whole number, at least 1, got 0"):
        sd.compare(ring(sd.VPSDE()), budgets=[0], shape=(4, 2))
    with pytest.raises(ValueError, match="either reference=data"):
        sd.compare(ring(sd.VPSDE()))
