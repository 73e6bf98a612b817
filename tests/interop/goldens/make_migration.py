"""Writes migration.safetensors, what score_sde_pytorch itself computes with a known score and seeded noise.

    git clone https://github.com/yang-song/score_sde_pytorch PATH && git -C PATH checkout cb1f359f4aadf0ff9a5e122fe8fffc9451fd6e44
    python tests/interop/goldens/make_migration.py --reference PATH

needs torch, numpy, scipy and safetensors. `collect(library)` is a script in the reference's names; the test calls it with ours.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = (4, 3, 2, 2)
N = 20
EPS = 0.01
MEAN, STD = 0.3, 0.5  # of the data, every coordinate alone


class Gaussian(nn.Module):
    """The exact model of Gaussian data, in the reference's conventions: VP and sub-VP predict -sigma score, VE the score."""

    def __init__(self, sde: Any, continuous: bool, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.sde, self.continuous, self.mean, self.std = sde, continuous, mean, std

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        kind = type(self.sde).__name__
        if kind == "VESDE":
            sigma = labels if self.continuous else self.sde.discrete_sigmas.flip(0)[labels]
            alpha, factor = torch.ones_like(sigma), torch.ones_like(sigma)
        else:
            if self.continuous:
                t = labels / 999
                integral = self.sde.beta_0 * t + 0.5 * (self.sde.beta_1 - self.sde.beta_0) * t**2
                alpha = torch.exp(-integral / 2)
                sigma = 1 - torch.exp(-integral) if kind == "subVPSDE" else torch.sqrt(1 - torch.exp(-integral))
            else:
                step = labels.long()
                alpha, sigma = self.sde.sqrt_alphas_cumprod[step], self.sde.sqrt_1m_alphas_cumprod[step]
            factor = -sigma
        alpha, sigma, factor = (a[:, None, None, None] for a in (alpha, sigma, factor))
        return -factor * (x - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2)


def identity(x: Any) -> Any:
    return x


def collect(library: Any) -> dict[str, Tensor]:
    """All results, by name; it seeds torch's global generator."""
    sdes = {
        "vp": library.VPSDE(beta_min=0.1, beta_max=10, N=N),
        "subvp": library.subVPSDE(beta_min=0.1, beta_max=10, N=N),
        "ve": library.VESDE(sigma_min=0.01, sigma_max=10, N=N),
    }
    results: dict[str, Tensor] = {}
    for name, sde in sdes.items():
        results |= {f"{name}/{key}": value for key, value in formulas(library, sde).items()}
        results |= {f"{name}/{key}": value for key, value in updates(library, name, sde).items()}
        results |= {f"{name}/{key}": value for key, value in losses(library, name, sde).items()}
        results |= {f"{name}/{key}": value for key, value in runs(library, name, sde).items()}
    return results


def state() -> tuple[Tensor, Tensor]:
    """States and a time for each."""
    torch.manual_seed(1)
    return torch.randn(SHAPE), torch.tensor([0.06, 0.3, 0.71, 1.0])


def formulas(library: Any, sde: Any) -> dict[str, Tensor]:
    x, t = state()
    results = {}
    for key in ("marginal_prob", "sde", "discretize"):
        results[f"{key}/0"], results[f"{key}/1"] = getattr(sde, key)(x, t)
    results["prior_logp"] = sde.prior_logp(x)
    torch.manual_seed(2)
    results["prior_sampling"] = sde.prior_sampling(SHAPE)
    score_fn = library.get_score_fn(sde, Gaussian(sde, True), train=False, continuous=True)
    results["score"] = score_fn(x, t)
    for flow in (False, True):
        reverse = sde.reverse(score_fn, probability_flow=flow)
        results[f"reverse{flow}/sde"], diffusion = reverse.sde(x, t)
        results[f"reverse{flow}/f"], results[f"reverse{flow}/G"] = reverse.discretize(x, t)
        if not flow:
            results["reverse/diffusion"] = diffusion
    return results


def updates(library: Any, name: str, sde: Any) -> dict[str, Tensor]:
    x, t = state()
    score_fn = library.get_score_fn(sde, Gaussian(sde, True), train=False, continuous=True)
    objects = {
        "euler": library.EulerMaruyamaPredictor(sde, score_fn),
        "reverse": library.ReverseDiffusionPredictor(sde, score_fn),
        "flow": library.ReverseDiffusionPredictor(sde, score_fn, probability_flow=True),
        "none": library.NonePredictor(sde, score_fn),
        "idle": library.NoneCorrector(sde, score_fn, 0.16, 1),
    }
    if name != "subvp":  # there the reference fails
        objects["ancestral"] = library.AncestralSamplingPredictor(sde, score_fn)
        objects["langevin"] = library.LangevinCorrector(sde, score_fn, 0.16, 2)
        objects["ald"] = library.AnnealedLangevinDynamics(sde, score_fn, 0.16, 2)
    results = {}
    for key, updater in objects.items():
        torch.manual_seed(3)
        results[f"{key}/x"], results[f"{key}/mean"] = updater.update_fn(x, t)
    return results


def losses(library: Any, name: str, sde: Any) -> dict[str, Tensor]:
    x, _ = state()
    results = {}
    for weighting in (False, True):
        for mean in (False, True):
            loss_fn = library.get_sde_loss_fn(sde, False, reduce_mean=mean, likelihood_weighting=weighting, eps=EPS)
            torch.manual_seed(7)
            results[f"loss/{weighting}/{mean}"] = loss_fn(Gaussian(sde, True), x)
    if name != "subvp":
        loss_fn = (library.get_smld_loss_fn if name == "ve" else library.get_ddpm_loss_fn)(sde, False)
        torch.manual_seed(8)
        results["loss/discrete"] = loss_fn(Gaussian(sde, False), x)
    shared = library.shared_predictor_update_fn, library.shared_corrector_update_fn
    x, t = state()
    model = Gaussian(sde, True)
    torch.manual_seed(9)
    results["shared/predictor"], _ = shared[0](x, t, sde, model, library.ReverseDiffusionPredictor, False, True)
    if name != "subvp":
        results["shared/corrector"], _ = shared[1](x, t, sde, model, library.LangevinCorrector, True, 0.16, 1)
    return results


def runs(library: Any, name: str, sde: Any) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    reverse, ancestral = library.ReverseDiffusionPredictor, library.AncestralSamplingPredictor
    langevin, ald = library.LangevinCorrector, library.AnnealedLangevinDynamics
    cases = {
        "reverse": (reverse, None, 1, False, True, True),
        "noisy": (reverse, None, 1, False, True, False),
        "flow": (reverse, None, 1, True, True, True),
        "langevin": (reverse, langevin, 2, False, True, True),
        "ancestral": (ancestral, ald, 1, False, True, True),
        "discrete": (ancestral, langevin, 1, False, False, True),
        "corrector": (None, langevin, 1, False, False, True),
    }
    for key, (predictor, corrector, n_steps, flow, continuous, denoise) in cases.items():
        if name == "subvp":  # there the reference fails, or steps beyond t = 0
            continue
        options = {"n_steps": n_steps, "probability_flow": flow, "continuous": continuous, "denoise": denoise, "eps": EPS, "device": "cpu"}
        sampler = library.get_pc_sampler(sde, SHAPE, predictor, corrector, identity, 0.16, **options)
        torch.manual_seed(4)
        results[f"pc/{key}"], _ = sampler(Gaussian(sde, continuous))
    model = Gaussian(sde, True)
    for denoise in (False, True):
        torch.manual_seed(5)
        sampler = library.get_ode_sampler(sde, SHAPE, lambda x: (x + 1) / 2, denoise=denoise, eps=EPS, device="cpu")
        results[f"ode{denoise}/x"], nfe = sampler(model)
        if not denoise:
            results["ode/nfe"] = torch.tensor([nfe])
    x, _ = state()
    for law in ("Rademacher", "Gaussian"):
        torch.manual_seed(6)
        likelihood = library.get_likelihood_fn(sde, lambda x: (x + 1) / 2, hutchinson_type=law, eps=EPS)
        results[f"bpd{law}"], results[f"z{law}"], nfe = likelihood(model, STD * x + MEAN)
        results[f"bpd{law}/nfe"] = torch.tensor([nfe])
    return results


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="a checkout of score_sde_pytorch")
    sys.path.insert(0, parser.parse_args().reference)
    import likelihood
    import losses as training
    import sampling
    import sde_lib
    from models import utils

    words: dict[str, Any] = {}
    for module in (sde_lib, sampling, likelihood, training, utils):
        words |= vars(module)
    results = {key: value.contiguous().clone() for key, value in collect(types.SimpleNamespace(**words)).items()}
    save_file(results, Path(__file__).with_name("migration.safetensors"))


if __name__ == "__main__":
    main()
