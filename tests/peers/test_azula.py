"""azula's samplers, in float64."""

import pytest

import sde_diffusion as sd

pytest.importorskip("azula")
import _peers

ROWS = [
    (sd.Ancestral(), "DDPM", {}),
    (sd.DDIM(), "DDIM", {}),
    (sd.DDIM(0.5), "DDIM", {"eta": 0.25}),  # theirs multiplies the variance
    (sd.Euler(), "Euler", {}),
    (sd.Heun(), "Heun", {}),
    (sd.Euler("epsilon", eta=1.0), "Ito", {}),
    (sd.Euler("epsilon", eta=0.5), "Ito", {"eta": 0.5}),
    *((sd.AdamsBashforth(order, "epsilon"), "zAB", {"order": order}) for order in (2, 4)),
    *((sd.AdamsBashforth(order, "velocity"), "vAB", {"order": order}) for order in (2, 4)),
    *((sd.DEIS(order, "log_snr"), "zEAB", {"order": order}) for order in (2, 4)),
    (sd.SASolver(4, eta=0.0, corrector=False), "xEAB", {"order": 4}),
    *((sd.DPMSolverPP(order, exact=True), "xEAB", {"order": order}) for order in (2, 3)),
]


@pytest.mark.parametrize(("solver", "name", "options"), ROWS, ids=str)
@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(0.02, 20.0), sd.RectifiedFlow()], ids=lambda sde: type(sde).__name__)
def test_our_solver_is_azulas(compare, sde, solver, name, options):
    # they solve for the weights in powers of the place itself, not of that from the step's start: digits are lost
    assert compare(sde, solver, _peers.azula_sampler(name, **options), sd.log_snr(sde, 12)) < 1e-10
