"""``partialseg segment FOLDER``: every scan of a folder, into a folder of results.

Called by :mod:`PartialSegLib.commands.segment` where the input is a folder of scans.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from PartialSegLib.batch.contract import FORMATS, BatchError, BatchJob, Outcome
from PartialSegLib.batch.scans import Shard, find_scans, is_batch_folder
from PartialSegLib.terminal import note, terminal_monitor

if TYPE_CHECKING:
    from PartialSegLib.bundle import ModelBundle

#: Options of one scan that a batch does not know, by the name of their argument.
_OF_ONE = {"series": "--series", "region": "--region", "uncertainty": "--uncertainty", "report": "--report"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a batch to ``partialseg segment``."""
    add = parser.add_argument_group(
        "many scans",
        "IMAGE may be a folder of scans: image files, sub-folders with DICOM series, or cases with an\n"
        "'image' file. OUT is then the folder of results; the same command started again does only\n"
        "what is missing.",
    ).add_argument
    add(
        "--batch",
        action="store_true",
        help="IMAGE is a folder of scans, where that is not plain (DICOM in sub-folders)",
    )
    add("--shard", type=_shard, metavar="I/N", help="only the I-th of N parts, for a job array; 1/N is the first")
    add("--jobs", type=_count, metavar="N", help="scans at once (default: 1)")
    add(
        "--format",
        choices=tuple(FORMATS),
        help="of the results: NAME.seg.nrrd, NAME.dcm or a folder (default: seg.nrrd)",
    )
    add("--engine", choices=("local", "ray", "dask"), help="who works on the scans (default: local)")
    add("--address", metavar="A", help="of a running Ray or Dask cluster; without it, one is started here")


def is_batch(arguments: argparse.Namespace) -> bool:
    """Tell whether a command line asks for a batch, by an option or by what the folder holds."""
    asked = (arguments.shard, arguments.jobs, arguments.format, arguments.engine, arguments.address)
    return arguments.batch or any(item is not None for item in asked) or is_batch_folder(arguments.image)


def run_batch_command(arguments: argparse.Namespace, bundle: ModelBundle, structures: tuple[str, ...]) -> int:
    """Carry out ``partialseg segment`` on a folder of scans and return its exit status.

    Raises
    ------
    BatchError
        When the command line or the folder makes no batch, or a scan could not be segmented.
    """
    from PartialSegLib.batch.driver import run_batch
    from PartialSegLib.batch.engines import make_engine

    output = _output(arguments)
    scans = find_scans(arguments.image)
    job = BatchJob.of(
        bundle,
        output,
        structures,
        preset=arguments.preset,
        device=arguments.device,
        format=arguments.format or "seg.nrrd",
        threads=arguments.threads,
    )

    def tell(outcome: Outcome) -> None:
        if not outcome.done and not arguments.quiet:
            note(f"{outcome.scan}: {outcome.message}")

    with (
        terminal_monitor(quiet=arguments.quiet) as monitor,
        make_engine(
            arguments.engine or "local",
            job,
            workers=arguments.jobs or 1,
            address=arguments.address,
            monitor=monitor,
        ) as engine,
    ):
        report = run_batch(job, scans, engine, shard=arguments.shard, monitor=monitor, told=tell)
    table, document = report.paths
    count, failed = len(report.outcomes), len(report.failed)
    sentence = f"{count - failed} of {count} scans are done. Wrote {table}"
    print(json.dumps(report.to_json(), indent=1) if arguments.json else sentence)
    if failed:
        raise BatchError(
            f"{failed} of {count} scans could not be segmented, '{report.failed[0].scan}' first: "
            f"{report.failed[0].message}",
            f"{document} names all of them; the same command tries them again.",
        )
    return 0


def _output(arguments: argparse.Namespace) -> Path:
    """Return the folder of results; BatchError when the options are not those of a batch."""
    for name, option in _OF_ONE.items():
        if getattr(arguments, name) is not None:
            raise BatchError(
                f"{option} is for one scan, but '{arguments.image}' is a folder of scans.", "Leave it out."
            )
    if len(arguments.output) != 1:
        raise BatchError("A folder of scans has one folder of results.", "Give -o once, and choose the --format.")
    output: Path = arguments.output[0]
    if output.name.lower().endswith((".seg.nrrd", ".nrrd", ".dcm")) or output.is_file():
        raise BatchError(f"'{output}' is no folder for the results of many scans.", "Name a folder; see --format.")
    if output.resolve() == arguments.image.resolve():
        raise BatchError(f"'{output}' is the folder of the scans itself.", "Choose another folder for the results.")
    return output


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of scans")
    return int(text)
