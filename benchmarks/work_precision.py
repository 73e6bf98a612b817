"""What does each solver's error cost in network calls?

    python benchmarks/work_precision.py --out runs/work_precision            (about 5 minutes on 2 cores)

Runs `compare` on three models: the exact score of a ring of 8 Gaussians, that of a mixture of 10 Gaussians in 64 dimensions, and a network
trained on 8x8 digits (here, in two minutes, or `--workdir` of a run). Writes <model>.png and <model>.csv to --out: each solver on its best
grid, deterministic ones by the distance of their paths to the flow, with the flow's own tolerance as the floor, the others by the sliced
Wasserstein distance of their samples to those of the flow, with that of two sets of the flow's samples as the floor. Prints all of them.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from _problems import mix64, ring
from matplotlib import colormaps
from matplotlib.figure import Figure

import sde_diffusion as sd
from sde_diffusion import training

BUDGETS = (5, 7, 10, 15, 20, 30, 50, 100)
FEWER = {"budgets": (5, 10, 20, 50), "grids": (sd.log_snr, sd.vp_power)}  # where a call is a network's
MARKERS = "osv^D<>pXP*h"


def digits(workdir: Path, steps: int) -> sd.Denoiser:
    """The network of a run, trained first if there is none in `workdir`."""
    if not workdir.exists():
        config = training.default_config()
        config.steps = steps
        return training.fit(training.prepare(config, workdir, resume=False, overwrite=False, device="cpu")).eval()
    return training.open_checkpoint(workdir).denoiser().eval()


def draw(table: sd.WorkPrecision, tolerance: float, title: str) -> Figure:
    """Error against counted calls: deterministic solvers on the left, the others on the right."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    paths, laws = figure.subplots(1, 2)
    colors = colormaps["tab20"].colors
    curves: dict[str, list[sd.Measurement]] = {}
    for m in table.best():
        curves.setdefault(str(m.solver), []).append(m)
    order = sorted(curves, key=lambda name: curves[name][-1].error)
    for i, name in enumerate(order):
        axes = laws if curves[name][0].rms is None else paths
        style = {"color": "black", "linewidth": 2.5, "zorder": 5} if name == "auto" else {"color": colors[i % 20]}
        points = [(m.nfe, m.error) for m in curves[name] if math.isfinite(m.error)]
        axes.plot(*zip(*points, strict=True), marker=MARKERS[i % len(MARKERS)], markersize=5, label=name, **style)
    for axes, floor, label, what in (
        (paths, tolerance, "tolerance of the reference", "distance to the flow's end, root mean square"),
        (laws, table.floor, "two samples of the flow", "sliced Wasserstein distance to the flow's samples"),
    ):
        axes.axhline(floor, color="0.5", linestyle="--", label=label)
        axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel=what)
        axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
        axes.set_xlim(BUDGETS[0] * 0.7, BUDGETS[-1] * 1.2)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left" if axes is paths else "upper right")
    low, high = (f([m.error for m in table.best() if m.rms is not None and math.isfinite(m.error)]) for f in (min, max))
    paths.set_ylim(min(low, tolerance) / 2, min(high, 10.0) * 2)
    figure.suptitle(f"{title}: each solver on its best grid")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and tables; must not hold them yet")
    parser.add_argument("--workdir", type=Path, help="run of a digits network; default: one trained in --out/digits")
    parser.add_argument("--models", nargs="+", choices=("ring", "mix64", "digits"), default=["ring", "mix64", "digits"])
    parser.add_argument("--n", type=int, default=1024, help="samples per solver")
    parser.add_argument("--fast", action="store_true", help="three budgets, 32 samples and 20 training steps, to try the command out")
    arguments = parser.parse_args()
    n, budgets = (32, (5, 10, 20)) if arguments.fast else (arguments.n, BUDGETS)
    for name in arguments.models:
        for suffix in ("png", "csv"):
            if (arguments.out / f"{name}.{suffix}").exists():
                sys.exit(f"{arguments.out / name}.{suffix} exists; choose another --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        options = {"budgets": budgets}
        if name == "digits":
            options = {"budgets": budgets, "grids": FEWER["grids"]} if arguments.fast else FEWER
            denoiser = digits(arguments.workdir or arguments.out / "digits", 20 if arguments.fast else training.default_config().steps)
            shape, tolerance = (min(n, 64), 1, 8, 8), 1e-5
        else:
            denoiser = (ring if name == "ring" else mix64)(sd.VPSDE())
            shape, tolerance = (n, 2 if name == "ring" else 64), 1e-8
        table = sd.compare(denoiser, shape=shape, **options)
        table.save(arguments.out / f"{name}.csv")
        draw(table, tolerance, name).savefig(arguments.out / f"{name}.png", dpi=120)
        print(f"\n{name}\n{table}", flush=True)


if __name__ == "__main__":
    main()
