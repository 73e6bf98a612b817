"""Are DDPM, NCSN and the SDEs one model? Every bridge between them is a row of one table: claim, measured difference, bound.

    python benchmarks/ncsn_ddpm_equivalence.py                        (5 minutes on two CPU cores, 2.5 where the network is trained already)
    python benchmarks/ncsn_ddpm_equivalence.py --rows a,b,c,d,e,g     (10 seconds)

    (a) the VP SDE in 1000 steps is DDPM's chain                          (e) NCSN's loss is DDPM's, after x/alpha
    (b) ancestral sampling on it is Ho et al.'s algorithm 2               (f) a network trained as DDPM samples as an NCSN
    (c) how Euler-Maruyama, reverse diffusion and DDPM differ             (g) VP and its VE image have one probability flow
    (d) NCSN's ladder is the VE SDE on a grid

What the papers have is transcribed in _papers.py, which shares no code with the package. The exit status is 1 if a row fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from _papers import (
    BETA_1,
    BETA_T,
    LEVELS,
    MEANS,
    STDS,
    STEPS,
    WEIGHTS,
    Prediction,
    annealed_langevin,
    ddpm_table,
    ho_algorithm_2,
    ho_l_simple,
    song_ermon_loss,
    song_sigmas,
    song_smld,
    three_formulas,
)
from torch import Tensor, nn

import sde_diffusion as sd
from sde_diffusion import evaluation, training
from sde_diffusion.data import load
from sde_diffusion.evaluation.gaussian_law import gaussian_law, marginal
from sde_diffusion.solvers.external import ScipyODE
from sde_diffusion.solvers.first_order import FirstOrder

EXACT = 1e-12  # a few thousand roundings of float64
LOOP = 1e-10  # of a whole sampling run in float64
DIFFUSERS = 1e-5
DIFFUSERS_TABLES = 1e-4  # as it comes, in float32: 1 - alpha_bar_1 = 1e-4 then has 3 digits
GRADIENT = 1e-6
ORDER = 0.05  # how far a measured order may be from the claimed one
TOLERANCE = 1e-8  # of the adaptive ODE solvers
FLOW = 10 * TOLERANCE  # the local errors of some hundred steps add up
FLOORS = 3.0  # Frechet distances of real digits to real digits
FACTOR = 1.5  # between two samplers' Frechet distances; three seeds of one sampler differ by 1.2
QUICK = 50  # --quick takes so many times fewer steps
SEED = 0
SHAPE = (16, 2)  # of the batches of (b), (d), (e), (g)


class Row(NamedTuple):
    """One line of the table; it passes if measured <= bound. Where measured is None it could not be tried, and the claim says why."""

    row: str
    claim: str
    measured: float | None
    bound: float

    @property
    def passed(self) -> bool:
        return self.measured is None or self.measured <= self.bound

    def cells(self) -> tuple[str, ...]:
        measured, verdict = ("-", "skipped") if self.measured is None else (f"{self.measured:.2g}", "pass" if self.passed else "FAIL")
        return (f"{self.row}  {self.claim}", measured, f"{self.bound:.2g}", verdict)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest |ours - theirs| in units of |theirs|; a zero must be met exactly."""
    difference = (ours - theirs).abs()
    return torch.where(difference == 0, 0.0, difference / theirs.abs()).max().item()


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest |ours - theirs|."""
    return (ours - theirs).abs().max().item()


def worst(*differences: float) -> float:
    """The largest, or NaN if one is."""
    return torch.tensor(differences, dtype=torch.float64).max().item()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


# (a) The VP SDE in 1000 steps is DDPM's chain.


def vp_chain_is_ddpm() -> Iterator[Row]:
    chain, theirs = sd.VPSDE().discretize(STEPS), ddpm_table()
    nodes = sd.uniform(chain, STEPS).flip(0)
    s, t = nodes[:-1], nodes[1:]
    x, x0, variance = chain.posterior(s, t)
    beta = torch.tensor(chain.betas, dtype=torch.float64)
    for claim, ours, expected in (
        ("VPSDE().discretize(1000) has DDPM's beta", beta, theirs.beta),
        ("... its alpha_bar as alpha^2 at the nodes", chain.alpha(t) ** 2, theirs.alpha_bar),
        ("... its 1 - alpha_bar as sigma^2", chain.sigma(t) ** 2, theirs.one_minus_alpha_bar),
        ("... its posterior's weight of x_0", x0, theirs.weight_x0),
        ("... its posterior's weight of x_t", x, theirs.weight_xt),
        ("... its posterior's variance beta_tilde", variance, theirs.beta_tilde),
        ("... as an SDE exp(2f/n) = 1 - beta at the nodes", torch.exp(2 * chain.f(t) / STEPS), 1 - theirs.beta),
        ("... and g^2 = -n log(1 - beta)", chain.g(t) ** 2, -STEPS * torch.log1p(-theirs.beta)),
    ):
        yield Row("a", claim, relative(ours, expected), EXACT)


# (b) Ancestral sampling on it is Ho et al.'s algorithm 2.


def mixture(sde: sd.AffineSDE) -> sd.GaussianMixtureDenoiser:
    return sd.GaussianMixtureDenoiser(MEANS, STDS, WEIGHTS, sde)


def recorded(denoiser: sd.Denoiser, solver: sd.Solver, steps: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The start, the samples and the noise that the solver drew."""
    record = sd.Record(sd.Stream(generator()))
    start = denoiser.sde.prior_std * record(torch.empty(SHAPE, dtype=torch.float64))
    return start, sd.sample(denoiser, solver, x=start, steps=steps, noise=record), record.draws[1:]


