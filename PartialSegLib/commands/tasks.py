"""``partialseg tasks``: what a model can segment."""

from __future__ import annotations

import argparse
import json
from typing import Any

from PartialSegLib import catalog
from PartialSegLib.commands.models import describe_tasks
from PartialSegLib.terminal import table


def register(subparsers: Any) -> None:
    """Add ``partialseg tasks`` to the command line."""
    parser = subparsers.add_parser(
        "tasks",
        help="list the tasks and structures of a model",
        description="List the tasks of a model and the structures of each. Both can be chosen with "
        "'partialseg segment --tasks'.",
    )
    parser.add_argument("--model", metavar="NAME", help="name or folder of a model (default: the bundled one)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg tasks`` and return its exit status."""
    card = catalog.find(arguments.model).card
    if arguments.json:
        document = {"model": card.name, "label_space": card.label_space.name, "tasks": describe_tasks(card.label_space)}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return 0
    rows = [
        (task.key if first else "", key, card.label_space.structure(key).name)
        for task in card.label_space.tasks
        for first, key in ((key == task.structures[0], key) for key in task.structures)
    ]
    print(f"{card.title} ({card.name} {card.version})\n")
    print(table(("Task", "Structure", "Name"), rows))
    return 0
