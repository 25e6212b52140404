"""How a NIfTI-1 file is read: its voxels from the file itself, its grid as ITK understands it.

ITK's own reader fills the voxels missing from a truncated file with zeros, ignores the checksum of
the compression, and turns NaN into 0 (water, in a CT), all without a word. So the voxels are taken
from the file here, in one pass that verifies it. The grid still comes from ITK, because a result
has to lie where 3D Slicer shows the scan, whichever of sform and qform it prefers; ITK reads no
sheared grid, and then the sform counts. Called by ``imagefiles.py``.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles.itk import geometry_of, itk_reason, named_geometry, simpleitk, single_volume, unoriented
from PartialSegLib.images import Geometry, Image

_HEADER_BYTES = 348
_CHUNK = 1 << 22
_REMEDY = "Copy or download it again."

#: NumPy type of each scalar NIfTI datatype (nifti1.h).
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
#: Datatypes that are no scalars, by the name in a message.
_NO_SCALARS = {32: "complex", 128: "RGB", 1792: "complex", 2048: "complex", 2304: "RGBA"}


@dataclass(frozen=True)
class _Header:
    """The fields of a NIfTI-1 header that reading needs.

    Parameters
    ----------
    sizes : tuple of int
        Voxels along (x, y, z, time ...).
    dtype : numpy.dtype
        Type and byte order of the stored values.
    offset : int
        Byte at which the voxels begin.
    slope, intercept : float
        Value = slope * stored + intercept.
    is_oriented : bool
        Whether an sform or a qform is given.
    sform : numpy.ndarray or None
        (4, 4) matrix from voxel indices (x, y, z) to LPS millimetres, when given.
    """

    sizes: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    is_oriented: bool
    sform: np.ndarray | None


def read_nifti(path: Path) -> Image:
    """Read a NIfTI-1 file, compressed or not.

    Returns
    -------
    Image
        Voxels (z, y, x) in the stored type, or float32 when the header rescales them.

    Raises
    ------
    ImageError
        When the file is no NIfTI-1 file, its header makes no sense, it is truncated or its
        compressed data is damaged, or it holds no single scalar 3D volume.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
        if is_gzip and not path.name.lower().endswith(".gz"):
            raise ImageError(f"'{path}' is compressed, but not named so.", "Rename it to end in '.nii.gz'.")
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            header = _parse(file.read(_HEADER_BYTES), path)
            shape, told = single_volume(path, header.sizes)
            voxels = _read_voxels(cast(BinaryIO, file), header, path).reshape(shape)
    except EOFError as error:
        raise ImageError(f"'{path}' is truncated: its compressed data ends early.", _REMEDY) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"'{path}' is damaged: its compressed data is wrong ({error}).", _REMEDY) from error
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {error.strerror}.", "Check its permissions.") from error
    geometry, doubts = _grid(path, header)
    return Image(voxels, geometry, path, corrections=told + doubts)


