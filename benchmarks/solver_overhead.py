"""How much does sampling cost beyond the network calls that it makes?

    python benchmarks/solver_overhead.py            (about 2 minutes, one thread)

Prints, per solver, sampling time over (NFE x one bare network call), the median and quartiles over interleaved repetitions in process
CPU time, and the microseconds added per call. 1.00 is the limit. Beside it stands a bare loop: precomputed Python floats, precomputed
random numbers, the network as it is, and nothing checked. `--device cuda` measures wall-clock time with synchronisation instead.

glibc gives freed memory at the top of the heap back to the system and takes it again at the next call, or does not, as chance arranges
the heap: that moves a ratio by up to 0.04 from process to process. The benchmark therefore restarts itself with this trimming switched
off, for the bare calls and the solvers alike; `--trim` leaves it on.

The samples of AdaptiveODE leave the batch as they arrive: it is compared with bare calls on the same batches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import sde_diffusion as sd

REACH_ODE, REACH_SDE, REACH_ADAPTIVE = 1.07, 1.10, 1.10  # on the MLP
REACH_UNET = 1.01
KEEP_HEAP = {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}  # bytes


class PlainMLP(nn.Module):
    """Three hidden layers of 128 on (x, c_noise): the network on which other toolkits' samplers were measured."""

    def __init__(self, dim: int = 2, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.layers(torch.cat([x, c_noise[:, None]], 1))


def bare_loop(network: nn.Module, x: Tensor, steps: int, stochastic: bool) -> Tensor:
    """The least that a sampler can do: a call, two multiply-adds, and a third for noise that was drawn before."""
    c_noise = x.new_zeros(len(x))
    for i in range(steps):
        prediction = network(x, c_noise)
        x = (x * 0.99).add_(prediction, alpha=0.01)
        if stochastic:
            x.add_(_NOISE[i % len(_NOISE)], alpha=0.01)
    return x


_NOISE: list[Tensor] = []


def measure(functions: dict[str, tuple[Callable[[], object], int]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds per network call of each function, run in turn `repeats` times; entries are (function, network calls)."""

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function, _ in functions.values():
        function()
    for _ in range(repeats):
        for name, (function, calls) in functions.items():
            start = clock()
            function()
            seconds[name].append((clock() - start) / calls)
    return seconds


def batches(network: nn.Module, run: Callable[[], object]) -> list[tuple[Tensor, Tensor]]:
    """What the network is called with, each time."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = network.register_forward_pre_hook(lambda _, arguments: seen.append((arguments[0].clone(), arguments[1].clone())))
    run()
    hook.remove()
    return seen


def table(title: str, network: nn.Module, x: Tensor, repeats: int, calls: int, device: str) -> None:
    """Measures all solvers on one network and prints the table."""
    denoiser = sd.NetworkDenoiser(network, sd.VPSDE(), sd.Epsilon())
    generator = torch.Generator(device).manual_seed(0)
    _NOISE[:] = [torch.randn(x.shape, generator=generator, device=device) for _ in range(4)]
    c_noise = x.new_zeros(len(x))

    def bare() -> Tensor:
        prediction = x
        for _ in range(calls):
            prediction = network(x, c_noise)  # kept until the next, as every loop does
        return prediction

    def run(solver: sd.Solver, steps: int) -> Tensor:
        return sd.sample(denoiser, solver, x=x, steps=steps, generator=generator)

    reaches: dict[str, float] = {}
    half, tenth = calls // 2, max(calls // 10, 1)
    cases: dict[str, tuple[Callable[[], object], int]] = {
        "bare network calls": (bare, calls),
        f"bare loop ODE({half})": (lambda: bare_loop(network, x, half, False), half),
        f"bare loop SDE({calls}), numbers drawn before": (lambda: bare_loop(network, x, calls, True), calls),
    }
    fifth = max(calls // 5, 1)
    for solver, steps, nfe in (
        (sd.DDIM(), half, half),
        (sd.Heun(), half // 2, half // 2 * 2),
        (sd.RK4(), half // 4, half // 4 * 4),
        (sd.DPMSolver(3), fifth // 3, fifth // 3 * 3),
        (sd.DPMSolverPP(2), fifth, fifth),
        (sd.DPMSolverPP(3), fifth, fifth),
        (sd.UniPC(3), fifth, fifth),
        (sd.DEIS(3), fifth, fifth),
        (sd.IPNDM(4), fifth, fifth),
        (sd.AdamsBashforth(4, "epsilon"), fifth, fifth),
        (sd.auto(denoiser.sde, fifth).solver, fifth, fifth),
        (sd.EulerMaruyama(), calls, calls),
        (sd.Ancestral(), calls, calls),
        (sd.ReverseDiffusion(), calls, calls),
        (sd.DPMSolverPP(2, stochastic=True), fifth, fifth),
        (sd.SASolver(2), fifth, fifth),
        (sd.Churn(sd.Heun()), half // 2, half // 2 * 2),
        (sd.Renoise(sd.Midpoint()), half // 2, half // 2 * 2),
        (sd.PredictorCorrector(), half, 2 * half),
        (sd.AnnealedLangevin(steps=10), tenth, 10 * tenth),
    ):
        name = f"{solver} ({steps})"[:46]
        noisy = isinstance(solver, sd.PredictorCorrector) or solver.tableau(denoiser.sde, sd.log_snr(denoiser.sde, 8)).noise.any()
        reaches[name] = REACH_SDE if noisy else REACH_ODE
        again = max(calls // nfe, 1)  # so that all are timed over about as many calls
        cases[name] = (lambda solver=solver, steps=steps, again=again: [run(solver, steps) for _ in range(again)][-1], nfe * again)
    bases = {}
    if x.ndim == 2:
        for tolerance in (1e-5, 1e-3):
            adaptive = sd.AdaptiveODE(rtol=tolerance, atol=tolerance)
            seen = batches(network, lambda adaptive=adaptive: sd.sample(denoiser, adaptive, x=x))
            name = f"AdaptiveODE {tolerance:g} (mean batch {statistics.mean(len(states) for states, _ in seen):.0f})"
            bases[name] = f"bare calls of AdaptiveODE's batches, {tolerance:g}"
            reaches[name] = REACH_ADAPTIVE
            cases[bases[name]] = (lambda seen=seen: [network(*batch) for batch in seen][-1], len(seen))
            cases[name] = (lambda adaptive=adaptive: sd.sample(denoiser, adaptive, x=x), len(seen))
    with torch.no_grad():
        seconds = measure(cases, repeats, device)
    print(f"\n{title}; one bare call {statistics.median(seconds['bare network calls']) * 1e3:.3f} ms")
    print(f"{'':48}{'ratio':>7}  {'quartiles':>14}{'+us/NFE':>9}{'reach':>7}")
    for name, values in seconds.items():
        base = seconds[bases.get(name, "bare network calls")]
        ratios = [v / b for v, b in zip(values, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        added = (statistics.median(values) - statistics.median(base)) * 1e6
        reach = "" if name not in reaches else reaches[name] if x.ndim == 2 else REACH_UNET
        print(f"{name:48}{middle:7.3f}  [{low:.3f}, {high:.3f}]{added:9.1f}{reach:>7}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--skip-unet", action="store_true")
    parser.add_argument("--trim", action="store_true", help="leave glibc's trimming of the heap on")
    options = parser.parse_args()
    if not options.trim and not KEEP_HEAP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_HEAP})
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp, unet = PlainMLP().to(options.device), sd.UNet(sd.UNetConfig(channels=3, width=32, multipliers=(1, 2, 2))).to(options.device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1024, 2, generator=generator).to(options.device)
    print(f"torch {torch.__version__}, {options.device}, one thread")
    table("MLP 3x128, 1024 points in 2-D", mlp, x, options.repeats, 100, options.device)
    if not options.skip_unet:
        images = torch.randn(16, 3, 32, 32, generator=generator).to(options.device)
        size = sum(p.numel() for p in unet.parameters()) / 1e6
        table(f"U-Net of {size:.2f} M parameters, 16 images 3x32x32", unet, images, max(options.repeats // 3, 3), 20, options.device)


if __name__ == "__main__":
    main()
