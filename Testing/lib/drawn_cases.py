"""Small cases for the tests of segmentations: grids of every kind, masks that overlap, DICOM slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from PartialSegLib.images import Geometry, Image, read_image
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.structures import LabelSpace, Structure

SHAPE = (14, 20, 27)
ANGLE = np.deg2rad(17)
ROTATION = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
TILT = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
#: Directions as matrices of columns: straight, two axes reversed, oblique about two axes, gantry tilt.
DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "oblique": ROTATION @ TILT,
    "sheared": np.array([[1, 0, 0], [0, 1, np.sin(ANGLE)], [0, 0, np.cos(ANGLE)]]),
}


def grid(kind: str = "straight", shape: tuple[int, int, int] = SHAPE) -> Geometry:
    """Return a grid of one of :data:`DIRECTIONS`, with odd spacing and origin."""
    direction = tuple(float(value) for value in DIRECTIONS[kind].ravel())
    return Geometry(shape, (0.703125, 0.8, 2.5), (-123.456789, 1 / 3, 77.7), direction)


def structures() -> tuple[Structure, ...]:
    """Return the eleven structures of MOTS, with tumors in organs and two protocols for one tumor."""
    return LabelSpace.named("mots").structures


def arrays(shape: tuple[int, int, int] = SHAPE, seed: int = 0, empty: str | None = "colon_tumor") -> dict:
    """Return ragged random masks in boxes that overlap one another; one of them is empty."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for structure in structures():
        array = np.zeros(shape, bool)
        low = [int(rng.integers(0, max(1, size // 2))) for size in shape]
        high = [int(rng.integers(at + 1, size + 1)) for at, size in zip(low, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        array[box] = rng.random(array[box].shape) < 0.6
        array[tuple(low)] = structure.key != empty
        drawn[structure.key] = array & (structure.key != empty)
    return drawn


def segmentation(kind: str = "straight", seed: int = 0, algorithm: str = "Demo 1.0") -> Segmentation:
    """Return :func:`arrays` as a segmentation on :func:`grid`."""
    return Segmentation.from_arrays(grid(kind), structures(), arrays(seed=seed), algorithm)


def write_slices(folder: Path, geometry: Geometry) -> None:
    """Write a CT series, one file per slice, in an order that is not that of the slices."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    depth, height, width = geometry.shape
    pixels = np.random.default_rng(5).integers(-1000, 1000, geometry.shape, dtype=np.int16)
    for index in range(depth):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = CTImageStorage
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
        attributes = {
            **uids,
            "Modality": "CT",
            "PatientID": "PHANTOM-1",
            "PatientName": "Phantom^One",
            "InstanceNumber": index + 1,
            "ImagePositionPatient": _decimals((geometry.affine @ [0, 0, index, 1])[:3]),
            "ImageOrientationPatient": _decimals(geometry.axes[:, :2].T.ravel()),
            "PixelSpacing": [geometry.spacing[1], geometry.spacing[0]],
            "SliceThickness": geometry.spacing[2],
            "Rows": height,
            "Columns": width,
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            "PixelData": pixels[index].tobytes(),
        }
        for keyword, value in attributes.items():
            setattr(item, keyword, value)
        item.save_as(folder / f"{(7 * index) % depth:03d}-{index}.dcm", enforce_file_format=True)


def dicom_image(folder: Path, kind: str = "straight") -> Image:
    """Write a CT series and read it back as an image with its files."""
    write_slices(folder, grid(kind))
    return read_image(folder)


def _decimals(values: np.ndarray) -> list[str]:
    # A DICOM decimal string has at most 16 characters.
    return [f"{value:.10f}"[:16] for value in values]
