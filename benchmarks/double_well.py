"""Which objective learns the score of a process without a Gaussian kernel?

    python benchmarks/double_well.py            (about 6 minutes, one thread)

dx = -x^3 dt + sqrt(2) dw, whose stationary law exp(-x^4/4)/Z is not Gaussian, from data 1/2 N(-1, 0.3^2) + 1/2 N(1, 0.3^2) at t = 0 to
t = 1. The truth is p_t by finite volumes for the Fokker-Planck equation (cells twice as wide change the score by less than 0.07 %). For
each objective the same network, batches and steps: the relative L2 error of the score under p_t at three times, Wasserstein's distance of
20000 reverse samples to the data, seconds of training. Two controls assume a Gaussian kernel where there is none: `one step` a single step
of Euler and Maruyama, `linear drift` that of dx = -kx dt + sqrt(2) dw with the same stationary variance (inf: backwards some path ran away
to infinity). The last rows are samples by the true score, and as many data. The distances of the good rows, 0.018 to 0.038, are mostly the
share of the two modes (48.4 % for 0.038), and 40 % of error at t = 0.02, where uniform times seldom train.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm
from scipy.special import gamma, gammaincinv, ndtr
from torch import Tensor

import sde_diffusion as sd
from sde_diffusion.denoisers.score_network import ScoreNetwork
from sde_diffusion.losses.implicit import FiniteDifferenceScoreMatching, ImplicitScoreMatching, SlicedScoreMatching
from sde_diffusion.losses.simulated import LastStepScoreMatching
from sde_diffusion.noise import make_noise
from sde_diffusion.shapes import sum_event
from sde_diffusion.solvers.generic import simulate_reverse

TIMES = (0.1, 0.5, 1.0)
STD = 0.3
VARIANCE = 2 * math.gamma(0.75) / math.gamma(0.25)  # of exp(-x^4/4)/Z


@dataclasses.dataclass(frozen=True)
class Quartic(sd.SDE):
    """dx = -x^3 dt + sqrt(2) dw."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def drift(self, x: Tensor, t: Any) -> Tensor:
        return -(x**3)

    def diffusion(self, t: Any) -> Tensor:
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), math.sqrt(2))

    @property
    def prior_std(self) -> float:
        return math.sqrt(VARIANCE)

    def prior_sample(
        self, shape: Sequence[int], noise: Any = None, *, generator=None, seeds=None, device="cpu", dtype=torch.float32
    ) -> Tensor:
        """x^4/4 has the law Gamma(1/4): the increasing map from a normal number z to x keeps P(|X| < |x|) = P(|Z| < |z|)."""
        z = make_noise(noise, generator=generator, seeds=seeds)(torch.empty(tuple(shape), device=device, dtype=dtype))
        magnitude = (4 * gammaincinv(0.25, torch.erf(z.double().abs() / math.sqrt(2)).cpu().numpy())) ** 0.25
        return torch.from_numpy(magnitude).to(z) * z.sign()

    def prior_log_prob(self, x: Tensor) -> Tensor:
        return sum_event(-(x**4) / 4 - math.log(gamma(0.25) / math.sqrt(2)))  # Z = Gamma(1/4)/sqrt(2)


def data(n: int, generator: torch.Generator) -> Tensor:
    signs = torch.where(torch.rand(n, 1, generator=generator) < 0.5, -1.0, 1.0)
    return signs + STD * torch.randn(n, 1, generator=generator)


class Truth:
    """p_t of the process by finite volumes: dp/dt = A p, the fluxes between n cells exponentially fitted (Scharfetter & Gummel 1969).

    With v the drift at an edge and h the cells' width, the flux from left to right is (B(-v h) p_left - B(v h) p_right)/h for B(y) =
    y/(e^y - 1); it is exact for a constant flux, so that A keeps exp(-x^4/4) and probabilities positive.
    """

    def __init__(self, n: int = 601, end: float = 3.5) -> None:
        edges = np.linspace(-end, end, n + 1)
        self.x, self.h = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
        y = -(edges[1:-1] ** 3) * self.h
        right, left = -y / np.expm1(-y) / self.h**2, y / np.expm1(y) / self.h**2
        self.generator = np.diag(right, -1) + np.diag(left, 1)
        self.generator -= np.diag(self.generator.sum(0))
        self.start = sum(np.exp(-0.5 * ((self.x - m) / STD) ** 2) for m in (-1, 1))
        self.start /= self.start.sum() * self.h

    def density(self, t: float) -> np.ndarray:
        return expm(self.generator * t) @ self.start

    def score(self, t: float) -> np.ndarray:
        return np.gradient(np.log(self.density(t)), self.h)


def score_error(truth: Truth, model: Any, t: float) -> float:
    """Relative L2 error of a score under p_t."""
    p, score = truth.density(t), truth.score(t)
    with torch.no_grad():
        learned = model.score(torch.from_numpy(truth.x).float()[:, None], t)[:, 0].numpy()
    return math.sqrt((p * (learned - score) ** 2).sum() / (p * score**2).sum())


