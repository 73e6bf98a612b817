"""How many images per second does a whole training step take in, beside the training steps of other toolkits at equal widths?

    python benchmarks/training_speed.py --score-sde PATH --ddp PATH --edm PATH       (about 5 minutes, one thread, on a quiet machine)
    python benchmarks/training_speed.py --flags

PATH are checkouts of github.com/yang-song/score_sde_pytorch, github.com/lucidrains/denoising-diffusion-pytorch and
github.com/NVlabs/edm, which do not install beside the tested versions; without them, and without diffusers, their rows are left out.

A step draws the data, the times and the noise, and does the loss, its gradient, clipping, the optimiser and the moving average, each
toolkit with its own loss, optimiser and average, as its own training script puts them together. No dropout. Each toolkit runs in a
process of its own, of which ours keeps the memory that it frees (training/memory.py; --no-keep: not). Repetitions are interleaved; median
and quartiles of process CPU time (on other devices: of wall time), ratios repetition by repetition. A forward pass has the FLOP that
torch's counter finds, a step three times as many. At equal FLOP a step's images per second are as its GFLOP per second.

`--flags` measures instead what each option of our training is worth: time, and the loss after some steps from one seed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import network_speed
import torch
from network_speed import BATCH, BLOCKS, SIZES, quartiles, ratio
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

import sde_diffusion as sd
from sde_diffusion.training.ema import Averages
from sde_diffusion.training.memory import keep_freed_memory

CLIP, RATE, DECAY = 1.0, 2e-4, 0.999


@dataclasses.dataclass
class Trainer:
    """A training step in its parts.

    Args:
        network: what is trained.
        loss: the loss of a batch of data; draws the times and the noise.
        optimizer: of the network's parameters.
        average: follows the weights.
        clip: bounds the gradient.
    """

    name: str
    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    average: Callable[[], None]
    clip: Callable[[], Any] | None = None
    parts: int = 1
    whole: list[float] = dataclasses.field(default_factory=list)
    update: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    flops: int = 0

    def step(self, data: Tensor) -> tuple[float, float, float]:
        """Trains on a batch; seconds of the whole step, seconds of its optimiser and average, and the loss."""
        now, total = clock(data.device), 0.0
        start = now()
        self.optimizer.zero_grad(set_to_none=True)
        for part in data[torch.randint(len(data), (BATCH,), device=data.device)].chunk(self.parts):
            loss = self.loss(part) / self.parts
            loss.backward()
            total += loss.item()
        if self.clip is None:
            clip_grad_norm_(self.network.parameters(), CLIP)
        else:
            self.clip()
        middle = now()
        self.optimizer.step()
        self.average()
        end = now()
        return end - start, end - middle, total


def clock(device: torch.device) -> Callable[[], float]:
    if device.type == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now


def ours(width: int, size: str) -> list[Trainer]:
    return [_ours(c.name, c.network) for c in network_speed.ours(width, size)]


def ours_compiled(width: int, size: str) -> list[Trainer]:
    return [_ours(f"{c.name}, compiled", c.network, compiled=True) for c in network_speed.ours(width, size)]


def _ours(
    name: str,
    network: nn.Module,
    *,
    bfloat16: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
    tf32: bool = False,
    averages: int = 1,
    fused: bool = True,
    parts: int = 1,
) -> Trainer:
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    device = next(network.parameters()).device
    average = Averages(network, decays=[DECAY ** (i + 1) for i in range(averages)])
    called: nn.Module = torch.compile(network) if compiled else network  # type: ignore[assignment]
    denoiser, objective = sd.NetworkDenoiser(called, sd.VPSDE(), sd.Epsilon()), sd.DenoisingScoreMatching()
    generator = torch.Generator(device).manual_seed(0)
    number = itertools.count()

    def loss(data: Tensor) -> Tensor:
        if channels_last:
            data = data.contiguous(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bfloat16):
            return objective(denoiser, data, generator=generator).mean()

    optimizer = torch.optim.Adam(network.parameters(), RATE, fused=fused, foreach=None if fused else True)
    return Trainer(name, network, loss, optimizer, lambda: average.update(network, next(number)), parts=parts)


def score_sde(path: Path, width: int, size: str) -> list[Trainer]:
    contestants = network_speed.score_sde(path, width, size)
    import losses
    import sde_lib
    from ml_collections import ConfigDict
    from models.ema import ExponentialMovingAverage

    config = ConfigDict({"optim": {"optimizer": "Adam", "lr": RATE, "beta1": 0.9, "eps": 1e-8, "weight_decay": 0.0}})

    def trainer(c: network_speed.Contestant) -> Trainer:
        sde = sde_lib.VESDE() if c.name.endswith("ncsnpp") else sde_lib.VPSDE()
        objective = losses.get_sde_loss_fn(sde, train=True, reduce_mean=True, continuous=True, likelihood_weighting=False)
        average = ExponentialMovingAverage(c.network.parameters(), decay=DECAY)
        optimizer = losses.get_optimizer(config, c.network.parameters())
        return Trainer(c.name, c.network, lambda x: objective(c.network, x), optimizer, lambda: average.update(c.network.parameters()))

    return [trainer(c) for c in contestants]


def edm(path: Path, width: int, size: str) -> list[Trainer]:
    sys.path.insert(0, str(path))
    from training.loss import EDMLoss
    from training.networks import EDMPrecond

    side, channels, multipliers, attention = SIZES[size]
    network = EDMPrecond(
        side,
        channels,
        model_type="SongUNet",
        model_channels=width,
        channel_mult=list(multipliers),
        num_blocks=BLOCKS,
        attn_resolutions=[side // 2**level for level in attention],
        dropout=0.0,
    )
    averaged, objective = copy.deepcopy(network).eval().requires_grad_(False), EDMLoss()

    def clip() -> None:  # as its training loop has it: what is not finite becomes so
        for p in network.parameters():
            if p.grad is not None:
                torch.nan_to_num(p.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=p.grad)

    def average() -> None:
        for mean, p in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.copy_(p.detach().lerp(mean, DECAY))

    optimizer = torch.optim.Adam(network.parameters(), RATE)
    return [Trainer("EDM SongUNet", network, lambda x: objective(network, x).sum() / len(x) / x[0].numel(), optimizer, average, clip)]


def diffusers(width: int, size: str) -> list[Trainer]:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    def trainer(c: network_speed.Contestant) -> Trainer:
        scheduler = DDPMScheduler(1000)
        average = EMAModel(c.network.parameters(), decay=DECAY, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

        def loss(x: Tensor) -> Tensor:
            noise, t = torch.randn_like(x), torch.randint(1000, (len(x),), device=x.device)
            return nn.functional.mse_loss(c.network(scheduler.add_noise(x, noise, t), t).sample, noise)

        optimizer = torch.optim.AdamW(c.network.parameters(), RATE, betas=(0.95, 0.999), weight_decay=1e-6)
        return Trainer(c.name, c.network, loss, optimizer, lambda: average.step(c.network.parameters()))

    return [trainer(c) for c in network_speed.diffusers(width, size)]


def denoising_diffusion_pytorch(path: Path, width: int, size: str) -> list[Trainer]:
    import ema_pytorch

    def trainer(c: network_speed.Contestant) -> Trainer:
        process = c.network.forward.__globals__["GaussianDiffusion"]  # its module was forgotten with what had to be mocked
        diffusion = process(c.network, image_size=SIZES[size][0])
        average = ema_pytorch.EMA(c.network, beta=DECAY, update_every=10)
        optimizer = torch.optim.Adam(c.network.parameters(), RATE, betas=(0.9, 0.99))
        return Trainer(c.name, c.network, diffusion, optimizer, average.update)

    return [trainer(c) for c in network_speed.denoising_diffusion_pytorch(path, width, size)]


def measure(trainers: list[Trainer], data: Tensor, repetitions: int, warm: int = 2) -> None:
    for repetition in range(-warm, repetitions):
        for trainer in trainers:
            trainer.network.train()
            whole, update, loss = trainer.step(data)
            trainer.losses.append(loss)
            if repetition >= 0:
                trainer.whole.append(whole)
                trainer.update.append(update)


def flops(network: nn.Module, x: Tensor) -> int:
    """Of a forward pass."""
    label = torch.full((len(x),), 0.5, device=x.device)
    with FlopCounterMode(display=False, custom_mapping=network_speed.FUSED) as counter, torch.no_grad():
        network(x, label)
    return counter.get_total_flops()


@dataclasses.dataclass(frozen=True)
class Toolkit:
    """Who makes trainers, and whether their process keeps freed memory, as our training does."""

    make: Callable[..., list[Trainer]]
    arguments: tuple[Any, ...]
    keeps: bool = False


@dataclasses.dataclass
class Row:
    """What is known of a trainer that lives in another process."""

    name: str
    parameters: int
    flops: int
    pipe: Connection
    index: int
    whole: list[float] = dataclasses.field(default_factory=list)
    update: list[float] = dataclasses.field(default_factory=list)


def _work(pipe: Connection, toolkit: Toolkit, size: str, device: str) -> None:
    """A process with the trainers of one toolkit: tells who they are, then steps the one whose index arrives, until None does."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if toolkit.keeps:
        keep_freed_memory()
    data = images(size, device)
    try:
        with torch.device(device):
            trainers = toolkit.make(*toolkit.arguments)
    except ImportError as error:
        print(f"without {toolkit.make.__name__}: {error}", file=sys.stderr)
        trainers = []
    for trainer in trainers:
        trainer.network.train()
    pipe.send([(t.name, sum(p.numel() for p in t.network.parameters()), flops(t.network, data[:BATCH])) for t in trainers])
    while (index := pipe.recv()) is not None:
        pipe.send(trainers[index].step(data)[:2])


