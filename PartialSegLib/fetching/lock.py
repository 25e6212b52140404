"""One process at a time: a lock that the operating system takes back when its holder dies.

Used by :mod:`PartialSegLib.fetching.transfer`, so that two downloads never write into one file. A
process that is killed holds the lock no longer; nothing has to guess whether a lock is stale.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: str | Path) -> Iterator[bool]:
    """Hold the lock named by a file for the length of the ``with`` block.

    Parameters
    ----------
    path : str or Path
        The lock's own file, made here and deleted at the end. Its folder must exist.

    Yields
    ------
    bool
        Whether the lock was free. When it was not, somebody else holds it, and nothing is held here.

    Raises
    ------
    OSError
        When the file cannot be made.
    """
    path = Path(path)
    file = _take(path)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        # Deleted while still held: who opened it before finds in _is_current that it is gone. Windows
        # deletes no open file, and may lose the race against another process afterwards; the file is empty.
        with suppress(OSError):
            path.unlink()
        os.close(file)
        with suppress(OSError):
            if sys.platform == "win32":
                path.unlink()


def _take(path: Path) -> int | None:
    """Return the open and locked file, or ``None`` when another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(file)
        except OSError:
            os.close(file)
            return None
        if _is_current(file, path):
            return file
        os.close(file)


def _is_current(file: int, path: Path) -> bool:
    """Whether `path` still names the open file; its last holder may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
