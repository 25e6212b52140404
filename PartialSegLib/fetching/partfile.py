"""The unfinished file of a download: what of it is certainly on disk, and of which version it is.

Beside ``FILE.part`` lies ``FILE.part.json``, which names the source, the version that the server
declared (its entity tag or date), the size, and how many bytes had reached the disk when it was
written. A download goes on from there, whatever ended it: a cancel, a kill or a power cut. Bytes
behind that point are not trusted. Used by :mod:`PartialSegLib.fetching.transfer`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from PartialSegLib.atomic import atomic_write
from PartialSegLib.errors import DownloadError

#: Bytes between two points from which a download can go on.
CHECKPOINT = 8 << 20


def part_path(target: Path) -> Path:
    """Return where the unfinished file of `target` lies."""
    return target.with_name(f"{target.name}.part")


def _state_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def unfinished(target: Path) -> int:
    """Return how many bytes the unfinished download of `target` holds; 0 when there is none."""
    try:
        return part_path(target).stat().st_size
    except OSError:
        return 0


def discard(target: Path) -> None:
    """Delete the unfinished download of `target`, if there is one.

    Raises
    ------
    OSError
        When it cannot be deleted.
    """
    # The bytes go first: bytes without their state are never gone on with.
    part_path(target).unlink(missing_ok=True)
    _state_path(target).unlink(missing_ok=True)


class PartFile:
    """The unfinished file of one download.

    Parameters
    ----------
    target : Path
        Name of the finished file. Its folder must exist.
    source : str
        Where it comes from, without secrets. What came from elsewhere is not gone on with.

    Attributes
    ----------
    position : int
        Bytes that are there.
    validator : str
        What the server called this version, for ``If-Range``; empty when it said nothing.
    total : int or None
        Size of the whole file in bytes, where the server said it.
    """

    def __init__(self, target: Path, source: str) -> None:
        self.target = target
        self.path = part_path(target)
        self.position, self._saved = 0, 0
        self.validator = ""
        self.total: int | None = None
        self._source = source
        self._stream: FileIO | None = None
        self._load()

    @property
    def resumable(self) -> bool:
        """Whether a server can be asked for the rest."""
        return bool(self.position and self.validator)

    def start(self, validator: str, total: int | None) -> None:
        """Forget what is there, and begin with the first byte of a version.

        Raises
        ------
        DownloadError
            When the file cannot be written.
        """
        self.forget()
        self.validator, self.total = validator, total
        try:
            self._save()
            self._stream = FileIO(self.path, "w")
        except OSError as error:
            raise self._unwritten(error) from error

    def go_on(self) -> None:
        """Open the file behind the last byte that counts.

        Raises
        ------
        DownloadError
            When the file cannot be written.
        """
        try:
            self._stream = FileIO(self.path, "r+")
            self._stream.truncate(self.position)
            self._stream.seek(self.position)
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises
        ------
        DownloadError
            When the disk is full or fails; what was there is kept.
        """
        assert self._stream is not None, "start or go_on comes first"
        rest = memoryview(chunk)
        try:
            while rest:
                # Unbuffered, so that `position` is right when the disk fills up in the middle.
                written = self._stream.write(rest)
                self.position += written
                rest = rest[written:]
            if self.position - self._saved >= CHECKPOINT:
                self._save()
        except OSError as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Remember how far it got, and close the file."""
        if self._stream is None:
            return
        # A full disk has no room for the state either; the older one is still true.
        with suppress(OSError):
            self._save()
        self._stream.close()
        self._stream = None

    def forget(self) -> None:
        """Delete what is there."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.position = self._saved = 0
        self.validator, self.total = "", None
        try:
            discard(self.target)
        except OSError as error:
            raise self._unwritten(error) from error

    def finish(self) -> None:
        """Give the complete file its name.

        Raises
        ------
        DownloadError
            When it cannot be renamed.
        """
        try:
            with FileIO(self.path, "r+") as stream:
                os.fsync(stream.fileno())
            os.replace(self.path, self.target)
            _state_path(self.target).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritten(error) from error

    def _load(self) -> None:
        """Take over an earlier download of the same source; anything odd about it means starting anew."""
        try:
            state: Any = json.loads(_state_path(self.target).read_text(encoding="utf-8"))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return
        if not isinstance(state, dict) or state.get("source") != self._source:
            return
        position, validator, total = (state.get(name) for name in ("bytes", "validator", "total"))
        if (
            type(position) is int
            and 0 <= position <= size
            and isinstance(validator, str)
            and (total is None or (type(total) is int and total >= position))
        ):
            self.position = self._saved = position
            self.validator, self.total = validator, total

    def _save(self) -> None:
        """Write the state, after the bytes that it vouches for have reached the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
        state = {
            "source": self._source,
            "validator": self.validator,
            "total": self.total,
            "bytes": self.position,
        }
        with atomic_write(_state_path(self.target)) as file:
            file.write(json.dumps(state, indent=1).encode())
        self._saved = self.position

    def _unwritten(self, error: OSError) -> DownloadError:
        return DownloadError(
            f"{self.path} could not be written: {error.strerror or error}.",
            "Free some space or mend the folder; then run the command again: it goes on where it stopped.",
        )
