"""k-diffusion's samplers, in float64."""

import pytest

import sde_diffusion as sd

_peers = pytest.importorskip("_peers")
try:
    _peers.k_diffusion()
except ImportError as error:
    pytest.skip(f"k_diffusion.sampling needs k-diffusion, torchsde and torchdiffeq: {error}", allow_module_level=True)

PROCESSES = [sd.VESDE(0.02, 20.0), sd.EDMSDE(), sd.VESDE(0.02, 20.0).discretize(1000)]  # the last one down to sigma = 0
TOLERANCE = 1e-10
ROWS = [
    (sd.Euler(), "euler", {}),
    (sd.DDIM(), "euler", {}),
    (sd.Heun(), "heun", {}),
    (sd.Midpoint(), "dpm_2", {}),
    (sd.AdamsBashforth(4, "epsilon"), "lms", {"order": 4}),
    (sd.AdamsBashforth(2, "epsilon"), "lms", {"order": 2}),
    (sd.IPNDM(3, variable_step=True), "lms", {"order": 3}),
    (sd.Renoise(sd.Euler()), "euler_ancestral", {}),
    (sd.Ancestral(), "euler_ancestral", {}),
    (sd.Renoise(sd.Euler(), eta=0.5), "euler_ancestral", {"eta": 0.5}),
    (sd.Renoise(sd.Midpoint()), "dpm_2_ancestral", {}),
    (sd.Renoise(sd.Midpoint("x0")), "dpmpp_2s_ancestral", {}),
    (sd.Midpoint("x0"), "dpmpp_2s_ancestral", {"eta": 0.0}),
    (sd.DPMSolverPP(2), "dpmpp_2m", {}),
    (sd.DPMSolverPP(2, stochastic=True), "dpmpp_2m_sde", {"solver_type": "midpoint"}),
    (sd.DPMSolverPP(2, stochastic=True, exact=True), "dpmpp_2m_sde", {"solver_type": "heun"}),
    (sd.DPMSolverPP(2, exact=True), "dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}),
    (sd.DPMSolverPP(3, stochastic=True, exact=True, published=True), "dpmpp_3m_sde", {}),
    (sd.DPMSolverPP(3, exact=True, published=True), "dpmpp_3m_sde", {"eta": 0.0}),
    *(
        (sd.Churn(inner, 10.0, 0.05, 10.0, 1.003), name, {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.003})
        for inner, name in ((sd.Euler(), "euler"), (sd.Heun(), "heun"), (sd.Midpoint(), "dpm_2"))
    ),
]


@pytest.mark.parametrize(("solver", "name", "options"), ROWS, ids=lambda v: str(v))
def test_our_solver_is_k_diffusions_on_the_same_grid_and_noise(compare, solver, name, options):
    for sde in PROCESSES:
        grid = sd.karras(sde, 12)
        if name == "lms" and sde.sigma(grid[-1]) == 0:  # theirs extrapolates epsilon there; see test_defects.py
            grid = grid[:-1]
        assert compare(sde, solver, _peers.k_sampler(name, **options), grid) < TOLERANCE, sde
