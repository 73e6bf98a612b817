import pytest
import torch

import sde_diffusion as sd

VP = (lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: torch.sqrt(0.1 + 19.9 * t))

PROCESSES = {
    "VP": sd.VPSDE(),
    "VP with constant beta": sd.VPSDE(5.0, 5.0),
    "sub-VP": sd.SubVPSDE(),
    "cosine": sd.CosineVPSDE(),
    "VE": sd.VESDE(),
    "EDM": sd.EDMSDE(),
    "flow": sd.RectifiedFlow(),
    "DDPM": sd.DDPMChain(sd.linear_betas(1000)),
    "cosine chain": sd.CosineVPSDE().discretize(1000),
    "NCSN": sd.NCSNLadder(sd.geometric_sigmas(10, 0.01, 1.0)),
    "sub-VP chain": sd.SubVPSDE().discretize(50),
    "EDM chain": sd.EDMSDE().discretize(18),
    "coefficients of VP": sd.AffineSDE.from_coefficients(*VP),
    "coefficients of a constant VE": sd.AffineSDE.from_coefficients(lambda t: 0.0, lambda t: 3.0),
    "coefficients that amplify": sd.AffineSDE.from_coefficients(lambda t: 1 + torch.cos(3 * t), lambda t: 0.5 + 3 * t**2),
    "coefficients up to t_max": sd.AffineSDE.from_coefficients(lambda t: -1 / (1 - t), lambda t: 1 + t, t_max=0.9),
}


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES.keys())
def sde(request):
    return request.param
