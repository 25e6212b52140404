"""``partialseg models``: which models there are, and which can be had."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from PartialSegLib import catalog, downloads
from PartialSegLib.catalog import Entry
from PartialSegLib.downloads import Download
from PartialSegLib.sizes import readable
from PartialSegLib.structures import LabelSpace
from PartialSegLib.terminal import table


def register(subparsers: Any) -> None:
    """Add ``partialseg models`` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="list the models",
        description="List the installed models, the bundled one, and those that can be downloaded. A model folder that "
        f"is placed in the model folder is installed too; the environment variable {catalog.FOLDER_VARIABLE} moves "
        f"that folder, and {catalog.MODEL_VARIABLE} names the model that is used when none is chosen. Nothing is "
        "fetched to make this list.",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg models`` and return its exit status."""
    entries = catalog.models()
    if arguments.json:
        document = {
            "model_folder": str(catalog.model_folder()),
            "models": [describe_model(entry) for entry in entries],
            "downloads": [describe_download(entry) for entry in downloads.available()],
        }
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return 0
    if entries:
        rows = [_row(entry) for entry in entries]
        print(table(("Name", "Version", "Origin", "Size", "Title"), rows, right=(3,)))
    for entry in entries:
        if entry.problem:
            print(f"Problem: {entry.folder}: {entry.problem}")
    print(f"{'' if entries else 'There is no model. '}Models are installed in {catalog.model_folder()}")
    _print_downloads([entry for entry in downloads.available() if downloads.installed(entry) is None])
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


def describe_model(entry: Entry) -> dict[str, Any]:
    """Return an entry of the catalog as JSON, with the bytes that it takes on the disk."""
    return describe(entry) | {"bytes": entry.disk_use()}


def describe_download(entry: Download) -> dict[str, Any]:
    """Return a model that can be downloaded as JSON, with what is here of it."""
    installed = downloads.installed(entry)
    return asdict(entry) | {
        "structures": list(entry.structures),
        "installed": installed is not None,
        "downloaded_bytes": downloads.leftover(entry),
    }


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


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    size = entry.disk_use()
    version, title = (entry.bundle.card.version, entry.bundle.card.title) if entry.bundle else ("", "(damaged)")
    return entry.name, version, entry.origin, "" if size is None else readable(size), title


def _print_downloads(entries: list[Download]) -> None:
    """Print what can be had, how, and what an earlier download left."""
    for heading, chosen in (
        ("'partialseg download NAME' gets these:", [entry for entry in entries if downloads.obtainable(entry)]),
        (
            "Without a public address; 'partialseg download NAME' says how to get these:",
            [entry for entry in entries if not downloads.obtainable(entry)],
        ),
    ):
        if not chosen:
            continue
        rows = [
            (
                entry.name,
                readable(entry.bytes) if entry.bytes else "unknown",
                str(len(entry.structures)),
                f"{entry.measured.seconds:.0f} s" if entry.measured else "not measured",
                entry.license.name,
                entry.title,
            )
            for entry in chosen
        ]
        print(f"\n{heading}")
        print(table(("Name", "Size", "Structures", "Time", "License", "Title"), rows, right=(1, 2)))
    for entry in {item.file: item for item in reversed(entries)}.values():
        left = downloads.leftover(entry)
        if left:
            print(
                f"Not finished: {entry.file}, {readable(left)}. 'partialseg download {entry.name}' goes on, "
                f"'partialseg remove {entry.name}' deletes it."
            )
