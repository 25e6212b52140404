"""``partialseg benchmark``: comparisons that anybody can repeat; each kind is a module with ``register``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import PartialSegError

if TYPE_CHECKING:
    from PartialSegLib.progress import Monitor
    from PartialSegTraining.benchmark.runs import Budget, RunResult
    from PartialSegTraining.benchmark.systems import System
    from PartialSegTraining.recipe import Recipe

#: Modules that add a kind of benchmark.
KINDS = ("PartialSegTraining.benchmark.command", "PartialSegTraining.finetuning.curvecommand")
#: Recipe that all systems have in common.
COMMON = "phantom-benchmark"

_NAME = "benchmark-phantoms"


def register_all(subparsers: Any) -> None:
    """Add ``partialseg benchmark`` to the command line."""
    parser = subparsers.add_parser(
        "benchmark",
        help="train and compare systems on phantoms",
        description="Comparisons that anybody can repeat: phantoms stand in for patients.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for module in KINDS:
        import_module(module).register(kinds)


def register(kinds: Any) -> None:
    """Add ``partialseg benchmark phantoms``."""
    parser = kinds.add_parser(
        "phantoms",
        help="every system and baseline at an equal budget",
        description="Train every system on the same partially labelled phantoms with the same steps and seeds, measure "
        "it on fully annotated ones, and write DoDNet's Table 6 and Figure 4 for them. Stopped, the same command "
        "goes on where it was.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the benchmark")
    parser.add_argument("--systems", metavar="A,B", help="some systems only (default: all)")
    parser.add_argument("--seeds", default="1,2,3", metavar="1,2", help="default: 1,2,3")
    parser.add_argument("--steps", type=int, metavar="N", help="of every training (default: as the recipe says)")
    parser.add_argument("--preset", default="fast", choices=("fast", "standard", "paper"), help="default: fast")
    parser.add_argument("--test-cases", type=int, metavar="N", help="measure on so many (default: all)")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="phantoms to use (default: those of the recipe)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--workers", type=int, metavar="N", help="that make phantoms and prepare cases")
    parser.add_argument("--json", action="store_true", help="print the JSON report instead of the tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg benchmark phantoms`` and return its exit status."""
    from PartialSegLib.terminal import terminal_monitor
    from PartialSegTraining.benchmark.documents import text
    from PartialSegTraining.benchmark.results import collect
    from PartialSegTraining.benchmark.runs import Budget
    from PartialSegTraining.benchmark.systems import find_systems
    from PartialSegTraining.recipefiles import load_recipe

    systems = find_systems(arguments.systems.split(",") if arguments.systems else None)
    seeds, recipe = _seeds(arguments.seeds), load_recipe(COMMON)
    for name, value in (("--steps", arguments.steps), ("--test-cases", arguments.test_cases)):
        if value is not None and value < 1:
            raise PartialSegError(f"{name} {value} leaves nothing to do.", "Give at least 1.")
    with terminal_monitor() as monitor:
        collection = arguments.collection or _phantoms(recipe, arguments, monitor)
        if arguments.collection is not None:
            recipe = replace(recipe, phantoms=None)
        budget = Budget(
            arguments.steps or recipe.optimization.total_steps, arguments.preset, _tests(arguments, collection)
        )
        hardware = _hardware(arguments.device)
        for runs in _make_runs(systems, seeds, budget, arguments, collection, monitor):
            # After every run, so that one can look at what there is.
            results = collect(runs, systems)
            report = _write(results, recipe, arguments.output, hardware)
    print(json.dumps(report, indent=1) if arguments.json else text(results, recipe.tasks))
    return 0


def _make_runs(
    systems: Sequence[System],
    seeds: Sequence[int],
    budget: Budget,
    arguments: argparse.Namespace,
    collection: Path,
    monitor: Monitor,
) -> Iterator[list[RunResult]]:
    """Make the runs that are missing: all systems with the first seed, then with the next one; yield those so far."""
    from PartialSegLib.terminal import note
    from PartialSegTraining.benchmark.runs import make_run

    runs: list[RunResult] = []
    for seed in seeds:
        for system in systems:
            note(f"{system.name}, seed {seed} ({len(runs) + 1} of {len(systems) * len(seeds)})")
            runs.append(
                make_run(
                    system,
                    seed,
                    budget,
                    arguments.output,
                    collection=collection,
                    device=arguments.device,
                    workers=arguments.workers,
                    monitor=monitor,
                )
            )
            yield runs


def _phantoms(recipe: Recipe, arguments: argparse.Namespace, monitor: Monitor) -> Path:
    """Make the phantoms that all systems share, or what is missing of them."""
    from PartialSegTraining.phantoms import write_collection

    plan = recipe.phantoms
    assert plan is not None
    path = write_collection(
        arguments.output / "collection",
        cases_per_task=plan.cases_per_task,
        trunk_cases_per_task=plan.trunk_cases_per_task,
        test_cases=plan.test_cases,
        seed=plan.seed,
        spacing=plan.spacing,
        workers=arguments.workers or os.cpu_count() or 1,
        monitor=monitor,
    )
    return path.parent


def _tests(arguments: argparse.Namespace, collection: Path) -> int:
    """Return how many test cases there are to measure on."""
    folder = collection / "test"
    found = sum(1 for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else 0
    if not found:
        raise PartialSegError(f"{collection} has no test cases.", "Make it with 'partialseg phantom collection'.")
    return min(found, arguments.test_cases or found)


def _write(results: Sequence[Any], recipe: Recipe, folder: Path, hardware: str) -> dict[str, Any]:
    """Write the four documents and return the JSON one."""
    from PartialSegTraining.benchmark import documents

    report = documents.document(results, recipe, hardware)
    for ending, content in (
        ("json", json.dumps(report, indent=1, allow_nan=False) + "\n"),
        ("csv", documents.csv_rows(results, recipe.tasks)),
        ("md", documents.markdown(results, recipe, hardware)),
        ("svg", documents.picture(results)),
    ):
        with atomic_write(folder / f"{_NAME}.{ending}") as file:
            file.write(content.encode("utf-8"))
    return report


def _seeds(words: str) -> list[int]:
    try:
        seeds = [int(word) for word in words.split(",")]
    except ValueError as error:
        raise PartialSegError(f"--seeds {words} are not numbers.", "Give them as 1,2,3.") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise PartialSegError(f"--seeds {words} are negative or repeat.", "Give them as 1,2,3.")
    return seeds


def _hardware(device: str) -> str:
    """Say what the benchmark runs on, without naming the machine."""
    import torch

    from PartialSegTraining.trainer import choose_device

    chosen = choose_device(device)
    if chosen.type == "cuda":
        return f"One {torch.cuda.get_device_name(chosen)}, torch {torch.__version__}"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads), torch {torch.__version__}"