VARIANCES = {"forward": "fixed_large", "posterior": "fixed_small"}  # ours: the name in diffusers


def ancestral_is_algorithm_2() -> Iterator[Row]:
    for variance in VARIANCES:
        start, ours, draws = recorded(mixture(sd.VPSDE().discretize(STEPS)), sd.Ancestral(variance), STEPS)
        theirs = ho_algorithm_2(start, draws, variance)
        yield Row("b", f"Ancestral({variance!r}) is Ho et al.'s algorithm 2, same noise", distance(ours, theirs), LOOP)


def ancestral_is_diffusers() -> Iterator[Row]:
    if importlib.util.find_spec("diffusers") is None:
        yield Row("b", "Ancestral is diffusers.DDPMScheduler: pip install diffusers", None, DIFFUSERS)
        return
    from diffusers import DDPMScheduler

    denoiser = mixture(sd.VPSDE().discretize(STEPS))
    for variance, name in VARIANCES.items():
        start, ours, _ = recorded(denoiser, sd.Ancestral(variance), STEPS)
        for tables, bound in (("as it comes", DIFFUSERS_TABLES), ("with float64 tables", DIFFUSERS)):
            scheduler = DDPMScheduler(STEPS, float(BETA_1), float(BETA_T), "linear", variance_type=name, clip_sample=False)
            if bound == DIFFUSERS:
                scheduler.betas = torch.linspace(float(BETA_1), float(BETA_T), STEPS, dtype=torch.float64)
                scheduler.alphas = 1 - scheduler.betas
                scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
            source = generator()
            x = torch.randn(SHAPE, generator=source, dtype=start.dtype)  # the start again; from here on it draws what ours drew
            for i in scheduler.timesteps.tolist():
                x = scheduler.step(denoiser.eps(x, (i + 1) / STEPS), i, x, generator=source).prev_sample
            yield Row("b", f"Ancestral({variance!r}) is diffusers.DDPMScheduler {tables}", distance(ours, x), bound)


# (c) How Euler-Maruyama, reverse diffusion and DDPM differ.


def one_step(solver: FirstOrder, beta: float) -> Tensor:
    """The weights of x, score and z in one step x_t -> x_s with the given beta."""
    chain, t, s = sd.DDPMChain((beta,) * 4), *torch.tensor([[0.75], [0.5]], dtype=torch.float64)
    x, x0, noise = solver.weights(chain, t, s)
    # x0_hat = (x + sigma^2 score)/alpha
    return torch.cat([x + x0 / chain.alpha(t), x0 * chain.sigma(t) ** 2 / chain.alpha(t), noise])


def three_steps(beta: float) -> dict[str, Tensor]:
    # Euler-Maruyama's beta is that of the SDE, int beta(t) dt: the other two call 1 - exp(-int beta(t) dt) by that name.
    return {
        "EulerMaruyama": one_step(sd.EulerMaruyama(), -math.expm1(-beta)),
        "ReverseDiffusion": one_step(sd.ReverseDiffusion(), beta),
        "Ancestral": one_step(sd.Ancestral("forward"), beta),
    }


