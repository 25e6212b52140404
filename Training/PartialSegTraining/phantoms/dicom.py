"""Writes an image as a DICOM CT series that says plainly that it is synthetic.

CT Image IOD of DICOM PS3.3, A.3. Called by ``partialseg phantom`` and the demo. Needs pydicom
(extra ``dicom``), which is imported when a series is written.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.errors import CollectionError, MissingExtraError
from PartialSegLib.images import Geometry, Image

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_INTERCEPT = -1024
#: A fixed date, so that the same seed gives the same files.
_DATE, _TIME = "20000101", "120000"
#: What is the same in every series: the modules of the CT image IOD, in the order of PS3.3, table A.3-1.
_EVERY_SERIES: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "SOPClassUID": _CT_IMAGE_STORAGE,
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": _DATE,
    "StudyTime": _TIME,
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "StudyDescription": "Synthetic CT",
    "Modality": "CT",
    "SeriesNumber": 1,
    "SeriesDescription": "PartialSeg phantom",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "Manufacturer": "PartialSeg",
    "ManufacturerModelName": "Phantom",
    "ContentDate": _DATE,
    "ContentTime": _TIME,
    "AcquisitionNumber": 1,
    "ImageComments": "Synthetic image, no patient.",
    "BurnedInAnnotation": "NO",
    "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 0,
    "RescaleIntercept": _INTERCEPT,
    "RescaleSlope": 1,
    "RescaleType": "HU",
    "KVP": None,
    "WindowCenter": 40,
    "WindowWidth": 400,
}


def write_dicom_series(
    image: Image,
    folder: str | Path,
    *,
    seed: int,
    patient_name: str = "Phantom^Synthetic",
    patient_id: str | None = None,
) -> list[Path]:
    """Write an image as one CT series, one file a slice.

    The unique identifiers follow from the seed and the content, so that the same phantom always
    gives the same files, and different images never share an identifier.

    Parameters
    ----------
    image : Image
        Hounsfield units; rounded to whole numbers. Any direction whose rows and columns are
        perpendicular; the third axis may be oblique to them (a tilted gantry).
    folder : path
        Missing or empty; it appears when the whole series is written.
    seed : int
        Seed of the phantom.
    patient_name, patient_id : str, optional
        Invented; the identifier names the seed when not given.

    Returns
    -------
    list of Path
        The files, in the order of the image's slices.

    Raises
    ------
    CollectionError
        When the folder is not empty, the rows and columns of the image are not perpendicular, or
        its values do not fit 16 bits.
    MissingExtraError
        When pydicom is not installed.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CollectionError(f"{folder} is not an empty folder.", "Choose another place for the DICOM series.")
    stored = _stored_values(image)
    orientation = _orientation(image.geometry)
    identifiers = _Identifiers(image, seed)
    template = _series_template(image.geometry, orientation, identifiers, patient_name, patient_id, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = [f"slice_{number:04d}.dcm" for number in range(1, len(stored) + 1)]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "series"
        unfinished.mkdir()
        for number, (name, plane) in enumerate(zip(names, stored, strict=True)):
            _fill_slice(template, image.geometry, number, plane, identifiers)
            template.save_as(unfinished / name, enforce_file_format=True)
        if folder.exists():
            folder.rmdir()
        os.replace(unfinished, folder)
    return [folder / name for name in names]


class _Identifiers:
    """Unique identifiers made from the seed and the content of an image (PS3.5, B.2)."""

    def __init__(self, image: Image, seed: int) -> None:
        digest = hashlib.sha256(repr((seed, image.geometry)).encode())
        digest.update(np.ascontiguousarray(image.voxels).tobytes())
        self._source = digest.hexdigest()

    def __call__(self, role: str) -> str:
        """Return the identifier of one thing (study, series, slice ...)."""
        number = int.from_bytes(hashlib.sha256(f"{self._source}/{role}".encode()).digest()[:16], "big")
        # The layout of a random UUID (version 4, variant 1), written as a decimal number.
        number = number & ~(0xF << 76) & ~(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
        return f"2.25.{number}"


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtraError("DICOM series", "dicom") from error
    return pydicom


def _stored_values(image: Image) -> np.ndarray:
    """Return (z, y, x) uint16 values from which the rescale intercept gives Hounsfield units."""
    stored = np.rint(image.voxels) - _INTERCEPT
    low, high = float(stored.min()), float(stored.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise CollectionError(
            f"The image has values from {low + _INTERCEPT:g} to {high + _INTERCEPT:g}, which no CT has.",
            f"Clip it to {_INTERCEPT} and above.",
        )
    return stored.astype("<u2")


def _orientation(geometry: Geometry) -> list[float]:
    """Return ImageOrientationPatient (PS3.3, C.7.6.2.1.1): the directions of rows, then columns."""
    rows, columns = geometry.axes[:, 0], geometry.axes[:, 1]
    if abs(float(rows @ columns)) > 1e-4:
        raise CollectionError(
            "DICOM cannot store an image whose rows and columns are not perpendicular.", "Resample it first."
        )
    return [round(float(value), 10) for value in (*rows, *columns)]


def _series_template(
    geometry: Geometry,
    orientation: list[float],
    identifiers: _Identifiers,
    patient_name: str,
    patient_id: str | None,
    seed: int,
) -> Any:
    """Return a data set with everything that all slices share."""
    pydicom = _pydicom()
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = _CT_IMAGE_STORAGE
    x, y, _ = geometry.spacing
    normal = np.cross(geometry.axes[:, 0], geometry.axes[:, 1])
    thickness = geometry.spacing[2] * abs(float(normal @ geometry.axes[:, 2]))
    own = {
        "PatientName": patient_name,
        "PatientID": patient_id or f"PHANTOM-{seed}",
        "StudyID": str(seed),
        "StudyInstanceUID": identifiers("study"),
        "SeriesInstanceUID": identifiers("series"),
        "FrameOfReferenceUID": identifiers("frame of reference"),
        "ImageOrientationPatient": orientation,
        "PixelSpacing": [round(y, 8), round(x, 8)],
        "SliceThickness": round(thickness, 6),
        "Rows": geometry.shape[1],
        "Columns": geometry.shape[2],
    }
    for keyword, value in (_EVERY_SERIES | own).items():
        setattr(dataset, keyword, value)
    return dataset


def _fill_slice(dataset: Any, geometry: Geometry, number: int, plane: np.ndarray, identifiers: _Identifiers) -> None:
    """Put one slice into the data set: its place, its identifier and its pixels."""
    place = geometry.affine @ np.array([0.0, 0.0, number, 1.0])
    dataset.SOPInstanceUID = identifiers(f"slice {number}")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = number + 1
    dataset.ImagePositionPatient = [round(float(value), 6) for value in place[:3]]
    dataset.PixelData = plane.tobytes()
