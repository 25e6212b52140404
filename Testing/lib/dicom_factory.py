"""Small DICOM series on any grid, and with any of the faults that real ones have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    RTStructureSetStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from PartialSegLib.images import Geometry

SERIES = "1.2.826.0.1.3680043.8.498.1001"
STUDY = "1.2.826.0.1.3680043.8.498.1"
INTERCEPT = -1024


def write_series(
    folder: Path,
    voxels: np.ndarray,
    geometry: Geometry,
    *,
    uid: str = SERIES,
    positions: np.ndarray | None = None,
    slopes: Sequence[float] | None = None,
    name: Callable[[int], str] = "IM{:04d}".format,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **attributes: Any,
) -> list[Path]:
    """Write a single-frame CT series and return its files in the order of the voxels' z axis.

    Parameters
    ----------
    voxels : numpy.ndarray
        (z, y, x) stored values times slope minus 1024: whole Hounsfield units when no slopes are given.
    positions : numpy.ndarray, optional
        (n, 3) position of each slice, instead of the geometry's.
    slopes : sequence of float, optional
        RescaleSlope of each slice; `voxels` are then the stored values.
    attributes
        DICOM keywords that overwrite those of every slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if positions is None:
        index = np.arange(len(voxels))[:, None]
        positions = np.asarray(geometry.origin) + index * geometry.affine[:3, 2]
    files = []
    for i, plane in enumerate(voxels):
        slice_ = _new(CTImageStorage, uid)
        _set_pixels(slice_, plane if slopes is not None else plane.astype(int) - INTERCEPT)
        slice_.RescaleSlope = _ds(slopes[i] if slopes is not None else 1)
        slice_.RescaleIntercept = INTERCEPT
        slice_.InstanceNumber = i + 1
        slice_.ImagePositionPatient = _ds(*positions[i])
        slice_.ImageOrientationPatient = _ds(*geometry.axes[:, 0], *geometry.axes[:, 1])
        slice_.PixelSpacing = _ds(geometry.spacing[1], geometry.spacing[0])
        for keyword, value in attributes.items():
            setattr(slice_, keyword, value)
        _compress(slice_, transfer_syntax, folder)
        files.append(folder / name(i))
        slice_.save_as(files[-1], enforce_file_format=True)
    return files


def write_enhanced(
    path: Path,
    voxels: np.ndarray,
    geometry: Geometry,
    *,
    descending: bool,
    indices: Sequence[int] | None = None,
    slopes: Sequence[float] | None = None,
) -> None:
    """Write one enhanced CT object with every slice as a frame (PS3.3 A.38).

    Parameters
    ----------
    descending : bool
        Whether the frames run against the z axis.
    indices : sequence of int, optional
        Step along z at which each slice lies.
    slopes : sequence of float, optional
        RescaleSlope of each slice.
    """
    document = _new(EnhancedCTImageStorage, SERIES)
    order = np.arange(len(voxels))[::-1] if descending else np.arange(len(voxels))
    _set_pixels(document, voxels[order].astype(int) - INTERCEPT)
    document.NumberOfFrames = len(voxels)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_with(PixelSpacing=_ds(geometry.spacing[1], geometry.spacing[0]))]
    orientation = _ds(*geometry.axes[:, 0], *geometry.axes[:, 1])
    shared.PlaneOrientationSequence = [_with(ImageOrientationPatient=orientation)]
    document.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for i in order:
        step = i if indices is None else indices[i]
        position = np.asarray(geometry.origin) + step * geometry.affine[:3, 2]
        frame = _with(PlanePositionSequence=[_with(ImagePositionPatient=_ds(*position))])
        slope = slopes[i] if slopes is not None else 1
        frame.PixelValueTransformationSequence = [
            _with(RescaleSlope=_ds(slope), RescaleIntercept=INTERCEPT, RescaleType="HU")
        ]
        frames.append(frame)
    document.PerFrameFunctionalGroupsSequence = frames
    document.save_as(path, enforce_file_format=True)


def write_structure_set(path: Path) -> None:
    """Write a DICOM object without pixels."""
    document = _new(RTStructureSetStorage, generate_uid())
    document.Modality = "RTSTRUCT"
    document.save_as(path, enforce_file_format=True)


def edit(file: Path, **attributes: Any) -> None:
    """Overwrite attributes of a DICOM file; ``None`` removes one."""
    document = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        if value is None:
            delattr(document, keyword)
        else:
            setattr(document, keyword, value)
    document.save_as(file)


def _new(storage: str, series: str) -> Dataset:
    document, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID = document.SOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.file_meta = meta
    document.SpecificCharacterSet = "ISO_IR 192"
    document.PatientID, document.PatientName = "P1", "Factory^Test"
    document.StudyInstanceUID, document.SeriesInstanceUID = STUDY, series
    document.Modality, document.SeriesDescription = "CT", "Portal 2.5"
    return document


def _set_pixels(document: Dataset, stored: np.ndarray) -> None:
    document.Rows, document.Columns = stored.shape[-2:]
    document.SamplesPerPixel, document.PhotometricInterpretation = 1, "MONOCHROME2"
    document.BitsAllocated = document.BitsStored = 16
    document.HighBit, document.PixelRepresentation = 15, 0
    document.PixelData = stored.astype("<u2").tobytes()


def _compress(document: Dataset, transfer_syntax: str, folder: Path) -> None:
    if transfer_syntax == RLELossless:
        document.compress(RLELossless)
    elif transfer_syntax in (JPEG2000Lossless, JPEGLosslessSV1):
        # pydicom encodes neither without further packages; GDCM does.
        plane = SimpleITK.GetImageFromArray(document.pixel_array[None])
        writer, encoded = SimpleITK.ImageFileWriter(), folder / "encoded.dcm"
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(encoded))
        writer.SetUseCompression(True)
        writer.SetCompressor({JPEG2000Lossless: "JPEG2000", JPEGLosslessSV1: "JPEG"}[transfer_syntax])
        writer.Execute(plane)
        source = pydicom.dcmread(encoded)
        encoded.unlink()
        assert source.file_meta.TransferSyntaxUID == transfer_syntax
        document.PixelData = encapsulate(list(generate_frames(source.PixelData, number_of_frames=1)))
        document["PixelData"].is_undefined_length = True
        document.file_meta.TransferSyntaxUID = transfer_syntax
    else:
        document.file_meta.TransferSyntaxUID = transfer_syntax


def _ds(*values: float) -> Any:
    """Format numbers as decimal strings of at most 16 characters (PS3.5 6.2)."""
    texts = [format_number_as_ds(float(value)) for value in values]
    return texts if len(texts) > 1 else texts[0]


def _with(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