def race(toolkits: list[Toolkit], size: str, device: str, repetitions: int, warm: int = 2) -> list[Row]:
    """Steps every trainer in turn, each toolkit in a process of its own: what one does to memory and threads does not touch another."""
    context = multiprocessing.get_context("spawn")
    rows: list[Row] = []
    processes = []
    for toolkit in toolkits:
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=_work, args=(theirs, toolkit, size, device)))
        processes[-1].start()
        found = mine.recv()
        rows += [Row(*facts, mine, index) for index, facts in enumerate(found)]
        if not found:
            mine.send(None)
    for repetition in range(-warm, repetitions):
        for row in rows:
            row.pipe.send(row.index)
            whole, update = row.pipe.recv()
            if repetition >= 0:
                row.whole.append(whole)
                row.update.append(update)
    for pipe in {id(row.pipe): row.pipe for row in rows}.values():
        pipe.send(None)
    for process in processes:
        process.join(timeout=60)
    return rows


def report(rows: list[Row], peak: float) -> None:
    """The table: "update" is the share of the optimiser and average, and the best neighbour the one with most FLOP per second."""
    speed = {row.name: row.flops / statistics.median(row.whole) for row in rows}
    peers = [row for row in rows if not row.name.startswith("ours")]
    best = max(peers or rows, key=lambda row: speed[row.name])
    heads = "step", "params M", "forward GFLOP", "ms [quartiles]", "images/s", "GFLOP/s", f"of {peak:.0f}", "update", f"over {best.name}"
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        whole, rate = statistics.median(row.whole), 3 * speed[row.name] / 1e9
        cells = [row.name, f"{row.parameters / 1e6:.2f}", f"{row.flops / 1e9:.2f}", quartiles(row.whole), f"{BATCH / whole:.0f}"]
        cells += [f"{rate:.1f}", f"{rate / peak:.0%}", f"{ratio(row.update, row.whole):.1%}"]
        print(f"| {' | '.join(cells)} | {row.flops / best.flops / ratio(row.whole, best.whole):.2f} |")


