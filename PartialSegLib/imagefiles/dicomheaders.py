"""Which slices a folder of DICOM files holds: one :class:`SliceHeader` for each slice.

GDCM (through SimpleITK) reads the headers, so that no optional package is needed for ordinary
series. It misreads the places of multi-frame objects, whose headers therefore come from
``pydicom``. ``dicomseries.py`` makes a volume of the slices; nothing is decided about it here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles.itk import itk_reason, simpleitk

#: Series of these modalities have pixels, but are no scan.
_NOT_SCANS = frozenset({"SEG", "RTDOSE", "RTIMAGE"})

#: Storage classes of scans (PS3.4 B.5): CT, MR, PET, nuclear medicine, with their enhanced forms.
#: A file of such a class that cannot be read is a lost slice, not a file to be skipped.
_SCAN_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "20", "128", "130"))

#: Endings that DICOM files without the "DICM" mark (PS3.10 section 7.1) are known by.
_ENDINGS = frozenset({"", ".dcm", ".dicom", ".ima", ".img"})


@dataclass(frozen=True)
class Place:
    """Where a slice lies in the patient (PS3.3 C.7.6.2).

    Parameters
    ----------
    position : numpy.ndarray
        (3,) ImagePositionPatient: centre of the first pixel, LPS millimetres.
    axes : numpy.ndarray
        (3, 3) unit columns: direction along a row (x), along a column (y), and their normal.
    spacing : tuple of float
        PixelSpacing: between rows (y), then between columns (x), in millimetres.
    """

    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]

    @property
    def plane(self) -> str:
        """Name of the nearest anatomical plane."""
        return ("sagittal", "coronal", "axial")[int(np.abs(self.axes[:, 2]).argmax())]


@dataclass(frozen=True)
class SliceHeader:
    """One slice: what it belongs to, and where it lies.

    Parameters
    ----------
    file : Path
        File that holds it.
    frame : int or None
        Position in a multi-frame file; ``None`` in a file of its own.
    series, instance : str
        SeriesInstanceUID and SOPInstanceUID.
    description, modality, acquisition : str
        SeriesDescription, Modality and AcquisitionNumber, empty when absent.
    shape : tuple of int
        Rows and columns.
    samples : int
        SamplesPerPixel: 1 for gray, 3 for color.
    dtype : numpy.dtype
        Type of the voxels after the rescaling to Hounsfield units.
    stored_bytes : int
        Bytes of the uncompressed pixels of its file.
    place : Place or None
        Where it lies; ``None`` when it does not say so completely.
    """

    file: Path
    frame: int | None
    series: str
    instance: str
    description: str
    modality: str
    acquisition: str
    shape: tuple[int, int]
    samples: int
    dtype: np.dtype
    stored_bytes: int
    place: Place | None


@dataclass(frozen=True)
class Scan:
    """What was found in a folder.

    Parameters
    ----------
    slices : tuple of SliceHeader
        Of every series, in no order.
    files : int
        Files that were looked at.
    skipped : tuple of Path
        Files that look like DICOM by their ending, but are not.
    """

    slices: tuple[SliceHeader, ...]
    files: int
    skipped: tuple[Path, ...]


def is_dicom_file(path: Path) -> bool:
    """Whether the file bears the DICOM mark, or is one by its ending and content."""
    return _has_mark(path) or (path.suffix.lower() in _ENDINGS and bool(_read_slices(path)))


def scan_folder(folder: Path, recursive: bool = True) -> Scan:
    """Read the header of every DICOM image in a folder, sub-folders included.

    Files of any name are tried; hidden files, directories of media (DICOMDIR), objects without
    pixels and segmentations are left out.

    Raises
    ------
    ImageError
        When the folder cannot be listed, or the file of a scan is damaged.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"'{error.filename}' cannot be read: {error.strerror}.", "Check its permissions.") from error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        named = (Path(parent) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR")
        files += [file for file in named if file.is_file()]
    # GDCM parses while Python waits for no lock: two threads take two thirds of the time of one.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_read_slices, files))
    slices = tuple(item for items in found for item in items or () if item.modality not in _NOT_SCANS)
    skipped = tuple(
        file for file, items in zip(files, found, strict=True) if items is None and file.suffix.lower() == ".dcm"
    )
    return Scan(slices, len(files), skipped)


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise ImageError(f"'{path}' cannot be read: {error.strerror}.", "Check its permissions.") from error


def _read_slices(path: Path) -> tuple[SliceHeader, ...] | None:
    """Read the slices of one file: none when it holds no picture, ``None`` when it is no DICOM file."""
    marked = _has_mark(path)
    if not marked and path.suffix.lower() not in _ENDINGS:
        return None
    itk = simpleitk()
    reader = itk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if not marked:
            return None
        if any(f"{_storage_class(path)}.".startswith(f"{scan}.") for scan in _SCAN_CLASSES):
            raise ImageError(
                f"The DICOM file '{path}' is damaged or truncated ({itk_reason(error)}).",
                "Copy it again, or move it away if it belongs to another series.",
            ) from error
        return ()
    header = _header(path, _tags(reader), _dtype(reader))
    frames = int(_tags(reader)("0028|0008") or 1)
    if frames > 1 and header.modality not in _NOT_SCANS:
        return _read_frames(header, frames)
    return (header,)


def _tags(reader: Any) -> Callable[[str], str]:
    """Return a function that gives a tag of the header as text, empty when it is absent."""

    def tag(key: str) -> str:
        if not reader.HasMetaDataKey(key):
            return ""
        text: str = reader.GetMetaData(key)
        try:
            text.encode()
        except UnicodeEncodeError:  # text in another character set than UTF-8
            text = text.encode("utf-8", "surrogateescape").decode("latin-1")
        return text.strip(" \0")

    return tag


def _dtype(reader: Any) -> np.dtype:
    itk = simpleitk()
    types = {
        itk.sitkUInt8: np.uint8,
        itk.sitkInt8: np.int8,
        itk.sitkUInt16: np.uint16,
        itk.sitkInt16: np.int16,
        itk.sitkUInt32: np.uint32,
        itk.sitkInt32: np.int32,
    }
    return np.dtype(types.get(reader.GetPixelID(), np.float32))


def _header(path: Path, tag: Callable[[str], str], dtype: np.dtype) -> SliceHeader:
    def numbers(key: str) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in tag(key).split("\\") if part)
        except ValueError as error:
            raise ImageError(
                f"The DICOM file '{path}' has '{tag(key)}' in its field ({key}).", "Repair or leave out the file."
            ) from error

    rows, columns, samples = (int(tag(key) or 1) for key in ("0028|0010", "0028|0011", "0028|0002"))
    bits, frames = int(tag("0028|0100") or 16), int(tag("0028|0008") or 1)
    return SliceHeader(
        file=path,
        frame=None,
        series=tag("0020|000e"),
        instance=tag("0008|0018"),
        description=tag("0008|103e"),
        modality=tag("0008|0060"),
        acquisition=tag("0020|0012"),
        shape=(rows, columns),
        samples=samples,
        dtype=dtype,
        stored_bytes=rows * columns * samples * frames * bits // 8,
        place=_place(path, numbers("0020|0032"), numbers("0020|0037"), numbers("0028|0030")),
    )


