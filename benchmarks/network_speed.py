"""How fast are the U-Nets, beside those of other toolkits at equal widths?

    python benchmarks/network_speed.py --score-sde PATH --ddp PATH           (about 20 minutes, one thread)

PATH are checkouts of github.com/yang-song/score_sde_pytorch and github.com/lucidrains/denoising-diffusion-pytorch, which do not install
beside the tested versions; without them, and without diffusers, their rows are left out. Prints parameters, FLOP, images per second of a
forward pass and of a training step (forward, backward, fused Adam), and how much of the machine's peak that is; then the time of each
of our networks over that of each of theirs. No dropout. Repetitions are interleaved; median and quartiles of process CPU time, ratios
repetition by repetition. `--variants` also runs ours channels-last, under bfloat16 autocast, and compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sde_diffusion.networks import UNet, UNetConfig, ddpm_cifar10, ddpmpp_cifar10, ncsnpp_cifar10

BATCH = 32
SIZES = {  # side, channels, multipliers, level of attention: the settings of the published comparison
    "8x8x1": (8, 1, (1, 2), (1,)),
    "32x32x3": (32, 3, (1, 2, 2, 2), (1,)),
}
BLOCKS = 2


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}  # which the counter does not know by itself


@dataclasses.dataclass
class Contestant:
    """A network and how it is called."""

    name: str
    network: nn.Module
    call: Callable[[nn.Module, Tensor], Tensor]
    forward: list[float] = dataclasses.field(default_factory=list)
    step: list[float] = dataclasses.field(default_factory=list)
    flops: int = 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())


def ours(width: int, size: str) -> list[Contestant]:
    _, channels, multipliers, attention = SIZES[size]
    fields = {"channels": channels, "width": width, "multipliers": multipliers, "blocks": BLOCKS, "attention": attention, "dropout": 0.0}
    with torch.device("meta"):
        configs = {"ddpm": ddpm_cifar10().config, "ddpmpp": ddpmpp_cifar10().config, "ncsnpp": ncsnpp_cifar10().config}
    configs["slim"] = UNetConfig()
    label = torch.full((BATCH,), 0.5)
    return [
        Contestant(f"ours {kind}", UNet(dataclasses.replace(config, **fields)), lambda network, x: network(x, label))
        for kind, config in configs.items()
    ]


def score_sde(path: Path, width: int, size: str) -> list[Contestant]:
    from ml_collections import ConfigDict

    sys.path.insert(0, str(path))
    functions: dict[str, Callable[..., Tensor]] = {}
    source = (path / "op" / "upfirdn2d.py").read_text()
    exec("import torch\nfrom torch.nn import functional as F\n" + source[source.index("def upfirdn2d_native") :], functions)
    op = types.ModuleType("op")
    vars(op)["upfirdn2d"] = lambda x, k, up=1, down=1, pad=(0, 0): functions["upfirdn2d_native"](x, k, up, up, down, down, *pad, *pad)
    sys.modules["op"] = op
    from models import ddpm, ncsnpp

    side, channels, multipliers, attention = SIZES[size]
    model = {
        "nf": width,
        "ch_mult": multipliers,
        "num_res_blocks": BLOCKS,
        "attn_resolutions": tuple(side // 2**level for level in attention),
        "dropout": 0.0,
        "resamp_with_conv": True,
        "conditional": True,
        "nonlinearity": "swish",
        "normalization": "GroupNorm",
        "scale_by_sigma": False,
        "fir_kernel": [1, 3, 3, 1],
        "skip_rescale": True,
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_combine": "sum",
        "init_scale": 0.0,
        "fourier_scale": 16,
        "sigma_min": 0.01,
        "sigma_max": 50.0,
        "num_scales": 1000,
    }
    kinds = {
        "ddpm": (ddpm.DDPM, {}, True),
        "ddpmpp": (ncsnpp.NCSNpp, {"fir": False, "progressive_input": "none", "embedding_type": "positional"}, True),
        "ncsnpp": (ncsnpp.NCSNpp, {"fir": True, "progressive_input": "residual", "embedding_type": "fourier"}, False),
    }
    label = torch.full((BATCH,), 3.0)
    contestants = []
    for kind, (network, options, centered) in kinds.items():
        data = {"image_size": side, "num_channels": channels, "centered": centered}
        config = ConfigDict({"data": data, "model": model | options, "training": {"continuous": True}})
        contestants.append(Contestant(f"score_sde {kind}", network(config), lambda network, x: network(x, label)))
    return contestants


def diffusers(width: int, size: str) -> list[Contestant]:
    from diffusers import UNet2DModel

    side, channels, multipliers, attention = SIZES[size]
    levels = range(len(multipliers))
    network = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=BLOCKS,
        block_out_channels=tuple(width * m for m in multipliers),
        down_block_types=tuple("AttnDownBlock2D" if level in attention else "DownBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(levels)),
        norm_num_groups=8,
    )
    label = torch.full((BATCH,), 3.0)
    return [Contestant("diffusers UNet2DModel", network, lambda network, x: network(x, label, return_dict=False)[0])]


def denoising_diffusion_pytorch(path: Path, width: int, size: str) -> list[Contestant]:
    missing = ["torchvision", "torchvision.transforms", "torchvision.utils", "ema_pytorch", "accelerate", "pytorch_fid"]
    missing += ["pytorch_fid.inception", "pytorch_fid.fid_score", "denoising_diffusion_pytorch.fid_evaluation"]
    package = types.ModuleType("denoising_diffusion_pytorch")  # whose own __init__ imports every trainer
    package.__path__ = [str(path / "denoising_diffusion_pytorch")]
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in missing} | {package.__name__: package}):
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import Unet

        _, channels, multipliers, _ = SIZES[size]
        network = Unet(dim=width, dim_mults=multipliers, channels=channels)
    label = torch.full((BATCH,), 3.0)
    return [Contestant("denoising_diffusion_pytorch Unet", network, lambda network, x: network(x, label))]


def variants(contestants: list[Contestant]) -> list[Contestant]:
    """Our networks as they can also be run."""
    label = torch.full((BATCH,), 0.5)

    def autocast(network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(x.to(memory_format=torch.channels_last), label).float()

    def channels_last(network: nn.Module, x: Tensor) -> Tensor:
        return network(x.to(memory_format=torch.channels_last), label)

    made = []
    for c in contestants:
        if c.name in ("ours ddpmpp", "ours ncsnpp"):
            config = c.network.config
            made.append(Contestant(f"{c.name}, channels last", UNet(config).to(memory_format=torch.channels_last), channels_last))
            made.append(Contestant(f"{c.name}, bfloat16", UNet(config).to(memory_format=torch.channels_last), autocast))
            compiled: nn.Module = torch.compile(UNet(config))  # type: ignore[assignment]
            made.append(Contestant(f"{c.name}, compiled", compiled, lambda network, x: network(x, label)))
    return made


def measure(contestants: list[Contestant], x: Tensor, repetitions: int) -> None:
    optimizers = [torch.optim.Adam(c.network.parameters(), 1e-4, fused=True) for c in contestants]
    for c in contestants:
        with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, torch.no_grad():
            c.call(getattr(c.network, "_orig_mod", c.network), x)  # a compiled network would be compiled in the counter's mode
        c.flops = counter.get_total_flops()
    for repetition in range(-1, repetitions):  # the first warms up
        for c, optimizer in zip(contestants, optimizers, strict=True):
            c.network.eval()
            with torch.no_grad():
                start = time.process_time()
                c.call(c.network, x)
                forward = time.process_time() - start
            c.network.train()
            start = time.process_time()
            optimizer.zero_grad(set_to_none=True)
            c.call(c.network, x).square().mean().backward()
            optimizer.step()
            step = time.process_time() - start
            if repetition >= 0:
                c.forward.append(forward)
                c.step.append(step)


def peaks(repetitions: int = 5) -> dict[str, float]:
    """GFLOP/s of a product of matrices and of a convolution, the best of some."""

    def best(call: Callable[[], Tensor], flops: float) -> float:
        times = []
        for _ in range(repetitions):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return flops / min(times) / 1e9

    a, b = torch.randn(2, 1024, 1024).unbind()
    x, w = torch.randn(BATCH, 64, 32, 32), torch.randn(64, 64, 3, 3)
    return {
        "matmul 1024": best(lambda: a @ b, 2 * 1024**3),
        "conv 3x3, 64 channels, 32x32": best(lambda: nn.functional.conv2d(x, w, padding=1), 2 * BATCH * 64 * 64 * 9 * 32 * 32),
    }


def quartiles(times: list[float]) -> str:
    low, middle, high = statistics.quantiles([1e3 * t for t in times], n=4)
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def ratio(times: list[float], others: list[float]) -> float:
    return statistics.median([a / b for a, b in zip(times, others, strict=True)])


def report(contestants: list[Contestant], title: str) -> None:
    print(f"\n{title}\n")
    print("| network | params M | forward GFLOP | forward ms | images/s | step ms | images/s | step GFLOP/s | us per 1k params |")
    print("|---|---|---|---|---|---|---|---|---|")
    for c in contestants:
        forward, step = statistics.median(c.forward), statistics.median(c.step)
        print(
            f"| {c.name} | {c.parameters / 1e6:.2f} | {c.flops / 1e9:.2f} | {quartiles(c.forward)} | {BATCH / forward:.0f}"
            f" | {quartiles(c.step)} | {BATCH / step:.0f} | {3 * c.flops / step / 1e9:.1f} | {1e6 * step / (c.parameters / 1e3):.0f} |"
        )
    mine = [c for c in contestants if c.name.startswith("ours")]
    peers = [c for c in contestants if not c.name.startswith("ours")]
    if not peers:
        return
    print("\n| time, over that of | " + " | ".join(c.name for c in peers) + " |\n|---|" + "---|" * len(peers))
    for c in mine:
        ratios = [
            " / ".join(
                f"{statistics.median([a / b for a, b in zip(x, y, strict=True)]):.2f}"
                for x, y in ((c.forward, p.forward), (c.step, p.step))
            )
            for p in peers
        ]
        print(f"| {c.name} (forward / step) | " + " | ".join(ratios) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score-sde", type=Path, help="a checkout of score_sde_pytorch")
    parser.add_argument("--ddp", type=Path, help="a checkout of denoising-diffusion-pytorch")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--variants", action="store_true", help="channels last, bfloat16 and compiled, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}, width {options.width}, {options.repetitions} repetitions")
    print("; ".join(f"{name} {peak:.0f} GFLOP/s" for name, peak in peaks().items()))
    for size in options.sizes:
        side, channels, _, _ = SIZES[size]
        contestants = ours(options.width, size)
        if options.variants:
            contestants += variants(contestants)
        if options.score_sde:
            contestants += score_sde(options.score_sde, options.width, size)
        with contextlib.suppress(ImportError):
            contestants += diffusers(options.width, size)
        if options.ddp:
            contestants += denoising_diffusion_pytorch(options.ddp, options.width, size)
        measure(
            contestants, torch.randn(BATCH, channels, side, side), options.repetitions if side < 32 else max(3, options.repetitions // 2)
        )
        report(contestants, f"{size}, width {options.width}")


if __name__ == "__main__":
    main()
