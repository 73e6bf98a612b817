import pytest
import torch

import sde_diffusion as sd


def test_paths_are_straight(generator):
    x0, eps = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    sde = sd.RectifiedFlow()
    for t in (0.0, 0.25, 0.999):
        torch.testing.assert_close(sde.perturb(x0, t, eps), x0 + t * (eps - x0))


def test_the_mean_velocity_is_the_flows_own_regression_target():
    # Liu et al. 2022: v(x, t) = E[eps - x0 | x_t = x]
    sde = sd.RectifiedFlow()
    denoiser = sd.GaussianMixtureDenoiser([[1.0], [-1.0]], [0.2, 0.4], [0.3, 0.7], sde)
    x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 0.4
    torch.testing.assert_close(denoiser.v(x, t), denoiser.eps(x, t) - denoiser(x, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"t_max": 1.0}, "t_max must be less than 1, got 1.0"), ({"t_min": 0.0}, "t_min must be greater than 0, got 0.0")],
)
def test_the_singular_ends_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sd.RectifiedFlow(**options)