def distance_to_data(x: Tensor) -> float:
    """Wasserstein-1 of samples (n, 1) to the data's law: the integral of the distance of the distribution functions."""
    points = np.linspace(-5, 5, 20_001)
    empirical = np.searchsorted(np.sort(x[:, 0].double().numpy()), points, side="right") / len(x)
    return np.abs(empirical - 0.5 * ndtr((points + 1) / STD) - 0.5 * ndtr((points - 1) / STD)).sum() * (points[1] - points[0])


class Exact:
    """The true score, interpolated in x and, between 101 times, in t."""

    def __init__(self, truth: Truth, sde: Quartic) -> None:
        self.sde, self.x = sde, truth.x
        step = expm(truth.generator * 0.01)
        densities = [truth.start]
        for _ in range(100):
            densities.append(step @ densities[-1])
        self.scores = np.gradient(np.log(np.maximum(densities, 1e-300)), truth.h, axis=1)

    def score(self, x: Tensor, t: Any, cond: Any = None) -> Tensor:
        i = min(int(float(t) * 100), 99)
        w = float(t) * 100 - i
        scores = (1 - w) * self.scores[i] + w * self.scores[i + 1]
        return torch.from_numpy(np.interp(x.numpy(), self.x, scores)).to(x)


class Borrowed:
    """The score of one process used for another."""

    def __init__(self, denoiser: Any, sde: Quartic) -> None:
        self.denoiser, self.sde, self.score = denoiser, sde, denoiser.score


def network(width: int = 32) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sd.MLP(dim=1, width=width, depth=2)


def train(model: Any, loss: Any, *, steps: int, batch: int, seed: int = 0, lr: float = 2e-3) -> float:
    """Seconds of Adam with a learning rate that falls to 0 as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, data(batch, generator), generator=generator).mean().backward()
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


def linear() -> sd.AffineSDE:
    """dx = -kx dt + sqrt(2) dw with the variance 1/k of the quartic law."""
    return sd.AffineSDE.from_coefficients(
        lambda t: torch.full_like(t, -1 / VARIANCE), lambda t: torch.full_like(t, math.sqrt(2)), t_min=1e-3
    )


OBJECTIVES = {
    "implicit, exact trace": ImplicitScoreMatching(steps=50),
    "sliced": SlicedScoreMatching(steps=50),
    "sliced, Gaussian, (v.s)^2": SlicedScoreMatching(steps=50, distribution="gaussian", variance_reduction=False),
    "finite differences": FiniteDifferenceScoreMatching(steps=50),
    "last step, z and -z": LastStepScoreMatching(steps=50),
    "last step, z only": LastStepScoreMatching(steps=50, antithetic=False),
    "control: one step": LastStepScoreMatching(steps=1),
    "control: linear drift": sd.DenoisingScoreMatching(),
}


def fitted(name: str, *, steps: int, batch: int, width: int = 32) -> tuple[Any, float]:
    """A model trained by an objective, and the seconds that it took."""
    if name == "control: linear drift":
        denoiser = sd.NetworkDenoiser(network(width), linear(), sd.Score())
        seconds = train(denoiser, OBJECTIVES[name], steps=steps, batch=batch)
        return Borrowed(denoiser, Quartic()), seconds
    model = ScoreNetwork(network(width), Quartic())
    return model, train(model, OBJECTIVES[name], steps=steps, batch=batch)


def measured(truth: Truth, model: Any, *, samples: int, steps: int = 500, seed: int = 1) -> tuple[list[float], float]:
    """Score errors at TIMES, and the distance of reverse samples to the data."""
    errors = [score_error(truth, model, t) for t in TIMES]
    try:
        x = simulate_reverse(model, shape=(samples, 1), steps=steps, generator=torch.Generator().manual_seed(seed))
    except ArithmeticError:  # backwards the drift is x^3, and a score that grows slower does not hold it
        return errors, math.inf
    return errors, distance_to_data(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--samples", type=int, default=20_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truth = Truth()
    print(f"{'objective':27} {' '.join(f't={t:<6}' for t in TIMES)} {'W1':8} seconds   (torch {torch.__version__})")
    for name in OBJECTIVES:
        model, seconds = fitted(name, steps=args.steps, batch=args.batch)
        errors, distance = measured(truth, model, samples=args.samples)
        print(f"{name:27} {' '.join(f'{e:<8.1%}' for e in errors)} {distance:<8.4f} {seconds:.0f}", flush=True)
    errors, distance = measured(truth, Exact(truth, Quartic()), samples=args.samples)
    print(f"{'true score':27} {' '.join(f'{e:<8.1%}' for e in errors)} {distance:<8.4f} -")
    exact = data(args.samples, torch.Generator().manual_seed(2))
    print(f"{'data':27} {' ' * 26} {distance_to_data(exact):<8.4f} -")


if __name__ == "__main__":
    main()
