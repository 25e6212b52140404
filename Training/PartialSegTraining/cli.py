"""``partialseg train``, ``phantom`` and ``collection``: the command line of this room.

The main command line finds :func:`register` through the entry point group ``partialseg.commands``.
Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PartialSegLib.errors import CollectionError
from PartialSegLib.terminal import terminal_monitor

if TYPE_CHECKING:
    from PartialSegLib.progress import Monitor
    from PartialSegTraining.recipe import PhantomRecipe, Recipe
    from PartialSegTraining.trainer import TrainingResult

#: Folder of a recipe's own phantoms in that of the training.
_COLLECTION = "collection"


def register(subparsers: Any) -> None:
    """Add the commands to the main command line."""
    from PartialSegTraining.datasets.command import register as register_collection

    _register_train(subparsers)
    _register_phantom(subparsers)
    register_collection(subparsers)


def _register_train(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model on partially labelled cases",
        description="Train a model by a recipe and write it as a bundle. Stopped with Ctrl+C, by SIGTERM (exit "
        "status 75) or by --max-minutes, the same command goes on exactly where it was. On several GPUs or machines: "
        "torchrun --nproc-per-node 4 --no-python partialseg train ...",
    )
    parser.add_argument("recipe", help="name of a recipe of the repository (phantom-dodnet ...), or a TOML file")
    parser.add_argument(
        "--collection",
        type=Path,
        metavar="PATH",
        help="partially labelled collection: a manifest (TOML, see 'partialseg collection') or a folder of phantoms; "
        "without it, the recipe's phantoms are made in OUTPUT/collection",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of this training")
    parser.add_argument("--initial", metavar="MODEL", help="begin with the weights of this model (name or folder)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the training, in place of the recipe's")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="stop after this time, to go on later")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that prepare cases (default: one a core)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if any (default)")
    again.add_argument("--restart", action="store_true", help="start anew")
    parser.add_argument("--json", action="store_true", help="print a report as JSON")
    parser.set_defaults(run=run_train)


def _register_phantom(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "phantom",
        help="make synthetic CT with known truth",
        description="Make synthetic CT with known truth: a partially labelled collection, or one patient.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    collection = kinds.add_parser("collection", help="partially labelled datasets and a fully annotated test set")
    collection.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the collection")
    collection.add_argument("--cases-per-task", type=int, default=24, metavar="N", help="default: 24")
    collection.add_argument(
        "--trunk-cases-per-task", type=int, default=0, metavar="N", help="further ones of the whole trunk (default: 0)"
    )
    collection.add_argument("--test-cases", type=int, default=8, metavar="N", help="default: 8")
    collection.add_argument("--seed", type=int, default=0, help="decides every case (default: 0)")
    _add_spacing(collection)
    collection.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    collection.add_argument("--json", action="store_true", help="print a report as JSON")
    collection.set_defaults(run=run_phantom_collection)
    patient = kinds.add_parser("patient", help="one patient with every structure")
    patient.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the patient")
    patient.add_argument("--seed", type=int, default=0, help="decides the patient (default: 0)")
    _add_spacing(patient)
    patient.add_argument("--dicom", action="store_true", help="write the scan as a DICOM series too")
    patient.add_argument("--json", action="store_true", help="print a report as JSON")
    patient.set_defaults(run=run_phantom_patient)


def _add_spacing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="voxel spacing in millimetres (default: drawn at random, slices of 1 to 5 mm)",
    )


def run_train(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg train`` and return its exit status."""
    from PartialSegLib import catalog
    from PartialSegTraining.distributed import together
    from PartialSegTraining.recipefiles import load_recipe
    from PartialSegTraining.stopping import saved_at_termination
    from PartialSegTraining.trainer import train

    recipe = load_recipe(arguments.recipe)
    for name, value in (("--steps", arguments.steps), ("--max-minutes", arguments.max_minutes)):
        if value is not None and value <= 0:
            raise CollectionError(f"{name} {value} leaves nothing to do.", "Give more than 0.")
    if arguments.steps is not None:
        recipe = recipe.with_steps(arguments.steps)
    started = time.monotonic()
    with (
        together() as processes,
        terminal_monitor(quiet=not processes.first) as monitor,
        saved_at_termination(monitor),
    ):
        if arguments.collection is None and processes.first:
            _own_collection(recipe, arguments, monitor)
        processes.wait()
        minutes = arguments.max_minutes
        if minutes is not None:
            # Making the phantoms counts too.
            minutes -= (time.monotonic() - started) / 60.0
        result = train(
            recipe,
            arguments.collection or arguments.output / _COLLECTION,
            arguments.output,
            device=arguments.device,
            monitor=monitor,
            resume=not arguments.restart,
            initial=catalog.find(arguments.initial) if arguments.initial else None,
            max_minutes=minutes,
            workers=arguments.workers,
        )
    if processes.first:
        _report_training(arguments, result)
    return 0