def is_complete(path: Path) -> bool:
    """Whether a file that ITK just wrote has all of its voxels: its writer says nothing of a full disk.

    Of a compressed file the length that stands at its end is compared, not every byte.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            size = raw.seek(-4 if is_gzip else 0, 2)
            if is_gzip:
                (size,) = struct.unpack("<I", raw.read(4))
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            header = _parse(file.read(_HEADER_BYTES), path)
    except (OSError, EOFError, zlib.error, ImageError):
        return False
    expected = header.offset + int(np.prod(header.sizes, dtype=np.int64)) * header.dtype.itemsize
    # Compressed files hold their length modulo 2^32 (RFC 1952).
    return size == (expected % 2**32 if is_gzip else expected)


def _parse(start: bytes, path: Path) -> _Header:
    """Read the fields at their byte offsets in nifti1.h."""
    order = next((mark for mark in "<>" if start[:4] == struct.pack(f"{mark}i", _HEADER_BYTES)), None)
    if start[4:7] == b"n+2":
        raise ImageError(f"'{path}' is a NIfTI-2 file, which is not supported.", "Convert it to NIfTI-1 or NRRD.")
    if order is None or start[344:_HEADER_BYTES] != b"n+1\0":
        raise ImageError(f"'{path}' is no NIfTI file, whatever its name says.", "Give the image file itself.")
    dimensions, *sizes = struct.unpack_from(f"{order}8h", start, 40)
    (code,) = struct.unpack_from(f"{order}h", start, 70)
    spacing = struct.unpack_from(f"{order}3f", start, 80)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", start, 108)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", start, 252)
    sizes = sizes[: max(dimensions, 0)]
    if not 1 <= dimensions <= 7 or min(sizes) < 1 or not np.isfinite(offset):
        raise ImageError(f"'{path}' has a damaged header: it claims a size of {tuple(sizes)}.", _REMEDY)
    if not np.all(np.isfinite(spacing[:dimensions])) or 0.0 in spacing[:dimensions]:
        raise ImageError(f"'{path}' has a damaged header: its voxel size is {spacing}.", "Repair its pixdim field.")
    if code not in _TYPES:
        kind = _NO_SCALARS.get(code, f"of the unknown type {code}")
        raise ImageError(f"'{path}' is no scalar image: its voxels are {kind}.", "Export one gray-scale volume.")
    if len(sizes) > 4 and sizes[4] > 1:
        raise ImageError(
            f"'{path}' is no scalar image: its voxels are vectors of {sizes[4]} components.",
            "Export one gray-scale volume.",
        )
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        slope, intercept = 1.0, 0.0
    sform = None
    if sform_code > 0:
        # NIfTI's world is RAS, the library's LPS.
        matrix = np.reshape(struct.unpack_from(f"{order}12f", start, 280), (3, 4))
        sform = np.vstack([np.diag([-1.0, -1.0, 1.0]) @ matrix, [0.0, 0.0, 0.0, 1.0]])
        if not np.all(np.isfinite(sform)):
            raise ImageError(f"'{path}' has a damaged header: its sform holds NaN.", "Repair its sform field.")
    return _Header(
        sizes=tuple(sizes),
        dtype=np.dtype(f"{order}{_TYPES[code]}"),
        # Some writers leave the offset empty; the voxels then follow the header.
        offset=max(int(offset), _HEADER_BYTES),
        slope=slope,
        intercept=intercept,
        is_oriented=qform_code > 0 or sform_code > 0,
        sform=sform,
    )


def _read_voxels(file: BinaryIO, header: _Header, path: Path) -> np.ndarray:
    """Read the voxels, and the file to its end, where the checksum of the compression is."""
    skip = header.offset - _HEADER_BYTES
    expected = int(np.prod(header.sizes, dtype=np.int64)) * header.dtype.itemsize
    if len(file.read(skip)) < skip:
        raise ImageError(f"'{path}' is truncated: it ends in the header.", _REMEDY)
    try:
        content = np.empty(expected, np.uint8)
    except MemoryError as error:
        raise ImageError(f"'{path}' has a damaged header: it claims a size of {header.sizes}.", _REMEDY) from error
    view, size = content.data, 0
    while count := file.readinto(view[size : size + _CHUNK]):  # type: ignore[attr-defined]
        size += count
    if size < expected:
        raise ImageError(f"'{path}' is truncated: it holds {size} of {expected} bytes of voxels.", _REMEDY)
    while file.read(_CHUNK):
        pass
    voxels = content.view(header.dtype)
    if not voxels.dtype.isnative:
        voxels = voxels.astype(voxels.dtype.newbyteorder("="))
    if (header.slope, header.intercept) == (1.0, 0.0):
        return voxels
    rescaled = voxels.astype(np.float32)
    rescaled *= np.float32(header.slope)
    rescaled += np.float32(header.intercept)
    return rescaled


def _grid(path: Path, header: _Header) -> tuple[Geometry, tuple[str, ...]]:
    """Return the grid as ITK reads it, and what the header leaves open or contradicts."""
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if header.sform is None:
            raise ImageError(f"'{path}' has a damaged header ({itk_reason(error)}).", _REMEDY) from error
        told = f"The axes of '{path.name}' are not perpendicular; its sheared grid was kept as it is."
        return _sform_grid(path, header), (told,)
    geometry = geometry_of(reader, path)
    if not header.is_oriented:
        return geometry, (unoriented(path),)
    if header.sform is None:
        return geometry, ()
    extent = geometry.shape[::-1]
    corners = np.array([[x, y, z, 1] for x in (0, extent[0]) for y in (0, extent[1]) for z in (0, extent[2])]).T
    distance = float(np.abs((geometry.affine - header.sform) @ corners)[:3].max())
    if distance <= 0.1 * min(geometry.spacing):
        return geometry, ()
    told = (
        f"The sform of '{path.name}' contradicts its qform or voxel size by up to {distance:.1f} mm; "
        "its place was read as ITK and 3D Slicer read it."
    )
    return geometry, (told,)


def _sform_grid(path: Path, header: _Header) -> Geometry:
    assert header.sform is not None
    steps, origin = header.sform[:3, :3], header.sform[:3, 3]
    spacing = np.linalg.norm(steps, axis=0)
    axes = steps / np.where(spacing > 0, spacing, 1.0)
    return named_geometry(path, header.sizes[2::-1], spacing.tolist(), origin.tolist(), axes)
