"""The rows of benchmarks/ncsn_ddpm_equivalence.py that need no training, as tests, and DDIM(eta=1) as one more name of DDPM."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import sde_diffusion as sd

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # as when the script is run: it imports its neighbour
benchmark = importlib.import_module("ncsn_ddpm_equivalence")


def holds(rows) -> bool:
    rows = list(rows)
    failed = [row for row in rows if not row.passed]
    assert rows
    assert not failed, failed
    return True


def test_vp_sde_in_1000_steps_is_ddpms_chain():
    assert holds(benchmark.vp_chain_is_ddpm())


def test_ancestral_sampling_is_ho_et_als_algorithm_2():
    assert holds(benchmark.ancestral_is_algorithm_2())


def test_ancestral_sampling_is_diffusers_ddpm_scheduler():
    pytest.importorskip("diffusers")
    assert holds(benchmark.ancestral_is_diffusers())


def test_euler_maruyama_reverse_diffusion_and_ddpm_differ_in_second_order():
    assert holds(benchmark.steps_differ_by_their_second_order())


def test_euler_maruyama_reverse_diffusion_and_ddpm_converge_with_order_1():
    assert holds(benchmark.all_three_are_of_order_1())


@pytest.mark.parametrize(("beta", "printed"), [(0.02, 1.020e-4), (0.01, 2.525e-5), (0.005, 6.281e-6)])
def test_ddpm_minus_reverse_diffusion_is_a_quarter_of_beta_squared_of_the_state(beta, printed):
    # 1/sqrt(1 - beta) - (2 - sqrt(1 - beta)) = beta^2/4 + beta^3/4 + ..., to four digits
    steps = benchmark.three_steps(beta)
    difference = (steps["Ancestral"] - steps["ReverseDiffusion"])[0].item()
    assert difference == pytest.approx(printed, rel=5e-4)


def test_ncsns_ladder_is_the_ve_sde_on_a_grid():
    assert holds(benchmark.ncsn_ladder_is_ve())


def test_ncsns_loss_is_ddpms_after_the_change_of_variables():
    assert holds(benchmark.losses_are_one())


def test_vp_and_its_ve_image_have_one_probability_flow():
    assert holds(benchmark.flows_coincide())


def test_ddim_with_eta_1_on_consecutive_nodes_is_ddpm():
    chain = sd.VPSDE().discretize(1000)
    nodes = sd.uniform(chain, 1000)
    ddim, ddpm = sd.DDIM(eta=1.0).tableau(chain, nodes), sd.Ancestral("posterior").tableau(chain, nodes)
    for name in ("t", "p_x", "p_x0", "x", "p", "noise", "ends"):
        assert torch.allclose(getattr(ddim, name), getattr(ddpm, name), rtol=0, atol=1e-12), name


def test_ddim_with_eta_1_has_ddpms_variance_and_weight_of_x0_at_t_501():
    # beta_tilde_t and sqrt(alpha_bar_{t-1}) beta_t/(1 - alpha_bar_t) by Ho et al. 2020 at t = 501, number 500 of the table from 0
    chain = sd.VPSDE().discretize(1000)
    table = sd.DDIM(eta=1.0).tableau(chain, torch.tensor([0.501, 0.5], dtype=torch.float64))
    assert table.noise.item() ** 2 == pytest.approx(0.0100513357790, abs=1e-12)
    assert table.p.item() == pytest.approx(0.00305806, abs=5e-9)


def test_a_row_that_fails_makes_the_benchmark_fail(monkeypatch, capsys):
    assert benchmark.main(["--rows", "a"]) == 0
    monkeypatch.setattr(benchmark, "vp_chain_is_ddpm", lambda: [benchmark.Row("a", "1 = 2", 1.0, 0.5)])
    assert benchmark.main(["--rows", "a"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_row_that_is_not_a_number_fails_and_one_that_could_not_be_tried_does_not():
    assert not benchmark.Row("a", "", float("nan"), 1.0).passed
    assert benchmark.Row("a", "", None, 1.0).passed


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--rows", "a,z"])
    assert "--rows must be some of a,b,c,d,e,f,g, got a,z" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_trained_as_ddpm_can_be_sampled_as_an_ncsn(tmp_path, capsys):
    assert benchmark.main(["--rows", "f", "--quick", "--workdir", str(tmp_path)]) == 0
    assert "as NCSN, AnnealedLangevin" in capsys.readouterr().out
