"""The audit's oracles on solvers that are known, and its table on a few rows."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as when the script is run: it imports its neighbour
audit = importlib.import_module("audit")


@pytest.mark.parametrize("solver", [sd.DDIM(0.5), sd.Churn(sd.Heun()), sd.DPMSolverPP(3, stochastic=True)], ids=repr)
def test_the_law_from_basis_vectors_is_that_of_the_table(solver):
    denoiser, grid = sd.GaussianDenoiser([1.0, -0.5], [0.5, 1.5], audit.VP), sd.karras(audit.VP, 20)
    mean, std = marginal(denoiser, 1.0)
    true_mean, variance = gaussian_law(solver.tableau(audit.VP, grid), denoiser, mean=mean, std=std)
    ours = audit.law(audit.ours(solver), denoiser, grid)
    torch.testing.assert_close(ours, (true_mean, variance.sqrt()), rtol=0, atol=1e-12)


def test_every_solver_of_ours_has_a_row_or_is_another_librarys():
    names = {entry.name for entry in audit.our_entries()}
    kinds = {name for name in sd.__all__ if isinstance(getattr(sd, name), type) and issubclass(getattr(sd, name), sd.Solver)}
    absent = {kind for kind in kinds if not any(kind in name for name in names)}
    assert absent <= {"Solver", "Corrector", "TorchSDE", "ScipyODE", "FittedSolver"}  # a table for one budget has no order to audit


def test_an_order_that_is_missed_a_look_outside_and_a_batch_that_couples_are_found():
    def half_a_step(denoiser, x, grid, noise):  # Euler's method where Heun's is claimed, which looks behind the end, and at the batch
        denoiser(x, grid[-1] - 1e-3)
        return sd.sample(denoiser, sd.Euler(), x=x, grid=grid) + 1e-6 * x.mean()

    row = audit.audit(audit.Entry("sde_diffusion", "wrong", half_a_step, 2, (audit.VE,)), fast=True)
    assert row.order == pytest.approx(1.0, abs=0.2)
    assert [problem.split(" by ")[0] for problem in row.problems] == [
        f"order {row.order:.1f}, not 2",
        "asks for t outside",
        "a sample changes with its batch",
    ]


def test_a_crash_is_a_row():
    def crash(denoiser, x, grid, noise):
        raise RuntimeError("no such luck")

    assert audit.audit(audit.Entry("sde_diffusion", "crash", crash, 1, (audit.VE,))).problems == ["RuntimeError: no such luck"]


def test_a_clean_row_is_printed_and_written(tmp_path, capsys):
    out = tmp_path / "table.csv"
    assert audit.main(["--fast", "--only", r"sde_diffusion DDIM\(eta=0.5\)$", "--out", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == audit.HEADER
    assert [line.split(",")[2] for line in lines[1:]] == ["DDIM(eta=0.5)"]
    assert lines[1].endswith(",clean")
    assert "1 of 1 rows of ours are clean" in capsys.readouterr().out


def test_a_row_of_ours_that_is_not_clean_makes_the_audit_fail(monkeypatch):
    wrong = audit.Entry("sde_diffusion", "wrong", audit.ours(sd.Euler()), 2, (audit.VE,))
    monkeypatch.setattr(audit, "our_entries", lambda: iter([wrong]))
    assert audit.main(["--fast", "--only", "wrong"]) == 1
