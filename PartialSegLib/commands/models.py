"""``partialseg models``: which models there are."""

from __future__ import annotations

import argparse
import json
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.catalog import Entry
from PartialSegLib.structures import LabelSpace
from PartialSegLib.terminal import table


def register(subparsers: Any) -> None:
    """Add ``partialseg models`` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="list the models",
        description="List the installed models and the bundled one. Models are installed by placing their folder in "
        f"the model folder; the environment variable {catalog.FOLDER_VARIABLE} moves it, and "
        f"{catalog.MODEL_VARIABLE} names the model that is used when none is chosen.",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg models`` and return its exit status."""
    entries = catalog.models()
    if arguments.json:
        document = {"model_folder": str(catalog.model_folder()), "models": [describe(entry) for entry in entries]}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return 0
    if entries:
        print(table(("Name", "Version", "Origin", "Title"), [_row(entry) for entry in entries]))
    for entry in entries:
        if entry.problem:
            print(f"Problem: {entry.folder}: {entry.problem}")
    print(f"{'' if entries else 'There is no model. '}Models are installed in {catalog.model_folder()}")
    return 0


def describe(entry: Entry) -> dict[str, Any]:
    """Return an entry of the catalog as JSON: where it is, what its card says, what is wrong with it."""
    document: dict[str, Any] = {
        "name": entry.name,
        "folder": str(entry.folder),
        "origin": entry.origin,
        "problem": entry.problem,
    }
    if entry.bundle is None:
        return document
    card = entry.bundle.card
    texts = {name: getattr(card, name) for name in ("title", "description", "version", "modality", "license")}
    return (
        document
        | texts
        | {"intended_use": card.intended_use, "network": card.network, "tasks": describe_tasks(card.label_space)}
    )


def describe_tasks(space: LabelSpace) -> list[dict[str, Any]]:
    """Return the tasks of a label space and their structures as JSON."""
    return [
        {
            "key": task.key,
            "name": task.name,
            "structures": [{"key": key, "name": space.structure(key).name} for key in task.structures],
        }
        for task in space.tasks
    ]


def _row(entry: Entry) -> tuple[str, str, str, str]:
    if entry.bundle is None:
        return entry.name, "", entry.origin, "(damaged)"
    return entry.name, entry.bundle.card.version, entry.origin, entry.bundle.card.title