def _place(
    path: Path, position: tuple[float, ...], orientation: tuple[float, ...], spacing: tuple[float, ...]
) -> Place | None:
    """Build a place from its attributes, ``None`` when one is absent.

    Raises
    ------
    ImageError
        When the attributes are there but describe no plane.
    """
    if not (position and orientation and spacing):
        return None
    if (len(position), len(orientation), len(spacing)) == (3, 6, 2) and min(spacing) > 0:
        row, column = np.reshape(orientation, (2, 3))
        axes = np.stack([row, column, np.cross(row, column)], axis=1)
        lengths = np.linalg.norm(axes, axis=0)
        if np.all(np.isfinite([*position, *lengths])) and lengths.min() > 0.5:
            return Place(np.asarray(position), axes / lengths, (spacing[0], spacing[1]))
    raise ImageError(
        f"The DICOM file '{path}' lies nowhere: position {position}, orientation {orientation}, "
        f"pixel spacing {spacing}.",
        "Repair or leave out the file.",
    )


def refuse_short_pixels(header: SliceHeader) -> None:
    """Refuse a file whose uncompressed pixels are fewer than its header says: GDCM makes up the rest.

    The pixel element is looked for as explicit little endian writes it (PS3.5 7.1.2), which is how
    nearly every series is stored; its last occurrence is the image, earlier ones are icons.

    Raises
    ------
    ImageError
        When pixels are missing.
    """
    content = header.file.read_bytes()
    at = max(content.rfind(b"\xe0\x7f\x10\x00" + kind + b"\0\0") for kind in (b"OW", b"OB"))
    length = int.from_bytes(content[at + 8 : at + 12], "little")
    if at >= 0 and length < header.stored_bytes:  # compressed pixels have the length 0xFFFFFFFF
        raise ImageError(
            f"The DICOM file '{header.file}' is truncated: it holds {length} of {header.stored_bytes} bytes of pixels.",
            "Copy it again.",
        )


