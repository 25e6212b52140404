"""``partialseg download``: a published model is fetched and installed, after its license was accepted."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from PartialSegLib import catalog, downloads
from PartialSegLib.commands.models import describe_model
from PartialSegLib.downloads import Download
from PartialSegLib.errors import LicenseError
from PartialSegLib.terminal import note, terminal_monitor

_EPILOG = """\
examples:
  partialseg download multitalent-unet
  partialseg download multitalent-unet --keep Task100_MultiTalent.zip
  PARTIALSEG_MIRROR=https://files.hospital.example/models partialseg download multitalent-unet

A download that is stopped or breaks goes on where it was when the command is run again. Proxies are
those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY. docs/models.md says more, also for computers without internet."""


def register(subparsers: Any) -> None:
    """Add ``partialseg download`` to the command line."""
    parser = subparsers.add_parser(
        "download",
        help="download and install a published model",
        description="Download a published model and install it. Its license is shown first and must be accepted. "
        "'partialseg models' lists what can be downloaded.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="name of the model")
    add("--accept-license", action="store_true", help="accept the license without being asked")
    add(
        "--keep",
        type=Path,
        metavar="FILE",
        help="keep the downloaded file under this name; when it is there already, it is used instead of downloading",
    )
    add("--json", action="store_true", help="print the installed model as JSON")
    add("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``partialseg download`` and return its exit status."""
    entry = downloads.find(arguments.name)
    there = downloads.installed(entry)
    if there is None:
        # Whoever cannot have the file need not read its license.
        downloads.address_of(entry)
        _ask_for_license(entry, arguments)
    with terminal_monitor(quiet=arguments.quiet) as monitor:
        bundle = downloads.download(
            entry.name,
            license_accepted=True,
            keep=arguments.keep,
            monitor=monitor,
            say=(lambda line: None) if arguments.quiet else note,
        )
    if arguments.json:
        installed = next(item for item in catalog.models() if item.folder == bundle.folder)
        print(json.dumps(describe_model(installed), indent=1, ensure_ascii=False))
        return 0
    print(f"{'Installed' if there is None else 'There is'} {bundle.card.title}: {bundle.folder}")
    print(f"Try: partialseg segment SCAN --model {bundle.card.name} -o result.seg.nrrd")
    return 0


def _ask_for_license(entry: Download, arguments: argparse.Namespace) -> None:
    """Show the license, and go on only with the user's yes."""
    if arguments.accept_license and arguments.quiet:
        return
    lines = [f"License of {entry.title}: {entry.license.name}", *entry.license.text.splitlines()]
    shown = (textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False) for line in lines)
    print("\n\n".join(shown), end="\n\n", file=sys.stderr)
    if arguments.accept_license:
        return
    if arguments.json or not sys.stdin.isatty():
        raise LicenseError(
            f"The license of '{entry.name}' must be accepted, and there is nobody to ask.",
            "Read it above, and add --accept-license if you agree.",
        )
    print("Do you accept it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise LicenseError(f"The license of '{entry.name}' was not accepted.", "Nothing was downloaded.")
