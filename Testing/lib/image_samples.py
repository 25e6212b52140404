"""Scans on every kind of grid, and the check of a refusal, for the tests of image files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from PartialSegLib.errors import ImageError
from PartialSegLib.images import Geometry, Image, read_image

SHAPE = (5, 6, 7)
SPACING = (0.7, 0.8125, 2.5)
ORIGIN = (-171.3, 22.123456789, -1033.5)
NIFTI = (".nii.gz", ".nii")
EXACT = (".nrrd", ".mha")


def rotation(a: float, b: float, c: float) -> np.ndarray:
    """Rotation about z, y and x by angles in radians."""
    z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    x = [[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]]
    return np.array(z) @ np.array(y) @ np.array(x)


DIRECTIONS = {
    "straight": np.eye(3),
    "head last": np.diag([1.0, 1.0, -1.0]),
    "from RAS": np.diag([-1.0, -1.0, 1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": rotation(0.3, -0.2, 0.1),
    "oblique and mirrored": rotation(-1.2, 0.4, 2.1) @ np.diag([1.0, -1.0, 1.0]),
}
SHEARED = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, np.sin(0.3)], [0.0, 0.0, np.cos(0.3)]])


def grid(direction: np.ndarray) -> Geometry:
    return Geometry(SHAPE, SPACING, ORIGIN, tuple(direction.ravel().tolist()))


def random_voxels() -> np.ndarray:
    return np.random.default_rng(3).integers(-1024, 3000, SHAPE).astype(np.int16)


def refusal(path: Path, read: Callable[[Path], Image] = read_image) -> str:
    """Return the one line with which a file is refused; it names the file."""
    with pytest.raises(ImageError) as caught:
        read(path)
    assert path.name in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "(0x" not in caught.value.message
    return caught.value.message


def nifti(
    path: Path,
    values: np.ndarray,
    *,
    sform: np.ndarray | None = None,
    codes: tuple[int, int] = (0, 1),
    sizes: tuple[int, ...] | None = None,
    pixdim: tuple[float, ...] = SPACING,
    order: str = "<",
    rescale: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write a NIfTI-1 file field by field: int16, RAS `sform` (3, 4), `codes` of qform and sform."""
    header = bytearray(352)
    sizes = sizes or values.shape[::-1]
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into(f"{order}2h", header, 70, 4, 16)
    struct.pack_into(f"{order}4f", header, 76, 1.0, *pixdim)
    struct.pack_into(f"{order}3f", header, 108, 352.0, *rescale)
    struct.pack_into(f"{order}2h", header, 252, *codes)
    sform = np.column_stack([np.diag(SPACING), (1, 2, 3)]) if sform is None else sform
    struct.pack_into(f"{order}12f", header, 280, *sform.ravel())
    header[344:348] = b"n+1\0"
    content = bytes(header) + values.astype(f"{order}i2").tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path