def _storage_class(path: Path) -> str:
    """Read MediaStorageSOPClassUID from the file meta group, always explicit little endian (PS3.10 7.1)."""
    with path.open("rb") as file:
        meta = file.read(1024)
    at = meta.find(b"\x02\x00\x02\x00UI")
    if at < 0:
        return ""
    length = int.from_bytes(meta[at + 6 : at + 8], "little")
    return meta[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")


def _read_frames(header: SliceHeader, frames: int) -> tuple[SliceHeader, ...]:
    """Read the places of the frames of an enhanced object from its functional groups (PS3.3 C.7.6.16).

    Raises
    ------
    ImageError
        When pydicom is missing, frames are not described, or they differ in their rescaling, which
        GDCM ignores.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImageError(
            f"'{header.file}' holds {frames} slices in one DICOM file, which needs pydicom.",
            "Install it with: pip install 'partialseg[dicom]'.",
        ) from error
    document = pydicom.dcmread(header.file, stop_before_pixels=True)
    shared = (document.get("SharedFunctionalGroupsSequence") or [{}])[0]
    each = document.get("PerFrameFunctionalGroupsSequence") or [{}] * frames

    def values(group: Any, macro: str, name: str) -> tuple[float, ...]:
        for owner in (group, shared):
            items = owner.get(macro)
            if items and items[0].get(name) is not None:
                return tuple(float(value) for value in np.atleast_1d(items[0].get(name)))
        return ()

    rescaling = "PixelValueTransformationSequence"
    rescales = {(values(g, rescaling, "RescaleSlope"), values(g, rescaling, "RescaleIntercept")) for g in each}
    if len(each) != frames:
        raise ImageError(
            f"'{header.file}' holds {frames} slices, but places {len(each)} of them.", "Export the series again."
        )
    if len(rescales) > 1:
        raise ImageError(
            f"'{header.file}' rescales each of its {frames} frames differently.",
            "Convert it to single-frame DICOM, for example with dcm4che's emf2sf.",
        )
    return tuple(
        replace(
            header,
            frame=index,
            place=_place(
                header.file,
                values(group, "PlanePositionSequence", "ImagePositionPatient"),
                values(group, "PlaneOrientationSequence", "ImageOrientationPatient"),
                values(group, "PixelMeasuresSequence", "PixelSpacing"),
            ),
        )
        for index, group in enumerate(each)
    )


def series_of(slices: Iterable[SliceHeader]) -> dict[str, list[SliceHeader]]:
    """Group slices by their SeriesInstanceUID, in order of the UID."""
    groups: dict[str, list[SliceHeader]] = {}
    for item in slices:
        groups.setdefault(item.series, []).append(item)
    return dict(sorted(groups.items()))
