"""Files that appear complete or not at all.

Everything that the library saves passes through here: the bytes go to a temporary name in the same
folder, reach the disk, and then take the final name in one step. A write that is interrupted, or
that finds the disk full, leaves an older file of that name untouched.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it changes only when the ``with`` block ends without an error.

    Parameters
    ----------
    path : str or Path
        Final name. Its folder must exist.

    Yields
    ------
    binary file
        Under a temporary name that starts with a dot and ends in ``.part``.

    Raises
    ------
    OSError
        When the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with unfinished.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


@contextmanager
def replacing_file(path: str | Path, ending: str) -> Iterator[Path]:
    """Give a temporary name for a writer that takes names, and move it to `path` at the end.

    Parameters
    ----------
    path : str or Path
        Final name. Its folder must exist.
    ending : str
        File name ending that the writer looks at (``.nii.gz``).

    Yields
    ------
    Path
        Temporary name beside `path`, with that ending.

    Raises
    ------
    OSError
        When the finished file cannot take its name.
    """
    path = Path(path)
    unfinished = path.with_name(f".{secrets.token_hex(6)}.part{ending}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Fill a folder that takes its name only when complete, in place of an older one.

    Parameters
    ----------
    folder : str or Path
        Final name. Its parent must exist.

    Yields
    ------
    Path
        Empty folder of a temporary name beside it, to be filled.

    Raises
    ------
    OSError
        When the parent is missing or not writable, or the disk is full; an older folder is left as
        it was.

    Notes
    -----
    Folders cannot be exchanged in one step. A process that is killed between the two renames leaves
    the older folder, complete, beside the name, under a name that ends in ``.old``.
    """
    folder = Path(folder)
    token = secrets.token_hex(4)
    unfinished = folder.with_name(f".{folder.name}.{token}.part")
    unfinished.mkdir()
    try:
        yield unfinished
        for path in unfinished.rglob("*"):
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
        _take_place(unfinished, folder, folder.with_name(f".{folder.name}.{token}.old"))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(unfinished: Path, folder: Path, aside: Path) -> None:
    """Rename `unfinished` to `folder`; what was there is deleted once that has worked, never before."""
    try:
        os.replace(folder, aside)
    except FileNotFoundError:
        os.replace(unfinished, folder)
        return
    try:
        os.replace(unfinished, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
