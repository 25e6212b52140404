"""The benchmark on paper: DoDNet's Table 6 and Figure 4 for the phantoms, as Markdown, CSV, JSON and SVG.

Called by the command.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import PartialSegLib
from PartialSegLib.structures import LabelSpace
from PartialSegTraining.benchmark.results import Estimate, SystemResult, structure_groups
from PartialSegTraining.benchmark.verdicts import verdicts
from PartialSegTraining.recipe import Recipe
from PartialSegTraining.report.charts import Mark, axis_around, mark_chart

_FORMAT, _VERSION = "partialseg-benchmark-phantoms", 1


def markdown(results: Sequence[SystemResult], recipe: Recipe, hardware: str) -> str:
    """Return the whole report: settings, both tables, what they confirm, and how to repeat it.

    Parameters
    ----------
    results : sequence of SystemResult
        Rows.
    recipe : Recipe
        What all systems have in common; without phantoms where they were the user's own.
    hardware : str
        What it ran on, in words.
    """
    space = recipe.tasks
    parts = [
        "# Every system on partially labeled phantoms",
        _settings(results, recipe, hardware),
        "## Table 6: Dice",
        "Dice in percent, mean ± standard deviation over seeds; organ and tumor of each task, and the mean of all "
        "structures. *Published* is the average of DoDNet's Table 6 on MOTS: other data and full-size networks, "
        "given for the order alone.",
        _dice_table(results, space),
        "## Figure 4: size, speed and accuracy",
        "*Passes* is how often the engine computes features of a window to answer all tasks. Seconds were measured "
        "while the benchmark ran: compare them within this table only. HD95 is the mean over cases in which a "
        "structure was found at all.",
        _speed_table(results, space),
        "![Dice against time per case](benchmark-phantoms.svg)",
        "## What it says about the papers",
        "\n".join(f"- {sentence}" for sentence in verdicts(results, space)),
    ]
    return "\n\n".join(parts) + "\n"


def text(results: Sequence[SystemResult], space: LabelSpace) -> str:
    """Return the two tables for a terminal."""
    from PartialSegLib.terminal import table

    parts = []
    for header, rows in (_dice_cells(results, space), _speed_cells(results, space)):
        parts.append(table(header, rows, right=range(1, len(header))))
    return "\n\n".join([*parts, *verdicts(results, space)])


def csv_rows(results: Sequence[SystemResult], space: LabelSpace) -> str:
    """Return one line for each structure of each run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("system", "seed", "steps", "structure", "dice", "hd95_mm", "parameters", "passes", "case_seconds"))
    for result in results:
        for run in result.runs:
            for key in space.select():
                dice, hd95 = run.dice.get(key), run.hd95_mm.get(key)
                figures = ("" if value is None else value for value in (dice, hd95))
                last = (run.parameters, run.passes, run.case_seconds)
                writer.writerow((run.system, run.seed, run.budget.steps * result.system.rounds, key, *figures, *last))
    return stream.getvalue()


def document(results: Sequence[SystemResult], recipe: Recipe, hardware: str) -> dict[str, Any]:
    """Return everything as a JSON document."""
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "partialseg": PartialSegLib.__version__,
        "hardware": hardware,
        "window": list(recipe.sampling.window),
        "batch": recipe.sampling.batch,
        "spacing_mm": list(recipe.preprocessing.spacing),
        "phantoms": None if recipe.phantoms is None else asdict(recipe.phantoms),
        "systems": [
            {
                "key": result.system.key,
                "name": result.system.name,
                "published_dice": result.system.published_dice,
                "steps": result.runs[0].budget.steps * result.system.rounds,
                "parameters": result.parameters,
                "passes": result.passes,
                "average_dice": _json(result.average_dice),
                "average_hd95_mm": _json(result.average_hd95),
                "case_seconds": _json(result.case_seconds),
                "train_seconds": _json(result.train_seconds),
                "runs": [asdict(run) for run in result.runs],
            }
            for result in results
        ],
        "verdicts": verdicts(results, recipe.tasks),
    }


