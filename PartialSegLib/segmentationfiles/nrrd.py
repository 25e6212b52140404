"""The NRRD container: its header as text, its voxels as a stream.

Format: http://teem.sourceforge.net/nrrd/format.html. Voxels pass in chunks in both directions, so
that a file of many layers never lies in memory as a whole. The reader and the writer of
``.seg.nrrd`` use this module; it knows nothing of segments.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from PartialSegLib.errors import SegmentationError

#: NRRD's names of integer types, and numpy's.
_TYPES = {
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
}
#: Signs that turn a point of each space into LPS.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
#: A header that has not ended after this many bytes is none.
_MAX_HEADER = 64 << 20


@dataclass(frozen=True)
class NrrdHeader:
    """What an NRRD file says before its voxels.

    Parameters
    ----------
    dtype : numpy.dtype
        Of one voxel, with the byte order of the file.
    layers : int
        Length of the fastest axis when it is a list; 1 when there is no list.
    shape : tuple of int
        Voxels of the three spatial axes, (z, y, x).
    affine : numpy.ndarray
        (4, 4) from voxel indices (x, y, z) to LPS millimetres.
    gzipped : bool
        Whether the voxels are compressed.
    values : mapping of str to str
        The ``key:=value`` pairs, unescaped.
    """

    dtype: np.dtype
    layers: int
    shape: tuple[int, int, int]
    affine: np.ndarray
    gzipped: bool
    values: Mapping[str, str]

    def encode(self) -> bytes:
        """Return the header as bytes, its blank line included (unsigned bytes, gzip, LPS)."""
        listed = self.layers > 1
        sizes = [*([self.layers] if listed else []), *self.shape[::-1]]
        directions = [*(["none"] if listed else []), *map(_vector, self.affine[:3, :3].T)]
        lines = [
            "NRRD0004",
            "# Complete NRRD file format specification at:",
            "# http://teem.sourceforge.net/nrrd/format.html",
            "type: unsigned char",
            f"dimension: {len(sizes)}",
            "space: left-posterior-superior",
            f"sizes: {' '.join(map(str, sizes))}",
            f"space directions: {' '.join(directions)}",
            f"kinds: {'list ' if listed else ''}domain domain domain",
            "encoding: gzip",
            f"space origin: {_vector(self.affine[:3, 3])}",
            *(f"{key}:={_escape(value)}" for key, value in sorted(self.values.items())),
        ]
        return ("\n".join(lines) + "\n\n").encode("utf-8")


def read_header(path: Path, stream: BinaryIO) -> NrrdHeader:
    """Read the header and leave the stream at the first byte of the voxels.

    Raises
    ------
    SegmentationError
        When the file is no NRRD file, or one of a kind that no segmentation has: floating-point
        voxels, a list that is not the fastest axis, detached data, an unknown encoding or space.
    """
    fields, values = _read_lines(path, stream)
    layers, shape = _sizes(path, fields)
    kind = fields.get("type", "").lower()
    if kind not in _TYPES:
        raise SegmentationError(f"{path} has voxels of type '{kind}'.", "A segmentation has integers.")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise SegmentationError(f"{path} is encoded as '{encoding}'.", "Save it with the encoding gzip or raw.")
    if {"data file", "datafile"} & fields.keys():
        raise SegmentationError(f"{path} keeps its voxels in another file.", "Save it as one .seg.nrrd file.")
    endian = ">" if fields.get("endian", "little").lower() == "big" else "<"
    dtype = np.dtype(endian + _TYPES[kind])
    return NrrdHeader(dtype, layers, shape, _affine(path, fields), encoding != "raw", values)


def read_planes(path: Path, stream: BinaryIO, header: NrrdHeader, planes: int) -> Iterator[np.ndarray]:
    """Yield the voxels from the first slice to the last, a few slices at a time.

    Parameters
    ----------
    path : Path
        For messages.
    stream : binary file
        At the first byte of the voxels.
    header : NrrdHeader
    planes : int
        Slices in each chunk but the last.

    Yields
    ------
    numpy.ndarray
        (z, y, x, layer), of the header's dtype.

    Raises
    ------
    SegmentationError
        When the voxels end early or their compression is damaged.
    """
    depth, height, width = header.shape
    with _unpacked(stream, header.gzipped) as source:
        for first in range(0, depth, planes):
            chunk = np.empty((min(planes, depth - first), height, width, header.layers), header.dtype)
            try:
                complete = _fill(source, chunk)
            except (OSError, EOFError, zlib.error) as error:
                raise SegmentationError(
                    f"{path} is damaged at slice {first}: {error}.", "Write or copy it again."
                ) from error
            if not complete:
                raise SegmentationError(f"{path} ends at slice {first} of {depth}.", "Write or copy it again.")
            yield chunk


@contextmanager
def _unpacked(stream: BinaryIO, gzipped: bool) -> Iterator[BinaryIO]:
    if not gzipped:
        yield stream
        return
    with gzip.GzipFile(fileobj=stream, mode="rb") as source:
        yield source  # type: ignore[misc]  # a GzipFile is a binary file in all but its declared type


def _fill(source: BinaryIO, chunk: np.ndarray) -> bool:
    """Read until the chunk is full; whether it is."""
    view = memoryview(chunk.view(np.uint8).reshape(-1).data)
    while view.nbytes:
        count = source.readinto(view)  # type: ignore[attr-defined]  # every buffered binary file has it
        if not count:
            return False
        view = view[count:]
    return True


def _read_lines(path: Path, stream: BinaryIO) -> tuple[dict[str, str], dict[str, str]]:
    fields: dict[str, str] = {}
    values: dict[str, str] = {}
    if not re.fullmatch(rb"NRRD000\d\s*", stream.readline(16)):
        raise SegmentationError(f"{path} is no NRRD file.", "Choose a .seg.nrrd file.")
    while line := stream.readline(_MAX_HEADER):
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        if not text:
            return fields, values
        if stream.tell() > _MAX_HEADER:
            break
        # "key:=value" before "field: value": a value may contain a colon and a space.
        key, assigned, value = text.partition(":=")
        if assigned and ": " not in key:
            values[key] = _unescape(value)
        elif not text.startswith("#"):
            name, _, value = text.partition(":")
            fields[name.strip().lower()] = value.strip()
    raise SegmentationError(f"The header of {path} has no end.", "Write or copy the file again.")


def _sizes(path: Path, fields: Mapping[str, str]) -> tuple[int, tuple[int, int, int]]:
    """Return the number of layers and the spatial shape (z, y, x)."""
    try:
        sizes = [int(size) for size in fields.get("sizes", "").split()]
    except ValueError:
        sizes = []
    listed = fields.get("space directions", "").lower().startswith("none")
    if len(sizes) != 3 + listed or min(sizes) < 1:
        raise SegmentationError(
            f"{path} has the axes '{fields.get('sizes', '')}' with directions '{fields.get('space directions', '')}'.",
            "A segmentation has three axes in space, and before them at most one list of layers.",
        )
    x, y, z = sizes[-3:]
    return (sizes[0] if listed else 1), (z, y, x)


def _affine(path: Path, fields: Mapping[str, str]) -> np.ndarray:
    space = fields.get("space", "").lower()
    if space not in _SPACES:
        raise SegmentationError(f"{path} lies in the space '{space}'.", f"Known spaces: {', '.join(_SPACES)}.")
    vectors = re.findall(r"\(([^)]*)\)", f"{fields.get('space directions', '')} {fields.get('space origin', '')}")
    try:
        columns = np.array([[float(value) for value in vector.split(",")] for vector in vectors])
        if columns.shape != (4, 3):
            raise ValueError(f"{len(vectors)} vectors instead of three directions and an origin")
    except ValueError as error:
        raise SegmentationError(f"{path} does not say where its voxels lie: {error}.") from error
    affine = np.eye(4)
    affine[:3] = columns.T * np.array(_SPACES[space])[:, None]
    return affine


def _vector(values: np.ndarray) -> str:
    # repr gives the shortest text that reads back to the same double.
    return "(" + ",".join(repr(float(value) + 0.0) for value in values) + ")"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)
