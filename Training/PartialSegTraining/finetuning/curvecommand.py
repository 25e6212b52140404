"""``partialseg benchmark learning-curve``: a structure that a model never saw, from one, three and five cases.

Registered by :mod:`PartialSegTraining.benchmark.command`. Nothing heavy is imported before it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import CollectionError
from PartialSegLib.terminal import table, terminal_monitor
from PartialSegTraining.finetuning.command import read_cases

if TYPE_CHECKING:
    from PartialSegTraining.finetuning.curve import Point

_NAME = "learning-curve"
_COUNTS = (1, 3, 5)


def register(kinds: Any) -> None:
    """Add ``partialseg benchmark learning-curve``."""
    parser = kinds.add_parser(
        _NAME,
        help="a new structure from 1, 3 and 5 cases: pretrained against from scratch",
        description="Teach a model a structure that it never saw, from more and more cases: its head alone, the whole "
        "network, and the same network from scratch with as many steps. Stopped, the same command goes on.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the comparison")
    parser.add_argument("--cases", type=Path, nargs="+", required=True, metavar="CASE", help="annotated case folders")
    parser.add_argument("--structure", default="right_kidney", metavar="KEY", help="default: right_kidney")
    parser.add_argument("--model", default="demo", help="the pretrained model (default: demo)")
    parser.add_argument("--held-out", type=int, default=2, metavar="N", help="last N cases to judge on (default: 2)")
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS, metavar="N", help="default: 1 3 5")
    parser.add_argument("--ways", default="quick,full,scratch", help="default: quick,full,scratch")
    parser.add_argument("--steps", type=int, default=80, metavar="N", help="of full and from scratch (default: 80)")
    parser.add_argument("--window", type=int, nargs=3, default=(48, 64, 64), metavar=("Z", "Y", "X"))
    parser.add_argument("--seed", type=int, default=0, help="decides every random choice (default: 0)")
    parser.add_argument("--preset", default="standard", choices=("fast", "standard", "paper"), help="default: standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--json", action="store_true", help="print the JSON report instead of the table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg benchmark learning-curve`` and return its exit status."""
    from PartialSegLib import catalog
    from PartialSegTraining.finetuning.contract import FineTuneOptions
    from PartialSegTraining.finetuning.curve import WAYS, LearningCurve, make_curve

    ways = [way for way in arguments.ways.split(",") if way]
    if not ways or not set(ways) <= set(WAYS):
        raise CollectionError(f"--ways {arguments.ways} is none of them.", f"Choose from: {', '.join(WAYS)}.")
    cases = read_cases(arguments.cases, (arguments.structure,))
    needed = max(arguments.counts) + arguments.held_out
    if min(arguments.counts) < 1 or arguments.held_out < 1 or len(cases) < needed:
        raise CollectionError(
            f"There are {len(cases)} cases, but {needed} are needed: {max(arguments.counts)} to learn from and "
            f"{arguments.held_out} to judge on.",
            "Give more cases, or fewer with --counts.",
        )
    try:
        # A warm-up of the head and of the network, within the same number of steps from scratch.
        warmups = max(1, arguments.steps // 8)
        options = FineTuneOptions(
            head_steps=warmups,
            warmup_steps=warmups,
            steps=max(1, arguments.steps - 2 * warmups),
            window=tuple(arguments.window),
            seed=arguments.seed,
            preset=arguments.preset,
        )
    except ValueError as error:
        raise CollectionError(f"Such a comparison is impossible: {error}.") from error
    split = len(cases) - arguments.held_out
    arguments.output.mkdir(parents=True, exist_ok=True)
    with terminal_monitor() as monitor:
        curve = LearningCurve(
            catalog.find(arguments.model),
            arguments.structure,
            cases[:split],
            cases[split:],
            arguments.output,
            options,
            device=arguments.device,
            monitor=monitor,
        )
        points = make_curve(curve, arguments.counts, ways)
    report = _write(points, arguments)
    print(json.dumps(report, indent=1) if arguments.json else _text(points))
    return 0


def picture(points: Sequence[Point], structure: str) -> str:
    """Return the curves as SVG."""
    from PartialSegTraining.finetuning.curve import WAYS
    from PartialSegTraining.report.charts import Axis, Series, line_chart

    series = [
        Series(name, [(float(point.cases), point.dice) for point in points if point.way == way])
        for way, name in WAYS.items()
        if any(point.way == way for point in points)
    ]
    most = max(point.cases for point in points)
    title = f"{structure}, never seen in pretraining (phantoms)"
    return line_chart(title, series, Axis("annotated cases", 0.5, most + 0.5), Axis("Dice", 0.0, 1.0))


def _write(points: Sequence[Point], arguments: argparse.Namespace) -> dict[str, Any]:
    """Write JSON, CSV and picture; return the JSON report."""
    report = {
        "structure": arguments.structure,
        "model": arguments.model,
        "held_out_cases": arguments.held_out,
        "steps": arguments.steps,
        "window": list(arguments.window),
        "seed": arguments.seed,
        "preset": arguments.preset,
        "points": [asdict(point) for point in points],
    }
    rows = [f"{point.way},{point.cases},{point.dice},{point.seconds}" for point in points]
    for ending, content in (
        ("json", json.dumps(report, indent=1, allow_nan=False) + "\n"),
        ("csv", "\n".join(["way,cases,dice,seconds", *rows]) + "\n"),
        ("svg", picture(points, arguments.structure)),
    ):
        with atomic_write(arguments.output / f"{_NAME}.{ending}") as file:
            file.write(content.encode("utf-8"))
    return report


def _text(points: Sequence[Point]) -> str:
    """Return the table: a row for each number of cases, a column for each way."""
    from PartialSegTraining.finetuning.curve import WAYS

    ways = [way for way in WAYS if any(point.way == way for point in points)]
    rows = []
    for count in dict.fromkeys(point.cases for point in points):
        found = {point.way: point for point in points if point.cases == count}
        rows.append((str(count), *(f"{found[way].dice:.3f}" if way in found else "" for way in ways)))
    return table(("Cases", *(WAYS[way] for way in ways)), rows, right=tuple(range(len(ways) + 1)))