def picture(results: Sequence[SystemResult]) -> str:
    """Return the speed-accuracy trade-off as SVG: seconds a case against mean Dice."""
    marks = [
        Mark(
            f"{result.system.name} ({result.parameters / 1e6:.2f} M)",
            result.case_seconds.mean,
            100 * result.average_dice.mean,
            0.0 if math.isnan(result.average_dice.deviation) else 100 * result.average_dice.deviation,
        )
        for result in results
    ]
    x = axis_around("seconds for all structures of a case (logarithmic)", [mark.x for mark in marks], logarithmic=True)
    ends = [mark.y + sign * mark.spread for mark in marks for sign in (-1, 1)]
    return mark_chart("Speed and accuracy on phantoms", marks, x, axis_around("mean Dice (%)", ends))


def _settings(results: Sequence[SystemResult], recipe: Recipe, hardware: str) -> str:
    first = results[0].runs[0]
    seeds = sorted({run.seed for result in results for run in result.runs})
    plan, window = recipe.sampling, " x ".join(map(str, recipe.sampling.window))
    return (
        f"Synthetic phantoms stand in for patients, and networks are small: this compares systems with each other "
        f"at an equal, small budget, and says nothing about their best. {_cases(recipe, first.budget.test_cases)} "
        f"Every system: {first.budget.steps} steps of {plan.batch} windows of {window} voxels, "
        f"{recipe.optimization.optimizer} at {recipe.optimization.learning_rate:g}, the same windows and augmentation "
        f"for the same seed; seeds {', '.join(map(str, seeds))}; preset '{first.budget.preset}'. Multi-Nets shares "
        f"these steps among its seven networks. {hardware}."
    )


def _cases(recipe: Recipe, test_cases: int) -> str:
    """Say what was trained and measured on."""
    phantoms = recipe.phantoms
    if phantoms is None:
        return f"Cases are those of a collection of the user's own; measured on {test_cases} of them."
    spacing = " x ".join(f"{value:g}" for value in recipe.preprocessing.spacing)
    cases = phantoms.cases_per_task + phantoms.trunk_cases_per_task
    return (
        f"Seven tasks with {cases} training cases each, annotated for that task alone; {test_cases} fully annotated "
        f"test cases (seed {phantoms.seed}, {spacing} mm)."
    )


def _dice_cells(results: Sequence[SystemResult], space: LabelSpace) -> tuple[list[str], list[list[str]]]:
    columns = [(task, key) for task in space.tasks for key in task.structures]
    header = ["System", *(space.structure(key).name for _, key in columns), "Mean", "Published"]
    rows = []
    for result in results:
        cells = [result.dice(key).text(1, 100) for _, key in columns]
        published = result.system.published_dice
        last = [result.average_dice.text(1, 100), "-" if published is None else f"{100 * published:.2f}"]
        rows.append([result.system.name, *cells, *last])
    return header, rows


def _speed_cells(results: Sequence[SystemResult], space: LabelSpace) -> tuple[list[str], list[list[str]]]:
    organs, findings = structure_groups(space)
    header = ["System", "Weights", "Passes", "s a case", "s of training", "Dice organs", "Dice tumors", "HD95 (mm)"]
    rows = [
        [
            result.system.name,
            f"{result.parameters:,}",
            str(result.passes),
            result.case_seconds.text(2),
            result.train_seconds.text(0),
            result.group_dice(organs).text(1, 100),
            result.group_dice(findings).text(1, 100),
            result.average_hd95.text(1),
        ]
        for result in results
    ]
    return header, rows


def _dice_table(results: Sequence[SystemResult], space: LabelSpace) -> str:
    return _markdown_table(*_dice_cells(results, space))


def _speed_table(results: Sequence[SystemResult], space: LabelSpace) -> str:
    return _markdown_table(*_speed_cells(results, space))


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(header) - 1), *lines[1:]])


def _json(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(estimate).items()}