def steps_differ_by_their_second_order() -> Iterator[Row]:
    betas = (0.02, 0.01, 0.005)
    for name in three_steps(betas[0]):
        difference = worst(*(relative(three_steps(beta)[name], three_formulas(beta)[name]) for beta in betas))
        yield Row("c", f"one step of {name} is its formula", difference, EXACT)
    for name, leading in (("Ancestral", (1 / 4, 1 / 2)), ("EulerMaruyama", (-1 / 8, 0.0))):
        differences = torch.stack([(three_steps(b)[name] - three_steps(b)["ReverseDiffusion"])[:2] for b in betas])
        second = torch.tensor(leading, dtype=torch.float64) * torch.tensor(betas, dtype=torch.float64)[:, None] ** 2
        remainder = (differences - second).abs().max(1).values
        ratios = (differences[:-1, 0] / differences[1:, 0]).tolist()
        claim = f"{name} - ReverseDiffusion in x falls {ratios[0]:.2f}, {ratios[1]:.2f} times as beta halves (2^2)"
        yield Row("c", claim, abs(math.log2(ratios[-1]) - 2), ORDER)
        x, score = (f"{weight:+.3g} beta^2" for weight in leading)
        ratio = (remainder[-2] / remainder[-1]).item()
        yield Row("c", f"... it is {x} x {score} score and a rest that falls {ratio:.2f} times (2^3)", abs(math.log2(ratio) - 3), ORDER)