def flags(width: int, size: str, device: str) -> list[Trainer]:
    """Our training with one option changed at a time; the first is without any."""
    *_, network = (c.network for c in network_speed.ours(width, size) if c.name == "ours ddpmpp")
    changes: dict[str, dict[str, Any]] = {
        "float32": {},
        "bfloat16": {"bfloat16": True},
        "channels last": {"channels_last": True},
        "bfloat16, channels last": {"bfloat16": True, "channels_last": True},
        "compiled": {"compiled": True},
        "checkpointing": {},
        "accumulate 4": {"parts": 4},
        "Adam foreach": {"fused": False},
        "4 averages": {"averages": 4},
    }
    if device != "cpu":
        changes |= {"TF32": {"tf32": True}, "TF32, channels last": {"tf32": True, "channels_last": True}}

    def copied(name: str) -> nn.Module:
        if name != "checkpointing":
            return copy.deepcopy(network)
        other = sd.UNet(dataclasses.replace(network.config, checkpointing=True))
        other.load_state_dict(network.state_dict())
        return other

    return [_ours(name, copied(name).to(device), **options) for name, options in changes.items()]


def report_flags(trainers: list[Trainer]) -> None:
    base = trainers[0]
    print("\n| our step | ms [quartiles] | images/s | time, over float32's | optimiser, averages | mean of the last 5 losses |")
    print("|---|---|---|---|---|---|")
    for t in trainers:
        print(
            f"| {t.name} | {quartiles(t.whole)} | {BATCH / statistics.median(t.whole):.0f} | {ratio(t.whole, base.whole):.2f}"
            f" | {ratio(t.update, t.whole):.1%} | {statistics.mean(t.losses[-5:]):.4f} |"
        )


