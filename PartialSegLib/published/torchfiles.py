"""One state dictionary out of a file of ``torch.save`` that keeps program objects beside it.

PyTorch's ``weights_only`` reader refuses such a file as a whole. Here its pickle is read for records
alone (:func:`~PartialSegLib.published.restricted.read_inert`), and tensors are made, from numbers that
are checked, of one entry of it. Both layouts are read: the zip of PyTorch 1.6 and later, whose numbers
are members of the archive, and the older one, in which four pickles (magic number, version, byte order,
content) and the list of storages precede the numbers. Called by formats of
:mod:`PartialSegLib.published`.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from PartialSegLib.errors import BundleError
from PartialSegLib.published.restricted import (
    Inert,
    NamedRecords,
    StorageRecord,
    TensorRecord,
    read_inert,
    refuse,
)

#: First pickles of a file of the older layout.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

#: A tensor of more axes is no weight.
_MOST_AXES = 8


class _Layout(ABC):
    """A file that is open: its content as records, and the numbers of storages."""

    content: Any

    @abstractmethod
    def numbers(self, storage: StorageRecord) -> bytes:
        """Return the bytes of a storage; an exception of any kind when they are not there."""


class _Zip(_Layout):
    """The layout since PyTorch 1.6: ``NAME/data.pkl``, and ``NAME/data/KEY`` for each storage."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise ValueError(f"it has {len(names)} contents of a checkpoint")
        self._root = names[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in archive.namelist() and self._member("byteorder") != b"little":
            raise ValueError("its numbers begin with their largest byte")
        self.content = read_inert(io.BytesIO(self._member("data.pkl"))).content

    def numbers(self, storage: StorageRecord) -> bytes:
        return self._member(f"data/{storage.key}")

    def _member(self, name: str) -> bytes:
        """Return the content of a member; PyTorch compresses none, so that none is larger than the file."""
        entry = self._archive.getinfo(self._root + name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"'{name}' is compressed")
        return self._archive.read(entry)


class _Stream(_Layout):
    """The layout before PyTorch 1.6: pickles one after the other, then the storages in a listed order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        if read_inert(stream).content != MAGIC or read_inert(stream).content != PROTOCOL:
            raise ValueError("it does not begin as a file of PyTorch")
        if read_inert(stream).content["little_endian"] is not True:
            raise ValueError("its numbers begin with their largest byte")
        self.content, storages = read_inert(stream)
        order: list[str] = read_inert(stream).content
        # Every storage is its number of elements (int64), and the elements.
        self._places: dict[str, int] = {}
        place = stream.tell()
        for key in order:
            self._places[key] = place
            place += 8 + max(storages[key].numbers, 0) * storages[key].dtype.itemsize
        self._is_whole = stream.seek(0, io.SEEK_END) >= place

    def numbers(self, storage: StorageRecord) -> bytes:
        if not self._is_whole:
            raise ValueError("it ends too early")
        self._stream.seek(self._places[storage.key])
        (count,) = struct.unpack("<q", self._stream.read(8))
        if count != storage.numbers:
            raise ValueError(f"storage '{storage.key}' has {count} numbers, not {storage.numbers}")
        return self._stream.read(count * storage.dtype.itemsize)


def load_weights(path: str | Path, entry: str) -> dict[str, Tensor]:
    """Read the weights under one key of a checkpoint, and make nothing else of it.

    Parameters
    ----------
    path : path
        A file of ``torch.save``, of either layout.
    entry : str
        Key of the state dictionary in it (``model_state_dict``).

    Returns
    -------
    dict of str to Tensor
        On the CPU, with the names and types of the file.

    Raises
    ------
    BundleError
        When the file cannot be read, or the entry is missing or holds anything but tensors whose
        numbers are in the file. Nothing in the file is run in any case.
    """
    path = Path(path)
    with _opened(path) as layout:
        tensors = _entry(layout.content, entry, path)
        for name, record in tensors.items():
            if not isinstance(name, str) or not isinstance(record, TensorRecord):
                raise _foreign(path, entry, name, record)
        storages: dict[StorageRecord, Tensor] = {}
        return {name: _tensor(name, record, layout, storages) for name, record in tensors.items()}


def weight_shapes(path: str | Path, entry: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights under one key of a checkpoint, as it states them.

    None where it is no checkpoint, or has no such entry; never raises. Whatever else is in the entry
    is left out.
    """
    path = Path(path)
    try:
        with _opened(path) as layout:
            tensors = _entry(layout.content, entry, path)
            return {
                str(name): tuple(record.shape) for name, record in tensors.items() if isinstance(record, TensorRecord)
            }
    except BundleError:
        return {}


@contextmanager
def _opened(path: Path) -> Iterator[_Layout]:
    """Open a file of either layout; whatever goes wrong until it is closed is a :class:`BundleError`."""
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"
            stream.seek(0)
            if is_zip:
                with zipfile.ZipFile(stream) as archive:
                    yield _Zip(archive)
            else:
                yield _Stream(stream)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}.", "Check its name.") from error
    except Exception as error:  # a damaged pickle fails in any way: IndexError, KeyError, struct.error ...
        refuse(path, error, "checkpoint of PyTorch")


def _entry(content: Any, entry: str, path: Path) -> Mapping[Any, Any]:
    """Return the mapping under a key."""
    found = content.get(entry) if type(content) in (dict, NamedRecords) else None
    if type(found) not in (dict, NamedRecords) or not found:
        raise BundleError(f"{path} holds no weights under '{entry}'.", "It is another kind of file.")
    weights: Mapping[Any, Any] = found
    return weights


def _foreign(path: Path, entry: str, name: Any, value: Any) -> BundleError:
    """Return the refusal of an entry that holds something else than tensors."""
    kind = value if isinstance(value, type) else type(value)
    named = kind.named if issubclass(kind, Inert) else kind.__name__
    where = f"'{name}' of '{entry}'" if isinstance(name, str) else f"'{entry}'"
    return BundleError(
        f"{path} is refused: {where} is '{named}', which is no tensor.",
        "It could run code when it is read; nothing of it was run. Get the file from its authors.",
    )


def _tensor(name: str, record: TensorRecord, layout: _Layout, storages: dict[StorageRecord, Tensor]) -> Tensor:
    """Make a tensor of its record; ``ValueError`` when it reaches out of its storage.

    A tensor has no more elements than its storage, so that a shape cannot ask for memory that the file
    does not have.
    """
    storage, shape, strides, offset = record.storage, record.shape, record.strides, record.offset
    if not isinstance(storage, StorageRecord) or not _counts(shape) or not _counts(strides) or not _counts((offset,)):
        raise ValueError(f"the weight '{name}' is described in an unknown way")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"the weight '{name}' has {len(shape)} axes and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.numbers or (0 not in shape and last >= storage.numbers):
        raise ValueError(f"the weight '{name}' of {shape} is larger than its {storage.numbers} numbers in the file")
    if storage not in storages:
        storages[storage] = _numbers(name, storage, layout)
    return storages[storage].as_strided(shape, strides, offset if math.prod(shape) else 0)


def _numbers(name: str, storage: StorageRecord, layout: _Layout) -> Tensor:
    """Return all numbers of a storage, one-dimensional."""
    data = layout.numbers(storage)
    if len(data) != storage.numbers * storage.dtype.itemsize:
        raise ValueError(f"the numbers of the weight '{name}' are {len(data)} bytes, not {storage.numbers} of them")
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _counts(values: Any) -> bool:
    """Return whether a value is a tuple of integers of which none is negative."""
    return type(values) is tuple and all(type(value) is int and value >= 0 for value in values)