def all_three_are_of_order_1() -> Iterator[Row]:
    """The 2-Wasserstein error of the exact output law on N(1, 0.25), started from p_1 so that the prior's error does not count."""
    sde = sd.VPSDE()
    denoiser = sd.GaussianDenoiser(1.0, 0.5, sde)
    mean, std = marginal(denoiser, sde.t_max)
    true_mean, true_std = marginal(denoiser, sde.t_min)

    def error(solver: sd.Solver, n: int) -> float:
        m, v = gaussian_law(solver.tableau(sde, sd.uniform(sde, n)), denoiser, mean=mean, std=std)
        return math.hypot(m - true_mean, v.sqrt() - true_std)

    for solver in (sd.EulerMaruyama(), sd.ReverseDiffusion(), sd.Ancestral("forward"), sd.Ancestral("posterior")):
        order = math.log2(error(solver, STEPS // 2) / error(solver, STEPS))
        yield Row("c", f"{solver} on a Gaussian is of order {order:.3f} (1)", abs(order - 1), ORDER)


# (d) NCSN's ladder is the VE SDE on a grid.


def ncsn_ladder_is_ve() -> Iterator[Row]:
    sde = sd.VESDE()
    ladder, sigmas = sde.discretize(LEVELS), torch.tensor(song_sigmas(LEVELS), dtype=torch.float64)
    nodes, times = sd.uniform(ladder, LEVELS).flip(0), torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    increments = torch.diff(sigmas**2)
    yield Row("d", "VESDE().discretize(n) has NCSN's levels", relative(ladder.sigma(nodes[1:]), sigmas), EXACT)
    yield Row("d", "... which are VESDE's at t = (i-1)/(n-1)", relative(sde.sigma(times), sigmas), EXACT)
    for name, (scale, variance) in (
        ("NCSNLadder", ladder.transition(nodes[1:-1], nodes[2:])),
        ("VESDE", sde.transition(times[:-1], times[1:])),
    ):
        difference = worst(relative(variance, increments), distance(scale, torch.ones(())))
        yield Row("d", f"... x_i | x_(i-1) ~ N(x_(i-1), sigma_i^2 - sigma_(i-1)^2) in {name}", difference, EXACT)
    for solver, ancestral in ((sd.Ancestral(), True), (sd.ReverseDiffusion(), False)):
        start, ours, draws = recorded(mixture(ladder), solver, LEVELS)
        theirs = song_smld(start, draws, ancestral=ancestral)
        yield Row("d", f"{solver} on the ladder is Song et al.'s SMLD, same noise", distance(ours, theirs), LOOP)
    solver, levels = sd.AnnealedLangevin(steps=20), 10
    start, ours, draws = recorded(mixture(sde.discretize(levels)), solver, levels)
    theirs = annealed_langevin(start, draws, solver.epsilon, solver.steps, levels)
    yield Row("d", f"{solver} is Song & Ermon's algorithm 1", distance(ours, theirs), LOOP)


# (e) NCSN's loss is DDPM's, after x/alpha.


class TinyNetwork(nn.Module):
    """W_2 tanh(W_1 (x, c_noise)), for gradients that can be compared to the last digit."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        noise, d = sd.Stream(generator()), SHAPE[1]
        self.first = nn.Parameter(noise(torch.empty(d + 1, width, dtype=torch.float64)))
        self.last = nn.Parameter(noise(torch.empty(width, d, dtype=torch.float64)))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, c_noise[:, None]], 1) @ self.first) @ self.last


def with_gradients(losses: Tensor, network: nn.Module) -> tuple[Tensor, Tensor]:
    """The losses (b,) and each one's gradient (b, p)."""
    parameters = list(network.parameters())
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return losses.detach(), torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def losses_are_one() -> Iterator[Row]:
    """score_theta(x, rho) = -eps_theta(alpha x)/rho with rho = sigma/alpha: L_simple is twice NCSN's loss and d times ours, a mean."""
    table, network, loss, d = ddpm_table(), TinyNetwork(), sd.DenoisingScoreMatching(), SHAPE[1]
    rho = (table.one_minus_alpha_bar / table.alpha_bar).sqrt()
    chain, ladder = sd.VPSDE().discretize(STEPS), sd.NCSNLadder(tuple(rho.tolist()))
    noise = sd.Stream(generator())
    x0, eps = noise(torch.empty(SHAPE, dtype=torch.float64)), noise(torch.empty(SHAPE, dtype=torch.float64))
    i = torch.linspace(1, STEPS, len(x0)).long()
    bar, rho, t = table.alpha_bar[i - 1], rho[i - 1], i.double() / STEPS

    def output(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return network(x, torch.log(sigma / alpha)[:, 0] / 4)

    def as_score(eps_theta: Prediction) -> Prediction:
        alpha = bar.sqrt()[:, None]
        return lambda x, _, sigma: -eps_theta(alpha * x, alpha, alpha * sigma) / sigma

    def as_eps(score_theta: Prediction) -> Prediction:
        return lambda x, alpha, sigma: -sigma / alpha * score_theta(x / alpha, torch.ones_like(alpha), sigma / alpha)

    def score(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output(x, alpha, sigma) / sigma

    for name, native, image, eps_theta, score_theta in (
        ("DDPM", sd.NetworkDenoiser(network, chain, sd.Epsilon()), ladder, output, as_score(output)),
        ("NCSN", sd.NetworkDenoiser(network, ladder, sd.Score()), chain, as_eps(score), score),
    ):
        reference = with_gradients(ho_l_simple(eps_theta, x0, eps, bar), network)
        for claim, other in (
            ("2 Song & Ermon's loss at rho = sigma/alpha", 2 * song_ermon_loss(score_theta, x0, eps, rho)),
            ("d DenoisingScoreMatching there", d * loss(native, x0, t=t, eps=eps)),
            ("d DenoisingScoreMatching of its image by under()", d * loss(native.under(image), x0, t=t, eps=eps)),
        ):
            values, gradients = with_gradients(other, network)
            scale = reference[1].norm(dim=1, keepdim=True)
            difference = worst(relative(values, reference[0]), distance(gradients / scale, reference[1] / scale))
            yield Row("e", f"{name} network: L_simple is {claim}, values and gradients", difference, GRADIENT)


# (f) A network trained as DDPM samples as an NCSN.


def one_network_is_both(workdir: Path, quick: bool) -> Iterator[Row]:
    """Trains the run configs/ddpm_digits.py, or takes it from workdir, and samples it as what it is and as an NCSN."""
    config = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "ddpm_digits.py"))["get_config"]()
    shrink, n = (QUICK, 36) if quick else (1, 360)
    config.steps //= shrink
    began = time.perf_counter()
    denoiser = training.train(config, workdir / ("quick" if quick else "ddpm"), resume=True)
    print(f"trained, or loaded what was trained before: {time.perf_counter() - began:.0f} s")
    dataset, ve = load(config.data), sd.VESDE()
    train, held_out = dataset.train.take(), dataset.held_out.take()
    # Close levels: 5 moves bring the noise down by 1.1 from one to the next, not by 1.4 (28 levels end at a Frechet distance of 7600).
    ladder = sd.NCSNLadder(sd.geometric_sigmas(100, ve.sigma_min, ve.sigma_max))
    lines, ratios = [], []
    for model, view, solver, full_steps in (
        ("DDPM", denoiser, "Ancestral()", STEPS),
        ("NCSN", denoiser.under(ve), "ReverseDiffusion()", 500),
        ("NCSN", denoiser.under(ve), "PredictorCorrector()", 250),
        ("NCSN", denoiser.under(ladder), "AnnealedLangevin(epsilon=6.2e-6, steps=5)", 100),
        ("NCSN", denoiser.under(ve), "FinalDenoise(AdaptiveODE())", 1),
    ):
        counter, began = sd.NFECounter(view), time.perf_counter()
        steps, shape = max(full_steps // shrink, 1), (n, *dataset.shape)
        samples = sd.sample(counter, sd.build(solver), shape=shape, steps=steps, generator=generator(), progress=True)
        seconds = time.perf_counter() - began
        quality = evaluation.quality(samples, train.x, held_out.x, labels=train.labels)
        ratios.append(quality.ratio)
        lines.append((f"as {model}, {solver}", str(counter.nfe), f"{seconds:.0f}", *quality.cells()))
    print(evaluation.table(("the network trained as DDPM, sampled", "NFE", "seconds", *evaluation.QUALITY_COLUMNS), lines) + "\n")
    for claim, measured, bound in (
        ("one network, as DDPM and NCSN: worst Frechet distance over real digits' own", max(ratios), FLOORS),
        ("... worst as NCSN over that as DDPM", max(ratios[1:]) / ratios[0], FACTOR),
    ):
        yield Row("f", claim + (" (--quick: not judged)" if quick else ""), measured, math.inf if quick else bound)


# (g) VP and its VE image have one probability flow.


def flows_coincide() -> Iterator[Row]:
    """x/alpha follows the same curve in log(sigma/alpha), whatever the SDE; differences in units of sqrt(1 + (sigma/alpha)^2)."""
    vp, ve = sd.VPSDE(), sd.VESDE()
    ve_times = sd.uniform(ve, 10)
    vp_times = vp.t_of_log_snr(ve.log_snr(ve_times))
    start = sd.Stream(generator())(torch.empty(SHAPE, dtype=torch.float64)) * ve.prior_std
    unit = torch.sqrt(1 + ve.sigma(ve_times) ** 2)[:, None, None]
    denoiser = mixture(vp)
    paths = {}
    tolerances = {"rtol": TOLERANCE, "atol": TOLERANCE}
    for method, solver in (("dopri5", sd.AdaptiveODE(**tolerances)), ("scipy", ScipyODE(**tolerances))):
        as_vp = sd.trajectory(denoiser, solver, x=start * vp.alpha(vp_times[0]), grid=vp_times)[1]
        paths["VP", method] = as_vp / vp.alpha(vp_times)[:, None, None] / unit
        paths["VE", method] = sd.trajectory(denoiser.under(ve), solver, x=start, grid=ve_times)[1] / unit
    for a, b in ((("VP", "scipy"), ("VE", "scipy")), (("VP", "dopri5"), ("VE", "dopri5")), (("VP", "dopri5"), ("VE", "scipy"))):
        yield Row("g", f"probability flow of {' by '.join(a)} is that of {' by '.join(b)}", distance(paths[a], paths[b]), FLOW)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="a,b,c,d,e,f,g", help="default: %(default)s")
    parser.add_argument("--workdir", type=Path, default=Path("runs/equivalence"), help="of row f's training; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"row f with {QUICK} times fewer steps, to try the command out")
    options = parser.parse_args(arguments)
    questions: dict[str, list[Callable[[], Iterator[Row]]]] = {
        "a": [vp_chain_is_ddpm],
        "b": [ancestral_is_algorithm_2, ancestral_is_diffusers],
        "c": [steps_differ_by_their_second_order, all_three_are_of_order_1],
        "d": [ncsn_ladder_is_ve],
        "e": [losses_are_one],
        "f": [lambda: one_network_is_both(options.workdir, options.quick)],
        "g": [flows_coincide],
    }
    chosen = options.rows.split(",")
    if not set(chosen) <= set(questions):
        parser.error(f"--rows must be some of {','.join(questions)}, got {options.rows}")
    began = time.perf_counter()
    rows = [row for name in chosen for question in questions[name] for row in question()]
    print(evaluation.table(("claim", "measured", "bound", ""), [row.cells() for row in rows]))
    failed, skipped = sum(not row.passed for row in rows), sum(row.measured is None for row in rows)
    counts = f"{len(rows) - failed - skipped} rows hold, {failed} fail, {skipped} skipped"
    print(f"{counts}; torch {torch.__version__}, seed {SEED}, {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