def images(size: str, device: str) -> Tensor:
    side, channels, _, _ = SIZES[size]
    return torch.rand(512, channels, side, side, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score-sde", type=Path, help="a checkout of score_sde_pytorch")
    parser.add_argument("--ddp", type=Path, help="a checkout of denoising-diffusion-pytorch")
    parser.add_argument("--edm", type=Path, help="a checkout of edm")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=15, help="at 8x8; at 32x32 half as many")
    parser.add_argument("--compiled", action="store_true", help="ours by torch.compile, too")
    parser.add_argument("--flags", action="store_true", help="what our own options are worth, instead")
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True, help="whether ours keeps freed memory, as it trains")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = network_speed.peaks()
    print(
        f"torch {torch.__version__}, one thread, batch {BATCH}, width {options.width}, {options.repetitions} repetitions, {options.device}"
    )
    print("; ".join(f"{name} {value:.0f} GFLOP/s" for name, value in peak.items()))
    for size in options.sizes:
        width, repetitions = options.width, options.repetitions if SIZES[size][0] < 32 else max(3, options.repetitions // 2)
        print(f"\n{size}")
        if options.flags:
            if options.keep:
                keep_freed_memory()
            trainers = flags(width, size, options.device)
            measure(trainers, images(size, options.device), repetitions)
            report_flags(trainers)
            continue
        toolkits = [Toolkit(ours, (width, size), keeps=options.keep), Toolkit(diffusers, (width, size))]
        if options.compiled:
            toolkits.append(Toolkit(ours_compiled, (width, size), keeps=options.keep))
        for make, path in ((score_sde, options.score_sde), (edm, options.edm), (denoising_diffusion_pytorch, options.ddp)):
            if path is not None:
                toolkits.append(Toolkit(make, (path, width, size)))
        report(race(toolkits, size, options.device, repetitions), max(peak.values()))


if __name__ == "__main__":
    main()