def _report_training(arguments: argparse.Namespace, result: TrainingResult) -> None:
    state = "finished" if result.finished else "not finished: run the same command to go on"
    if result.ended_early:
        state = "finished early: it no longer got better"
    document = {"bundle": str(result.bundle), "steps": result.steps, "total_steps": result.total_steps}
    sentence = f"{result.bundle}: {result.steps} of {result.total_steps} steps, {state}."
    if result.best is not None:
        document["best"] = str(result.best)
        sentence += f" The best validation was that of {result.best}."
    _report(arguments, document, sentence)


def run_phantom_collection(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg phantom collection`` and return its exit status."""
    from PartialSegTraining.recipe import PhantomRecipe

    try:
        spacing = None if arguments.spacing is None else tuple(arguments.spacing)
        phantoms = PhantomRecipe(
            cases_per_task=arguments.cases_per_task,
            test_cases=arguments.test_cases,
            seed=arguments.seed,
            spacing=spacing,
            trunk_cases_per_task=arguments.trunk_cases_per_task,
        )
    except ValueError as error:
        raise CollectionError(f"Such a collection is impossible: {error}.") from error
    with terminal_monitor() as monitor:
        path = _write_collection(phantoms, arguments.output, arguments.workers, monitor)
    _report(arguments, {"collection": str(path.parent)}, f"{path.parent} is ready.")
    return 0


def run_phantom_patient(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg phantom patient`` and return its exit status."""
    from PartialSegLib.images import write_image
    from PartialSegLib.segmentationfiles import write_segmentation
    from PartialSegTraining.phantoms import generate_phantom, write_dicom_series

    phantom, folder = generate_phantom(arguments.seed, spacing=arguments.spacing), arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CollectionError(f"{folder} cannot be made: {error.strerror}.", "Choose another folder.") from error
    # The layout of a test case, so that the patient can be scored as one.
    write_image(phantom.image, folder / "image.nii.gz")
    write_segmentation(phantom.segmentation(), folder / "segmentations")
    if arguments.dicom:
        write_dicom_series(phantom.image, folder / "dicom", seed=arguments.seed)
    volumes = {
        key: round(int(mask.sum()) * phantom.image.geometry.voxel_volume / 1000.0, 1)
        for key, mask in phantom.masks.items()
    }
    _report(arguments, {"patient": str(folder), "phase": phantom.phase, "volumes_ml": volumes}, f"{folder} is ready.")
    return 0


def _own_collection(recipe: Recipe, arguments: argparse.Namespace, monitor: Monitor) -> None:
    """Make the phantoms of the recipe, or what is missing of them, in the folder of the training."""
    if recipe.phantoms is None:
        raise CollectionError(
            f"Recipe '{recipe.name}' brings no cases.", "Name a partially labelled collection with --collection."
        )
    _write_collection(recipe.phantoms, arguments.output / _COLLECTION, arguments.workers, monitor)


def _write_collection(phantoms: PhantomRecipe, folder: Path, workers: int | None, monitor: Monitor) -> Path:
    from PartialSegTraining.phantoms import write_collection

    return write_collection(
        folder,
        cases_per_task=phantoms.cases_per_task,
        trunk_cases_per_task=phantoms.trunk_cases_per_task,
        test_cases=phantoms.test_cases,
        seed=phantoms.seed,
        spacing=phantoms.spacing,
        workers=workers or os.cpu_count() or 1,
        monitor=monitor,
    )


def _report(arguments: argparse.Namespace, document: dict[str, Any], sentence: str) -> None:
    print(json.dumps(document, indent=1) if arguments.json else sentence)
