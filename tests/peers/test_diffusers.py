"""diffusers' schedulers, in float64."""

import pytest
import torch

import sde_diffusion as sd

pytest.importorskip("diffusers")
import _peers

# diffusers hands tensors to NumPy's functions, and deprecates the noise predictions' algorithms
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]

VP, CHAIN = sd.VPSDE(), sd.DDPMChain(sd.linear_betas(1000))
VE, LADDER = sd.EDMSDE(), sd.VESDE(0.02, 20.0).discretize(100)
TOLERANCE = 1e-10
N = 12


def dpm(order: int, algorithm: str = "dpmsolver++", solver: str = "midpoint"):
    last = "zero" if algorithm.endswith("++") else "sigma_min"
    return "DPMSolverMultistep", {"solver_order": order, "algorithm_type": algorithm, "solver_type": solver, "final_sigmas_type": last}


NODES = [
    (sd.Ancestral("posterior"), "DDPM", {}),
    (sd.Ancestral("forward"), "DDPM", {"variance_type": "fixed_large"}),
    (sd.DDIM(1.0), "DDPM", {}),
    (sd.DDIM(), "DDIM", {}),
    (sd.DDIM(0.5), "DDIM", {"step": {"eta": 0.5}}),
]


@pytest.mark.parametrize(("solver", "name", "options"), NODES, ids=str)
def test_on_the_nodes_of_ddpms_chain(compare, solver, name, options):
    theirs = _peers.diffusers_scheduler(name, **options)
    assert compare(CHAIN, solver, theirs, sd.chain_grid(CHAIN, 20, spacing="leading")) < TOLERANCE


def dpm_row(order: int, form: str, stochastic: bool, exact: bool):
    """Ours and theirs; they lower the order of the last steps on grids of less than 15."""
    algorithm = ("sde-" if stochastic else "") + ("dpmsolver++" if form == "x0" else "dpmsolver")
    solver = sd.DPMSolverPP(order, stochastic, exact, published=True, lower_final=1, form=form)
    return solver, *dpm(order, algorithm, "heun" if exact else "midpoint")


TABLES = [
    *(dpm_row(order, form, False, exact) for order in (1, 2, 3) for form in ("x0", "epsilon") for exact in (False, True)),
    *(dpm_row(order, form, True, exact) for order in (1, 2) for form in ("x0", "epsilon") for exact in (False, True)),
    *(
        (sd.UniPC(order, variant, form=form), "UniPCMultistep", {"solver_order": order, "solver_type": variant, "predict_x0": form == "x0"})
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
        for form in ("x0", "epsilon")
    ),
    (sd.UniPC(2, corrector=False), "UniPCMultistep", {"solver_order": 2, "disable_corrector": list(range(N))}),
    *((sd.DEIS(order, "log_snr", lower_final=1), "DEISMultistep", {"solver_order": order}) for order in (1, 2, 3)),
    *(
        (
            sd.SASolver(order, eta, lower_final=1, published=True),
            "SASolver",
            {"predictor_order": order, "corrector_order": order + 1, "tau_func": lambda t, eta=eta: eta},
        )
        for order in (1, 2, 3)
        for eta in (0.0, 0.5, 1.0)
    ),
]


@pytest.mark.parametrize(("solver", "name", "options"), TABLES, ids=str)
def test_on_a_vp_process_at_our_sigma_over_alpha(compare, solver, name, options):
    assert compare(VP, solver, _peers.diffusers_scheduler(name, **options), sd.log_snr(VP, N)) < TOLERANCE


RESCALED = [
    (sd.Euler(), "EulerDiscrete", {}),
    (sd.Renoise(sd.Euler()), "EulerAncestralDiscrete", {}),
    (sd.Ancestral(), "EulerAncestralDiscrete", {}),
    (sd.Heun(), "HeunDiscrete", {}),
    (sd.Midpoint(), "KDPM2Discrete", {}),
    (sd.Renoise(sd.Midpoint()), "KDPM2AncestralDiscrete", {}),
]


@pytest.mark.parametrize(("solver", "name", "options"), RESCALED, ids=str)
@pytest.mark.parametrize("sde", [CHAIN, LADDER], ids=lambda sde: type(sde).__name__)
def test_down_to_noise_free_data_in_x_over_alpha(compare, sde, solver, name, options):
    assert compare(sde, solver, _peers.diffusers_scheduler(name, **options), sd.karras(sde, N)) < TOLERANCE


def test_lms_is_adams_bashforth_in_epsilon(compare):
    for order in (1, 2, 3, 4):
        theirs = _peers.diffusers_scheduler("LMSDiscrete", step={"order": order})
        assert compare(VP, sd.AdamsBashforth(order, "epsilon"), theirs, sd.karras(VP, N)) < TOLERANCE


@pytest.mark.parametrize(
    ("solver", "name", "options"),
    [
        (sd.Euler(), "EDMEuler", {}),
        *(
            (
                sd.DPMSolverPP(order, stochastic, exact, published=True, lower_final=1),
                "EDMDPMSolverMultistep",
                {
                    "solver_order": order,
                    "algorithm_type": "sde-dpmsolver++" if stochastic else "dpmsolver++",
                    "solver_type": "heun" if exact else "midpoint",
                },
            )
            for order, stochastic in ((1, False), (2, False), (3, False), (1, True), (2, True))
            for exact in (False, True)
        ),
    ],
    ids=str,
)
def test_with_the_preconditioning_of_karras_et_al(compare, solver, name, options):
    assert compare(VE, solver, _peers.diffusers_scheduler(name, **options), sd.karras(VE, N)) < TOLERANCE


def test_score_sde_ve_is_a_corrector_by_the_batch_before_reverse_diffusion(compare):
    # they add the noise of the last step to noise-free data, as ours does
    solver = sd.PredictorCorrector(sd.ReverseDiffusion(), sd.Langevin(0.15, norm="batch"), first="corrector")
    assert compare(LADDER, solver, _peers.diffusers_score_sde_ve(snr=0.15), sd.uniform(LADDER, 100)) < TOLERANCE


def test_pndm_is_ipndm_that_starts_with_heun(compare):
    theirs = _peers.diffusers_scheduler("PNDM", skip_prk_steps=True)
    grid = sd.chain_grid(CHAIN, 20, spacing="leading")[:-1]
    assert compare(CHAIN, sd.IPNDM(4, start="heun"), theirs, grid) < TOLERANCE


@pytest.mark.parametrize(
    ("solver", "name", "options"),
    [
        (sd.DPMSolverPP(2, lower_final=1), *dpm(2)),
        (sd.DPMSolverPP(2, stochastic=True, lower_final=1), *dpm(2, "sde-dpmsolver++")),
        (sd.UniPC(3), "UniPCMultistep", {"solver_order": 3}),
        (sd.DEIS(3, "log_snr", lower_final=1), "DEISMultistep", {"solver_order": 3}),
        (sd.Euler(), "EulerDiscrete", {}),
    ],
    ids=str,
)
def test_as_it_is_installed_in_float32(compare, solver, name, options):
    assert compare(VP, solver, _peers.diffusers_scheduler(name, **options), sd.log_snr(VP, N), torch.float32) < 1e-5
