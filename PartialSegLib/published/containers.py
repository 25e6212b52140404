"""Where nnU-Net v1 keeps trained networks: a results folder, or a zip of one that stays packed.

Both are listed by the same names. Of a zip only what is asked for is unpacked, one file at a time,
into a private temporary folder and under a name of our own, so that no name in it leads anywhere.
Called by the formats of :mod:`PartialSegLib.published` that are folders.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from PartialSegLib.errors import BundleError
from PartialSegLib.published.contract import digest

#: Plans are a few megabytes; a larger one is none.
MAX_PLANS_BYTES = 256 * 2**20


class Unpacked(NamedTuple):
    """A file of a container, readable by its name for the time being."""

    path: Path
    sha256: str


class Container(ABC):
    """Named files of a folder or a zip.

    Parameters
    ----------
    path : Path
        Of the folder or the zip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[PurePosixPath]:
        """Return the full name of every file, sorted; those of a zip begin with its folders."""

    @abstractmethod
    def read(self, name: PurePosixPath) -> bytes:
        """Return the content of a small file; :class:`BundleError` when it is damaged or large."""

    @abstractmethod
    def unpacked(self, name: PurePosixPath) -> AbstractContextManager[Unpacked]:
        """Give a file a path for the time of a ``with`` block; :class:`BundleError` when it is damaged."""


class Folder(Container):
    """A folder, with all that lies below it, or just one of its files."""

    def names(self) -> list[PurePosixPath]:
        """See :meth:`Container.names`."""
        if self.path.is_file():
            return [PurePosixPath(self.path.resolve().as_posix())]
        return sorted(PurePosixPath(file.as_posix()) for file in self.path.resolve().rglob("*") if file.is_file())

    def read(self, name: PurePosixPath) -> bytes:
        """See :meth:`Container.read`."""
        file = Path(name)
        try:
            _refuse_large(name, file.stat().st_size)
            return file.read_bytes()
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error.strerror}.", "Get it again.") from error

    @contextmanager
    def unpacked(self, name: PurePosixPath) -> Iterator[Unpacked]:
        """See :meth:`Container.unpacked`: it is where it is."""
        yield Unpacked(Path(name), digest(Path(name)))


class Zip(Container):
    """A zip file."""

    def names(self) -> list[PurePosixPath]:
        """See :meth:`Container.names`."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return sorted(PurePosixPath(entry.filename) for entry in archive.infolist() if not entry.is_dir())
        except (OSError, zipfile.BadZipFile) as error:
            raise BundleError(f"{self.path} is no readable zip: {error}.", "Get it again.") from error

    def read(self, name: PurePosixPath) -> bytes:
        """See :meth:`Container.read`."""
        stream = io.BytesIO()
        with self._opened(name) as (packed, size):
            _refuse_large(name, size)
            shutil.copyfileobj(packed, stream)
        return stream.getvalue()

    @contextmanager
    def unpacked(self, name: PurePosixPath) -> Iterator[Unpacked]:
        """See :meth:`Container.unpacked`: a copy in a private temporary folder, which is removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="partialseg-import-") as folder:
            copy = Path(folder) / "checkpoint"
            hashed = hashlib.sha256()
            with self._opened(name) as (packed, size), copy.open("xb") as stream:
                if size > shutil.disk_usage(folder).free:
                    raise BundleError(
                        f"{name} of {self.path} unpacks to {size / 2**20:.0f} MiB, which do not fit into {folder}.",
                        "Make room, or let the environment variable TMPDIR name a folder with more.",
                    )
                while block := packed.read(2**20):
                    hashed.update(block)
                    stream.write(block)
            yield Unpacked(copy, hashed.hexdigest())

    @contextmanager
    def _opened(self, name: PurePosixPath) -> Iterator[tuple[IO[bytes], int]]:
        """Open one file of the zip; its checksum is verified when it is read to the end."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(str(name))
                # ZipExtFile never gives more than the size that the directory says.
                with archive.open(entry) as packed:
                    yield packed, entry.file_size
        except (
            OSError,
            KeyError,
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
        ) as error:
            raise BundleError(f"{name} of {self.path} cannot be unpacked: {error}.", "Get the zip again.") from error


def _refuse_large(name: PurePosixPath, size: int) -> None:
    if size > MAX_PLANS_BYTES:
        raise BundleError(f"{name} has {size / 2**20:.0f} MiB, but plans are small.", "It is another kind of file.")
