"""Compares runs by their reports: metrics with intervals, configurations, pictures and loss curves.

sde-diffusion compare runs/vp_digits runs/ve_digits
sde-diffusion compare runs/vp_digits/evaluation/00002500-DDIM-eta=0.0-seed=0-n=720 runs/ve_digits --out comparison

A run is a workdir, whose newest report counts, or the folder of a report; sde-diffusion evaluate writes them.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sde_diffusion import evaluation, plotting, training
from sde_diffusion.cli.evaluate import FOLDER, JSON
from sde_diffusion.evaluation.measurement import Measurement
from sde_diffusion.evaluation.report import Report, markdown_table, number
from sde_diffusion.files import write_atomically

RUN_FIELDS = ("step", "ema", "solver", "grid", "nfe", "guidance", "classes", "n", "seed", "seconds", "hardware")
PICTURES = ("samples.png", "loss_by_level.png", "curve.png", "classes.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="workdir, or folder of a report; two or more")
    parser.add_argument("--out", type=Path, help="folder for compare.md, compare.json and pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace a comparison that is there")


def run(arguments: argparse.Namespace) -> None:
    if len(arguments.runs) < 2:
        raise ValueError(f"a comparison needs at least 2 runs, got {arguments.runs[0]} alone; give another")
    out = arguments.out
    if out is not None and (out / "compare.json").exists() and not arguments.overwrite:
        raise FileExistsError(f"{out} holds a comparison; add --overwrite to replace it, or choose another --out")
    folders = dict(zip(short_names(arguments.runs), map(report_folder, arguments.runs), strict=True))
    reports = {name: Report.from_json(json.loads((folder / JSON).read_text())) for name, folder in folders.items()}
    warnings = check(reports)
    columns, metrics = metric_table(reports)
    fields = differences({name: {**report.config, **{f: report.run.get(f) for f in RUN_FIELDS}} for name, report in reports.items()})
    print("".join(f"warning: {warning}\n" for warning in warnings) + evaluation.table(columns, metrics))
    print("\n" + (evaluation.table(("differs", *reports), fields) if fields else "the configurations are equal"))
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(reports, folders, out)
    lines = [f"# {' against '.join(reports)}", "", *(f"- {name}: {folder}" for name, folder in folders.items()), ""]
    lines += [f"Warning: {warning}." for warning in warnings]
    lines += ["## Metrics", "", markdown_table(columns, metrics), ""]
    lines += ["Intervals are of 95 %. Where two are disjoint, the runs differ; where they overlap, these samples cannot tell.", ""]
    lines += [
        "## What differs",
        "",
        markdown_table(("field", *reports), fields) if fields else "Nothing: the configurations are equal.",
        "",
    ]
    for title, file in pictures:
        lines += [f"## {title}", "", f"![{title}]({file})", ""]
    write_atomically(out / "compare.md", "\n".join(lines).encode())
    content = {name: {"folder": str(folders[name]), **report.to_json()} for name, report in reports.items()}
    write_atomically(out / "compare.json", json.dumps({"runs": content, "warnings": warnings, "differs": fields}, indent=1).encode())
    print(f"\n{out / 'compare.md'}")


def report_folder(path: Path) -> Path:
    """The folder of the newest report of a workdir, or the folder itself, where it holds one.

    Raises:
        FileNotFoundError: where there is no report.
    """
    if (path / JSON).exists():
        return path
    found = sorted((path / FOLDER).glob(f"*/{JSON}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"no report in {path}; write one with `sde-diffusion evaluate --workdir {path}`")
    return found[-1].parent


def short_names(paths: list[Path]) -> list[str]:
    """What is left of paths when the beginning and end that all share is taken away; numbered where that is not unique."""
    parts = [path.resolve().parts for path in paths]
    while min(map(len, parts)) > 1 and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    names = ["/".join(p) for p in parts]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def check(reports: Mapping[str, Report]) -> list[str]:
    """What makes the comparison less than fair, in words.

    Raises:
        ValueError: if the runs were compared with different data, or have no metric in common.
    """
    (first, one), *others = reports.items()
    warnings = []
    for name, report in others:
        if report.data != one.data:
            raise ValueError(
                f"{first} was measured on {one.data}, {name} on {report.data}: their numbers say nothing about each other; evaluate "
                "both on the same data"
            )
        if report.run["n"] != one.run["n"]:
            warnings.append(
                f"{first} has {one.run['n']} samples, {name} {report.run['n']}: biased metrics differ by that alone; compare each with "
                "its floor, or evaluate both with the same --n"
            )
        missing = sorted({f"{m} in {f}" for m, f in set(_by_metric(one)) ^ set(_by_metric(report))})
        if missing:
            warnings.append(f"{first} and {name} do not both have {', '.join(missing)}")
    if not set.intersection(*(set(_by_metric(report)) for report in reports.values())):
        raise ValueError(f"{' and '.join(reports)} have no metric in common; evaluate them with the same --metrics and --features")
    return warnings


def _by_metric(report: Report) -> dict[tuple[str, str], Measurement]:
    return {(m.metric, m.features): m for m in report.measurements}


def metric_table(reports: Mapping[str, Report]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: each metric of each run with its interval, and whether the intervals overlap."""
    found = {name: _by_metric(report) for name, report in reports.items()}
    rows = []
    for key in dict.fromkeys(key for metrics in found.values() for key in metrics):
        measured = [metrics.get(key) for metrics in found.values()]
        floor = next((m.floor for m in measured if m is not None), None)
        rows.append((*key, *map(_cell, measured), "-" if floor is None else number(floor), verdict(measured)))
    return ("metric", "features", *reports, "floor", "intervals"), rows


def _cell(m: Measurement | None) -> str:
    if m is None:
        return "-"
    return number(m.value) if m.low == m.high else f"{number(m.value)} ({number(m.low)} .. {number(m.high)})"


def verdict(measured: list[Measurement | None]) -> str:
    """Whether the intervals of a metric overlap; of three runs or more, how many pairs are disjoint."""
    if any(m is None or not m.low < m.high for m in measured):
        return "-"
    present = [m for m in measured if m is not None]
    pairs = [(a, b) for i, a in enumerate(present) for b in present[i + 1 :]]
    disjoint = sum(a.high < b.low or b.high < a.low for a, b in pairs)
    if len(pairs) == 1:
        return "disjoint" if disjoint else "overlap"
    return f"{disjoint} of {len(pairs)} pairs disjoint" if disjoint else "all overlap"


def differences(fields: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The fields that are not equal in all runs, with their values."""
    names = dict.fromkeys(name for values in fields.values() for name in values)
    rows = [(name, *(str(values.get(name, "-")) for values in fields.values())) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _pictures(reports: Mapping[str, Report], folders: Mapping[str, Path], out: Path) -> list[tuple[str, str]]:
    """Draws what all reports have side by side, and the loss curves together; titles and file names."""
    made = []
    titles = {file: title for report in reports.values() for title, file in report.pictures}
    for file in PICTURES:
        if all(file in dict(report.pictures).values() and (folders[name] / file).exists() for name, report in reports.items()):
            plotting.side_by_side({name: folder / file for name, folder in folders.items()}, out / file)
            made.append((titles.get(file, file), file))
    logs = {name: Path(report.run["workdir"]) / training.LOG for name, report in reports.items()}
    if all(log.exists() for log in logs.values()):
        plotting.loss_curves(logs, out / "loss.png")
        made.append(("Training loss", "loss.png"))
    return made
