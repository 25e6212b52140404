"""The command line ``partialseg``: finds the command, runs it, and ends in a result or one clear line.

A command is a module with ``register(subparsers)``, which adds an :mod:`argparse` parser whose
``run`` takes the arguments and returns the exit status. The library's own commands are listed here;
other packages add theirs through the entry point group ``partialseg.commands``. Only the module of
the chosen command is imported, so that ``partialseg info`` answers at once.

Exit status: 0 done, 1 to 10 a mistake that the message names (:mod:`PartialSegLib.errors`), 2 a wrong
command line, 70 a defect of PartialSeg, 130 stopped by the user.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import PartialSegLib
from PartialSegLib.errors import CancelledError, PartialSegError

#: The library's own commands, and the modules that register them.
COMMANDS = {
    "segment": "PartialSegLib.commands.segment",
    "tasks": "PartialSegLib.commands.tasks",
    "models": "PartialSegLib.commands.models",
    "download": "PartialSegLib.commands.download",
    "remove": "PartialSegLib.commands.remove",
    "import": "PartialSegLib.commands.import_",
    "info": "PartialSegLib.commands.info",
    "render": "PartialSegLib.rendering.command",
}
#: Entry point group of the commands of other packages: each names a ``register(subparsers)``.
GROUP = "partialseg.commands"

#: Exit status of a defect (``EX_SOFTWARE`` of sysexits.h), and of a process that SIGTERM ended.
DEFECT, TERMINATED = 70, 143

_DESCRIPTION = "Segment every structure that any of a model's partially labelled training datasets annotated."
_EPILOG = """\
examples:
  partialseg segment scan.nii.gz -o result.seg.nrrd
  partialseg segment dicom_folder --tasks liver,kidney -o result.dcm
  partialseg tasks

'partialseg COMMAND --help' describes a command. --debug shows the traceback of an error.

exit status: 0 done; 1, 3-10 a problem that the message names; 2 wrong command line; 70 a defect of
PartialSeg; 75 a training that was saved because the machine is taken away; 130 stopped by the user.
Research software: not a medical device."""


class UsageError(PartialSegError):
    """A command line that cannot be understood."""

    code = "usage"
    exit_code = 2


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are raised, so that they end like all others: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:].rstrip('.')}.", f"Run '{self.prog} --help'.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``partialseg``; those of the process by default.

    Returns
    -------
    int
        Exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in words, "--json" in words
    try:
        with _clean_termination():
            return _run([word for word in words if word != "--debug"])
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail(CancelledError("Stopped by the user."), as_json)
    except PartialSegError as error:
        if debug:
            raise
        return _fail(error, as_json)
    except Exception as error:
        if debug:
            raise
        return _fail(_defect(error), as_json)


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Parameters
    ----------
    words : sequence of str
        The command line. When its first word is a command of the library, only that is registered.
    """
    parser = _Parser(
        prog="partialseg",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"partialseg {PartialSegLib.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    first = next((word for word in words if not word.startswith("-")), None)
    for register in _registrations(first):
        register(subparsers)
    return parser


def _run(words: list[str]) -> int:
    arguments = build_parser(words).parse_args(words)
    status: int = arguments.run(arguments)
    sys.stdout.flush()
    return status


def _registrations(command: str | None) -> Iterator[Callable[[Any], None]]:
    """Yield what registers `command`, or everything when it is no command of the library."""
    if command in COMMANDS:
        yield import_module(COMMANDS[command]).register
        return
    for module in COMMANDS.values():
        yield import_module(module).register
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            yield point.load()
        except ImportError as error:
            # One broken package must not take the other commands away.
            print(f"partialseg: warning: {point.value} cannot be loaded: {error}", file=sys.stderr)


def _defect(error: Exception) -> PartialSegError:
    wrapped = PartialSegError(f"{type(error).__name__}: {error}", "Run again with --debug for the traceback.")
    wrapped.code, wrapped.exit_code = "defect", DEFECT
    return wrapped


def _fail(error: PartialSegError, as_json: bool) -> int:
    """Say what went wrong in one line, as JSON too when that was asked for, and return the exit status."""
    print(f"partialseg: error: {' '.join(str(error).split())}", file=sys.stderr)
    if as_json:
        described = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        print(json.dumps({"error": described}, indent=1))
    return error.exit_code


@contextmanager
def _clean_termination() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that unfinished files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
