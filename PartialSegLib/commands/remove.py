"""``partialseg remove``: an installed model, or what is left of a download, is deleted."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from PartialSegLib import catalog, downloads
from PartialSegLib.catalog import Entry
from PartialSegLib.errors import BundleError, PartialSegError
from PartialSegLib.sizes import readable


def register(subparsers: Any) -> None:
    """Add ``partialseg remove`` to the command line."""
    parser = subparsers.add_parser(
        "remove",
        help="delete an installed model",
        description="Delete an installed model after asking, or, when it is not installed, what is left of its "
        "download. The model that comes with the library stays. 'partialseg models' lists what there is.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the model, or its folder")
    parser.add_argument("--yes", action="store_true", help="delete without being asked")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg remove`` and return its exit status."""
    left = _leftover_of(arguments.name)
    if left is not None:
        entry, count = left
        _confirm(f"the download of {entry.file} ({readable(count)})", arguments)
        downloads.discard(entry)
        print(f"Deleted the download of {entry.file} ({readable(count)}).")
        return 0
    model = catalog.removable(arguments.name)
    described = _described(model)
    _confirm(described, arguments)
    catalog.remove(model)
    print(f"Deleted {described}.")
    return 0


def _leftover_of(name: str) -> tuple[downloads.Download, int] | None:
    """Return the download that `name` means and its bytes, when no installed model has that name."""
    if any(model.name == name and model.origin == "installed" for model in catalog.models()):
        return None
    entry = next((item for item in downloads.available() if item.name == name), None)
    count = downloads.leftover(entry) if entry is not None else 0
    return (entry, count) if entry is not None and count else None


def _described(model: Entry) -> str:
    size = model.disk_use()
    return f"the model '{model.name}' in {model.folder}" + (f" ({readable(size)})" if size is not None else "")


def _confirm(what: str, arguments: argparse.Namespace) -> None:
    """Go on only with ``--yes`` or the user's yes."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise BundleError(f"Nobody is there to ask whether to delete {what}.", "Add --yes to delete it.")
    print(f"Delete {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PartialSegError("Nothing was deleted.")
