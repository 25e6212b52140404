"""How a folder of DICOM files becomes one volume: which series, and its voxels.

The headers come from ``dicomheaders.py``, order and grid from ``dicomgrid.py``. Called by
:func:`~PartialSegLib.images.read_image`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from PartialSegLib.errors import ImageError
from PartialSegLib.imagefiles.dicomgrid import arrange
from PartialSegLib.imagefiles.dicomheaders import Scan, SliceHeader, refuse_short_pixels, scan_folder, series_of
from PartialSegLib.imagefiles.itk import itk_reason, simpleitk
from PartialSegLib.images import Image


def read_dicom(path: Path, series: str | None = None) -> Image:
    """Read one DICOM series as a volume.

    Parameters
    ----------
    path : Path
        Folder (searched with its sub-folders), its DICOMDIR, or one file of the series.
    series : str, optional
        SeriesInstanceUID, a unique beginning of it, or the series description in any letter case.

    Returns
    -------
    Image
        Voxels in Hounsfield units, int16 where they fit, float32 where the rescaling is not whole.
        Slices ascend along their normal; ``dicom_files[i]`` is the file of ``voxels[i]``, except
        that there are none for multi-frame files.

    Raises
    ------
    ImageError
        When there is no series, or none was chosen of several; when a file is damaged; and when
        the slices form no grid (see :func:`~PartialSegLib.imagefiles.dicomgrid.arrange`).
    """
    is_file = path.is_file() and path.name != "DICOMDIR"
    folder = path if path.is_dir() else path.parent
    scan = scan_folder(folder, recursive=not is_file)
    if is_file and series is None:
        series = next((item.series for item in scan.slices if item.file == path), None)
        if series is None:
            raise ImageError(f"The DICOM file '{path}' holds no scan.", "Give a file of a CT or MR series.")
    slices, notes = _choose(scan, folder, series)
    slices, copies = _without_copies(slices)
    name = f"The series '{slices[0].description or slices[0].series}' in '{folder}'"
    ordered, geometry, tolerated = arrange(slices, name)
    files = tuple(item.file for item in ordered if item.frame is None)
    return Image(
        _read_pixels(ordered, geometry.shape),
        geometry,
        path,
        files if len(files) == len(ordered) else (),
        notes + copies + tolerated,
    )


def _choose(scan: Scan, folder: Path, wanted: str | None) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Pick the wanted series, or the only one that is a volume; say what was left out."""
    groups = series_of(scan.slices)
    notes: tuple[str, ...] = ()
    if scan.skipped:
        names = ", ".join(file.name for file in scan.skipped[:3])
        notes = (f"Left out, being no DICOM in spite of the name: {names} ({len(scan.skipped)} in all).",)
    if not groups:
        found = f"none of its {scan.files} files is one" if scan.files else "it is empty"
        raise ImageError(f"The folder '{folder}' holds no DICOM scan: {found}.", "Give the folder of the scan.")
    if wanted is not None:
        return groups[_match(groups, folder, wanted)], notes
    if len(groups) == 1:
        return next(iter(groups.values())), notes
    volumes = [items for items in groups.values() if len(items) > 1 and all(item.place for item in items)]
    if len(volumes) != 1:
        raise ImageError(f"The folder '{folder}' holds {len(groups)} DICOM series.", _listing(groups))
    others = [_describe(items) for items in groups.values() if items is not volumes[0]]
    return volumes[0], (*notes, f"Series that are no volume were left out: {'; '.join(others)}.")


def _match(groups: dict[str, list[SliceHeader]], folder: Path, wanted: str) -> str:
    """Return the UID of the series that `wanted` names."""
    if wanted in groups:
        return wanted
    name = wanted.strip().lower()
    found = [uid for uid in groups if name and uid.startswith(name)]
    found = found or [uid for uid, items in groups.items() if items[0].description.lower() == name]
    if len(found) == 1:
        return found[0]
    fault = f"{len(found)} series" if found else "no series"
    raise ImageError(f"The folder '{folder}' holds {fault} '{wanted}'.", _listing(groups))


def _listing(groups: dict[str, list[SliceHeader]]) -> str:
    lines = [f"  {uid}  {_describe(items)}" for uid, items in groups.items()]
    return "\n".join(["Choose one with --series UID:", *lines])


def _describe(items: Sequence[SliceHeader]) -> str:
    first = items[0]
    count = f"{len(items)} slices" if len(items) > 1 else "1 slice"
    plane = first.place.plane if first.place else "without place"
    return f"{first.modality or 'unknown modality'}, {count}, {plane}, '{first.description}'"


def _without_copies(slices: list[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Drop files that are copies of another (one SOPInstanceUID), keeping the first."""
    unique: dict[tuple[str, int | None], SliceHeader] = {}
    for item in slices:
        unique.setdefault((item.instance or str(item.file), item.frame), item)
    copies = len(slices) - len(unique)
    if not copies:
        return slices, ()
    return list(unique.values()), (f"{copies} slices were there twice; the copies were left out.",)


def _read_pixels(ordered: Sequence[SliceHeader], shape: tuple[int, int, int]) -> np.ndarray:
    """Read the slices, each with its own rescaling, into a (z, y, x) array.

    ITK's own series reader squeezes every slice into the type of the first one, which cuts
    fractions and wraps values round where the rescaling differs between slices, as it does in PET.
    """
    common = np.result_type(*{item.dtype for item in ordered})
    voxels = np.empty(shape, common if common.kind in "iu" and common.itemsize <= 4 else np.float32)
    places: dict[Path, list[int]] = {}
    for index, item in enumerate(ordered):
        places.setdefault(item.file, []).append(index)

    def fill(file: Path) -> None:
        itk = simpleitk()
        refuse_short_pixels(ordered[places[file][0]])
        try:
            volume = itk.ReadImage(str(file), imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise ImageError(
                f"The pixels of the DICOM file '{file}' cannot be decoded ({itk_reason(error)}).",
                "Copy it again, or decompress it, for example with gdcmconv --raw.",
            ) from error
        pixels = itk.GetArrayViewFromImage(volume)
        for index in places[file]:
            voxels[index] = pixels[ordered[index].frame or 0]

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        # Asking for the results passes on the first error.
        list(pool.map(fill, places))
    return _narrowed(voxels)


def _narrowed(voxels: np.ndarray) -> np.ndarray:
    """Halve the memory of int32 voxels that fit int16: GDCM widens every unsigned CT for safety."""
    limits = np.iinfo(np.int16)
    if voxels.dtype == np.int32 and voxels.min() >= limits.min and voxels.max() <= limits.max:
        return voxels.astype(np.int16)
    return voxels
