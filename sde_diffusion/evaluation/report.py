"""The report that is kept beside the samples: what was run and what was measured, as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sde_diffusion.evaluation.classes import ClassCounts
from sde_diffusion.evaluation.levels import LevelLosses
from sde_diffusion.evaluation.likelihoods import BITS, NATS, HeldOutLikelihood
from sde_diffusion.evaluation.measurement import Measurement

FORMAT = 1  # of report.json
METRIC_COLUMNS = ("metric", "features", "value", "95 % interval", "floor", "x floor", "ideal")
LOSSES, CURVE, CLASSES = "Loss by noise level", "Quality against cost", "Samples by class"  # titles
LIKELIHOOD = "Likelihood"
BIASED = ("frechet", "sliced_wasserstein", "w2", "class_variation")  # of finite clouds, so that the floor is a scale
HOW_TO_READ = {
    "frechet": "distance of means and covariances; lower is better, and the floor as low as real samples come",
    "kid": "squared kernel distance without bias; about 0 for samples that are as good as real ones, negative by chance",
    "precision": "share of samples that lie among real ones: low means samples that look wrong",
    "recall": "share of real data that lie among samples: low means that kinds of data are missing",
    "density": "as precision, but counts how many real neighbourhoods a sample lies in; may exceed 1",
    "coverage": "share of real data with a sample nearby: low means that kinds of data are missing",
    "inception_score": "confidence and variety of a classifier's labels; higher is better, up to that of real data",
    "one_nn_accuracy": "how often the nearest neighbour tells samples from data: 0.5 is ideal, less means copies of the data",
    "c2st_accuracy": "how often a classifier tells samples from data that it was not fitted to: 0.5 is ideal",
    "c2st_p": "p-value of that classifier: below 0.001, it tells samples from data",
    "sliced_wasserstein": "mean transport distance of projections on lines; lower is better",
    "w2": "distance by optimal transport; lower is better, biased upwards for few samples, as is the floor",
    "energy": "energy distance; 0 for equal laws",
    "mmd": "kernel distance; 0 for equal laws",
    "class_variation": "share of samples that are of the wrong class for the training frequencies; 0 is ideal",
    BITS: "bits that the model needs for one dimension of held-out data, an upper bound; lower is better",
    NATS: "-log p of held-out data, in nats per sample; lower is better, and rescaled data have another",
    "class_p": "p-value of the chi-square test of the classes: below 0.001, their shares are wrong",
}


@dataclass(frozen=True)
class CurvePoint:
    """One point of the curve of quality against cost: a metric of a solver with so many network calls."""

    solver: str
    nfe: int
    metric: str
    value: float
    floor: float | None


@dataclass(frozen=True)
class Report:
    """What was measured of one set of samples, on what, and by which command: report.json, and as text report.md.

    Args:
        run: what was run: command, checkpoint, step, solver, n, nfe, seconds, versions, hardware, ...
        data: what it was compared with: name, shape, numbers of samples.
        config: of the training run.
        measurements: one for each metric and features.
        losses: by noise level.
        curve: quality against cost, solver by solver.
        classes: of the samples, where the data are labelled.
        likelihood: of held-out data, where that was asked for; its value is one of the measurements, too.
        pictures: titles and file names, relative to the report.
    """

    run: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    measurements: tuple[Measurement, ...]
    losses: LevelLosses | None = None
    curve: tuple[CurvePoint, ...] = ()
    classes: ClassCounts | None = None
    likelihood: HeldOutLikelihood | None = None
    pictures: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["measurements"] = [m.to_json() for m in self.measurements]
        content["curve"] = [dataclasses.asdict(point) for point in self.curve]
        for name in ("losses", "classes", "likelihood"):
            content[name] = None if content[name] is None else dataclasses.asdict(content[name])
        return json.loads(json.dumps({"format": FORMAT, **content}, default=str))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """The report that `to_json` wrote.

        Raises:
            ValueError: for one of another format.
        """
        if content.get("format") != FORMAT:
            raise ValueError(f"the report has format {content.get('format')}, this version reads {FORMAT}; evaluate again with --overwrite")
        losses, classes, likelihood = content["losses"], content["classes"], content.get("likelihood")  # which came later
        return cls(
            run=content["run"],
            data=content["data"],
            config=content["config"],
            measurements=tuple(map(Measurement.from_json, content["measurements"])),
            losses=None if losses is None else LevelLosses(**_tuples(losses)),
            curve=tuple(CurvePoint(**point) for point in content["curve"]),
            classes=None if classes is None else ClassCounts(**_tuples(classes)),
            likelihood=None if likelihood is None else HeldOutLikelihood(**likelihood),
            pictures=tuple((title, file) for title, file in content["pictures"]),
        )

    def to_markdown(self) -> str:
        """The report as text, with its pictures beside it."""
        run = self.run
        lines = [f"# {run['solver']} on {run['checkpoint']}", "", "## What was run", ""]
        lines += [f"- {name}: {_plain(value)}" for name, value in (*run.items(), *((f"data {k}", v) for k, v in self.data.items()))]
        lines += ["", "## Metrics", "", markdown_table(METRIC_COLUMNS, [metric_cells(m) for m in self.measurements]), ""]
        lines += [
            "95 of 100 intervals cover the mean over many such draws; the floor is what real data score in the samples' place.",
            "",
        ]
        named = dict.fromkeys(m.metric for m in self.measurements)
        lines += [f"- {name}: {HOW_TO_READ[name]}" for name in named if name in HOW_TO_READ]
        texts, files = self._sections(), dict(self.pictures)
        for title in dict.fromkeys([*files, *texts]):
            lines += ["", f"## {title}"]
            lines += ["", f"![{title}]({files[title]})"] if title in files else []
            lines += ["", *texts[title]] if title in texts else []
        lines += ["", "## Configuration", "", *(f"- {name}: `{value}`" for name, value in self.config.items()), ""]
        return "\n".join(lines)

    def _sections(self) -> dict[str, list[str]]:
        """Text by title."""
        sections = {}
        if self.likelihood is not None:
            sections[LIKELIHOOD] = likelihood_lines(self.likelihood)
        if self.losses is not None:
            losses, columns = self.losses, ("log SNR", "train", "+-", "held out", "+-", "ratio")
            parts = (losses.log_snr, losses.train, losses.train_error, losses.held_out, losses.held_out_error)
            rows = [(*(f"{x:.3g}" for x in row), ratio(row[3], row[1])) for row in zip(*parts, strict=True)]
            sections[LOSSES] = [
                f"By {self.config.get('loss')}, on {losses.n} samples of each set; +- is a standard error.",
                "Where held out lies above train, the network remembers its data.",
                "",
                markdown_table(columns, rows),
            ]
        if self.curve:
            points = [
                (p.solver, str(p.nfe), p.metric, number(p.value), ratio(p.value, p.floor) if p.metric in BIASED else "-")
                for p in self.curve
            ]
            sections[CURVE] = [markdown_table(("solver", "NFE", "metric", "value", "x floor"), points)]
        if self.classes is not None:
            n, rows = sum(self.classes.counts), []
            for label, (count, expected) in enumerate(zip(self.classes.counts, self.classes.expected, strict=True)):
                deviation = (expected * (1 - expected / n)) ** 0.5
                rows.append((str(label), str(count), f"{expected:.1f}", f"{(count - expected) / deviation:+.1f}" if deviation else "-"))
            text = f"|z| > 3 is more than chance; p = {self.classes.p_value:.2g} of the chi-square test."
            sections[CLASSES] = [text, "", markdown_table(("class", "samples", "expected", "z"), rows)]
        return sections


def likelihood_lines(found: HeldOutLikelihood) -> list[str]:
    """What was found of the likelihood, and how."""
    unit = "nats per sample" if found.levels is None else "bits per dimension"
    exactly = "the exact trace" if found.probes == 0 else f"{found.probes} random probes of the trace"
    by = f"By the probability flow at t = {found.t:.2g} with {exactly}, {found.nfe:.0f} network calls for a sample on average"
    if found.probes:
        by += f"; the probes leave a standard error of {found.probe_error:.2g} in one sample's value, which the interval includes"
    lines = [f"{number(found.value)} {unit} on {found.n} held-out samples, 95 % interval {number(found.low)} .. {number(found.high)}."]
    if found.levels is None:
        lines.append(f"That is {number(found.value / found.dimensions)} for each of {found.dimensions} dimensions.")
    else:
        noise = "uniform noise" if found.dequantization == "uniform" else "the noise of the process, cut off at half a bin"
        lines.append(f"An upper bound on the bits of {found.levels} levels, which were dequantised by {noise}.")
    return [*lines, by + "."]


def metric_cells(m: Measurement) -> tuple[str, ...]:
    """What the columns METRIC_COLUMNS show."""
    interval = "-" if m.low == m.high else f"{number(m.low)} .. {number(m.high)}"
    floor, ideal = ("-" if x is None else number(x) for x in (m.floor, m.ideal))
    return (m.metric, m.features, number(m.value), interval, floor, ratio(m.value, m.floor) if m.metric in BIASED else "-", ideal)


def number(x: float) -> str:
    """Four digits of a number."""
    return f"{x:.4g}"


def ratio(value: float, floor: float | None) -> str:
    """value/floor, where that says something."""
    return f"{value / floor:.2f}" if floor is not None and floor > 0 and value >= 0 else "-"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that Markdown understands and a text viewer shows in columns; all but the first are aligned to the right."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    cells = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in (columns, *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
