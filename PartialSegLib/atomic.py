"""Files that appear complete or not at all.

Everything that the library saves passes through here: the bytes go to a temporary name in the same
folder, reach the disk, and then take the final name in one step. A write that is interrupted, or
that finds the disk full, leaves an older file of that name untouched.
"""

from __future__ import annotations

import os
import secrets
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
