"""Whether a MetaImage file (``.mha``, ``.mhd``) holds all of its voxels.

ITK reads damaged compressed voxels without an error, and tells of missing ones on the console
only. Called by ``imagefiles.py`` before ITK reads the file. NRRD's reader checks all of this
itself, and ``nifti.py`` does for NIfTI.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from PartialSegLib.errors import ImageError

_CHUNK = 1 << 22
_REMEDY = "Copy or download it again."

#: Bytes of a voxel of each element type of MetaImage.
_ELEMENT_BYTES = {
    "CHAR": 1,
    "UCHAR": 1,
    "SHORT": 2,
    "USHORT": 2,
    "INT": 4,
    "UINT": 4,
    "LONG": 4,
    "ULONG": 4,
    "LONG_LONG": 8,
    "ULONG_LONG": 8,
    "FLOAT": 4,
    "DOUBLE": 8,
}


def verify_metaimage(path: Path) -> None:
    """Check that all voxels of a MetaImage (``.mha``, or ``.mhd`` with its data file) are there.

    Voxels written as text, and lists of data files, are left to ITK's own checks.

    Raises
    ------
    ImageError
        When the file is no MetaImage, its data file is missing, its compressed stream is damaged,
        or voxels are missing.
    """
    try:
        with path.open("rb") as file:
            fields = _read_header(cast(BinaryIO, file), path)
            name = fields["ElementDataFile"]
            if name.upper().startswith("LIST") or "%" in name or fields.get("BinaryData", "True").lower() != "true":
                return
            expected, skip = _expected_bytes(fields, path)
            if name.upper() == "LOCAL":
                _verify_data(cast(BinaryIO, file), fields, expected, path)
                return
        data = path.parent / name
        if not data.is_file():
            raise ImageError(f"'{path}' has no voxels: its data file '{data}' is missing.", "Copy both files.")
        with data.open("rb") as file:
            file.seek(skip)
            _verify_data(cast(BinaryIO, file), fields, expected, data)
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {error.strerror}.", "Check its permissions.") from error


def _read_header(file: BinaryIO, path: Path) -> dict[str, str]:
    """Read ``Key = Value`` lines up to and including ElementDataFile, which ends the header."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        key, separator, value = file.readline(4096).partition(b"=")
        if not separator or len(fields) > 200:
            raise ImageError(f"'{path}' is no MetaImage file, whatever its name says.", "Give the image file itself.")
        fields[key.decode("utf-8", "replace").strip()] = value.decode("utf-8", "surrogateescape").strip()
    return fields


def _expected_bytes(fields: dict[str, str], path: Path) -> tuple[int, int]:
    """Return the bytes of all voxels, and those before them in a data file (-1 stands for unknown)."""
    try:
        sizes = [int(value) for value in fields["DimSize"].split()]
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        skip = max(0, int(fields.get("HeaderSize", "0")))
        element = _ELEMENT_BYTES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
    except (KeyError, ValueError) as error:
        raise ImageError(f"'{path}' has a damaged header: {error} is missing or wrong.", _REMEDY) from error
    return int(np.prod(sizes, dtype=np.int64)) * channels * element, skip


def _verify_data(file: BinaryIO, fields: dict[str, str], expected: int, path: Path) -> None:
    if fields.get("CompressedData", "False").lower() != "true":
        _refuse_missing(path, _count(file), expected)
        return
    stream, size = zlib.decompressobj(), 0
    try:
        while not stream.eof and (chunk := file.read(_CHUNK)):
            size += len(stream.decompress(chunk))
    except zlib.error as error:
        raise ImageError(f"'{path}' is damaged: its compressed data is wrong ({error}).", _REMEDY) from error
    if not stream.eof:
        raise ImageError(f"'{path}' is truncated: its compressed data ends early.", _REMEDY)
    _refuse_missing(path, size, expected)


def _count(file: BinaryIO) -> int:
    """Read to the end, so that every checksum is verified, and return the number of bytes."""
    size = 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
    return size


def _refuse_missing(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise ImageError(f"'{path}' is truncated: it holds {size} of {expected} bytes.", _REMEDY)
