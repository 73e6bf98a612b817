"""The neighbours' log-likelihoods, as benchmarks/_likelihood_peers.py runs them, against ours with exact traces."""

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.likelihood import log_likelihood

_likelihood_peers = pytest.importorskip("_likelihood_peers")
_peers = pytest.importorskip("_peers")

VP, VE, EDM, FLOW = sd.VPSDE(t_min=1e-5), sd.VESDE(0.01, 50.0, t_min=1e-5), sd.EDMSDE(), sd.RectifiedFlow(t_min=1e-5, t_max=1 - 1e-5)
TOLERANCE = 2e-3  # nats; both solve with 1e-6 per step


def k_diffusion_is_absent() -> bool:
    try:
        _peers.k_diffusion()
    except ImportError:
        return True
    return False


needs_k_diffusion = pytest.mark.skipif(k_diffusion_is_absent(), reason="needs k-diffusion, torchsde and torchdiffeq")
needs_flow_matching = pytest.mark.skipif(_peers.version("flow_matching") is None, reason="needs flow_matching")
score_sde = _likelihood_peers.score_sde(rtol=1e-6, atol=1e-6)
k_diffusion = _likelihood_peers.k_diffusion_log_likelihood(tolerance=1e-6)
flow_matching = _likelihood_peers.flow_matching_likelihood(tolerance=1e-6)
CASES = [
    pytest.param(score_sde, VP, id="score_sde-VP"),
    pytest.param(score_sde, VE, id="score_sde-VE"),
    pytest.param(k_diffusion, VE, id="k_diffusion-VE", marks=needs_k_diffusion),
    pytest.param(k_diffusion, EDM, id="k_diffusion-EDM", marks=needs_k_diffusion),
    pytest.param(flow_matching, FLOW, id="flow_matching", marks=needs_flow_matching),
]


@pytest.mark.parametrize(("theirs", "sde"), CASES)
def test_a_neighbours_mean_over_all_sign_probes_is_our_exact_likelihood(theirs, sde, mixture):
    # in two dimensions e . J e is the trace plus or minus the sum of the two other entries, along a path that no probe changes
    denoiser = mixture(sde)
    x = denoiser.sample_data(6, generator=torch.Generator().manual_seed(0))
    ours = log_likelihood(denoiser, x, method="exact", rtol=1e-6, atol=1e-6, t_min=sde.t_min)
    signs = torch.ones_like(x), torch.tensor([1.0, -1.0], dtype=torch.float64).expand_as(x)
    found = [theirs(denoiser, x, probe) for probe in signs]
    torch.testing.assert_close((found[0].nats + found[1].nats) / 2, ours.nats, rtol=0, atol=TOLERANCE)
    assert all(e.calls == (2 if theirs is score_sde else 1) * e.nfe for e in found)


@pytest.mark.parametrize(("theirs", "sde"), CASES)
def test_neighbours_take_float32_states(theirs, sde, mixture):
    denoiser = mixture(sde)
    x = denoiser.sample_data(6, generator=torch.Generator().manual_seed(0))
    probe = torch.ones_like(x)
    coarse = {"rtol": 1e-4, "atol": 1e-4} if theirs is score_sde else {"tolerance": 1e-4}
    name = {score_sde: "score_sde", k_diffusion: "k_diffusion_log_likelihood", flow_matching: "flow_matching_likelihood"}[theirs]
    in_float32 = getattr(_likelihood_peers, name)(**coarse)(denoiser, x.float(), probe.float())
    assert in_float32.nats.dtype == torch.float64
    torch.testing.assert_close(in_float32.nats, theirs(denoiser, x, probe).nats, rtol=0, atol=0.05)
